"""Column names and Arrow schemas of prepared data: the contract of DESIGN §2 in one place."""

import pyarrow as pa

ID = "id"
SOURCE = "source"
MESSAGES = "messages"
TEXT = "text"
REJECTED = "rejected"
LABEL = "label"
WEIGHT = "weight"
SUBJECT = "subject"
SUBJECT_FOLDED = "subject_folded"
"""Keyed hash of the subject's key without case, accents, leading zeros, blanks and the like: see `near_keys`."""
METADATA = "metadata"
TOOLS = "tools"

CONTENT, REASONING, NAME = "content", "reasoning_content", "name"
TOOL_CALLS, TOOL_CALL_ID, TRAIN_TURN = "tool_calls", "tool_call_id", "train"

ROW = "row_key"
"""uint64, internal: number of the source among the sorted sources (24 bits), then the position in it (40 bits)."""
DERIVED = "id_derived"
"""bool, internal: the id was made from content and position, so it holds no PII."""
POSITION = "position"
STAGE = "stage"
REASON = "reason"
KEEPER_ID = "keeper_id"
SCORE = "score"
KEEPER_ROW = "keeper_row"
KEEPER_DERIVED = "keeper_derived"
ERROR = "error"
CONTENT_HASH = "content_hash"
RAW = "raw"
FINDINGS = "findings"
LEFT_OUT = "left_out"

NO_NER = "no_ner"
"""Internal: the language of a record that no NER model could read."""

SPLITS = ("train", "val", "test")

TOOL_CALL_TYPE = pa.struct(
    [
        ("id", pa.string()),
        ("type", pa.string()),
        ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),
    ]
)
"""A call that the assistant makes. `arguments` is JSON text, as the model wrote it."""
MESSAGE_TYPE = pa.struct(
    [
        ("role", pa.string()),
        (CONTENT, pa.string()),
        (REASONING, pa.string()),
        (NAME, pa.string()),
        (TOOL_CALLS, pa.list_(TOOL_CALL_TYPE)),
        (TOOL_CALL_ID, pa.string()),
        (TRAIN_TURN, pa.bool_()),
    ]
)
"""A turn. `role`: system, developer, user, assistant or tool. `content` is null only beside `tool_calls`.
`tool_call_id`: which call a tool's turn answers. `train`: false for an assistant's turn that is never learnt."""
RECORD = pa.schema(
    [
        (ID, pa.string()),
        (SOURCE, pa.string()),
        (MESSAGES, pa.list_(MESSAGE_TYPE)),
        (TEXT, pa.string()),
        (REJECTED, pa.string()),
        (LABEL, pa.string()),
        (WEIGHT, pa.float32()),
        (SUBJECT, pa.string()),
        (METADATA, pa.string()),
        (TOOLS, pa.string()),
    ]
)
"""A canonical record: `messages` or `text` is null. `metadata` is JSON, `tools` a JSON array of the tools defined for
the conversation. `rejected`: beside a last answer of the assistant the worse one to it; where `messages` end with the
prompt, an undesirable answer alone (KTO). Datasets of earlier versions lack `tools` and all fields of messages but
`role` and `content`: `records.conform` reads both."""

IDENTITY = pa.schema(
    [
        (ROW, pa.uint64()),
        (ID, pa.string()),
        (DERIVED, pa.bool_()),
        (SOURCE, pa.string()),
        (LABEL, pa.string()),
        (SUBJECT, pa.string()),
        (SUBJECT_FOLDED, pa.string()),
    ]
)
"""Which record a row of hashes or a decision is about."""

DROPPED = pa.schema(
    [
        (ID, pa.string()),
        (SOURCE, pa.string()),
        (STAGE, pa.string()),
        (REASON, pa.string()),
        (KEEPER_ID, pa.string()),
        (SCORE, pa.float32()),
    ]
)
FINDING_TYPE = pa.struct(
    [
        ("field", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("entity", pa.string()),
        ("score", pa.float32()),
        ("replacement", pa.string()),
    ]
)
"""A value that was replaced. `field` is `text`, `rejected`, `label`, `messages[i].content`, `.reasoning_content`,
`.name`, `.tool_call_id`, `messages[i].tool_calls[j].id`, `.function.name` or `.function.arguments`, `metadata` or
`tools`. Where `metadata`, `tools` or arguments are JSON, a JSON pointer to the value follows, and `start` and `end` are
characters of that value (of the key that the pointer ends with, where `#` stands behind it). Elsewhere, JSON inside a
text among it, they are characters of the canonical field. A pointer has keys as they are stored, so it names nobody."""
REDACTIONS = pa.schema([(ID, pa.string()), *FINDING_TYPE])
QUARANTINE = pa.schema(
    [
        (SOURCE, pa.string()),
        (POSITION, pa.int64()),
        (CONTENT_HASH, pa.string()),
        (ERROR, pa.string()),
        (RAW, pa.binary()),
    ]
)
"""`position`: byte offset in a JSONL file (after decompression), row number in others. `raw` is null unless
`quarantine.keep_raw`."""

LINEAGE = pa.schema(
    [
        (ID, pa.string()),
        (SOURCE, pa.string()),
        (POSITION, pa.int64()),
        (SUBJECT, pa.string()),
        ("place", pa.string()),
        (STAGE, pa.string()),
        ("num_redactions", pa.int32()),
        (SUBJECT_FOLDED, pa.string()),
    ]
)
"""Where every input row ended, sorted by id, source and position. `place`: a split, `dropped` or `quarantine`; `stage`:
what dropped it. The n-th dropped row here is the n-th of `dropped.parquet`, and the rows of `redactions.parquet` come
in the same order, `num_redactions` of each: rows that share an id can be told apart."""
IN_DROPPED, IN_QUARANTINE = "dropped", "quarantine"

READ = pa.schema(
    [
        (ROW, pa.uint64()),
        (DERIVED, pa.bool_()),
        *RECORD,
        (SUBJECT_FOLDED, pa.string()),
        (ERROR, pa.string()),
        (CONTENT_HASH, pa.string()),
        (RAW, pa.binary()),
        (LEFT_OUT, pa.string()),
    ]
)
"""What readers emit: a canonical record, or, where `error` is not null, a row for quarantine. `left_out`: on the first
row of a table, what `data.leftout` counted in all of its rows."""

PROCESSED = pa.schema(
    [*READ, (STAGE, pa.string()), (REASON, pa.string()), (FINDINGS, pa.list_(FINDING_TYPE)), (NO_NER, pa.string())]
)
"""After redaction and filters: `stage` and `reason` are null for rows that are kept."""

ROW_POSITION_BITS = 40
MAX_SOURCES = 1 << (64 - ROW_POSITION_BITS)
MAX_POSITION = (1 << ROW_POSITION_BITS) - 1
