"""Counts of blocks add up to the counts of the whole, and hold no text."""

import numpy as np
import pyarrow as pa

from ftlib.data import schema as s
from ftlib.data.facts import Counts, count_processed, length_facts, pii_facts, split_facts, stage_facts


def finding(entity, field, length=4):
    return {"field": field, "start": 3, "end": 3 + length, "entity": entity, "score": 0.9, "replacement": "[X]"}


def processed(rows):
    base = dict.fromkeys(s.PROCESSED.names) | {s.ID: "x", s.METADATA: "{}", s.FINDINGS: []}
    return pa.Table.from_pylist([{**base, s.ROW: i, **row} for i, row in enumerate(rows)], schema=s.PROCESSED)


CHAT = [{"role": "user", "content": "one two three"}, {"role": "assistant", "content": "four"}]
LINK = finding("URL", "messages[1].content")
ROWS = [
    {"messages": CHAT, "label": "a", "findings": [finding("PERSON", "messages[0].content"), LINK]},
    {"messages": CHAT, "label": "b", "findings": [finding("PERSON", "messages[0].content", 9)] * 2},
    {"text": "secret words", "findings": [finding("PERSON", "text"), finding("PERSON", "metadata/a")]},
    {"text": "gone", "stage": "filter", "reason": "too_short"},
    {"error": "bad_json"},
    {"error": "redaction_failed"},
]
SPLITS = np.array([0, 2, 0, -1, -1, -1])


def test_parts_add_up_to_the_whole():
    table = processed(ROWS)
    whole = count_processed(table, SPLITS)
    parts = [count_processed(table.slice(i, 1), SPLITS[i : i + 1]) for i in range(len(ROWS))]
    assert sum(parts, Counts()) == whole
    assert (whole.num_kept, whole.num_dropped, whole.num_quarantined) == (3, 1, 2)


def test_findings_by_entity_and_kind_of_field():
    facts = {(row["entity"], row["field"]): row for row in pii_facts(count_processed(processed(ROWS), SPLITS))}
    assert set(facts) == {
        ("PERSON", "messages.user"), ("URL", "messages.assistant"), ("PERSON", "text"), ("PERSON", "metadata"),
    }  # fmt: skip
    user = facts["PERSON", "messages.user"]
    assert (user["num_findings"], user["num_records"], user["sample_lengths_chars"]) == (3, 2, [9, 4])


def test_splits_stages_and_lengths():
    counts = count_processed(processed(ROWS), SPLITS)
    assert split_facts(counts)[0] == {"split": "train", "num_rows": 2, "labels": {"a": 1}}
    stages = {row["stage"]: row for row in stage_facts(counts, 6, ("redaction_failed",))}
    assert stages["read"] == {"stage": "read", "num_in": 6, "num_out": 5, "num_dropped": 0, "num_quarantined": 1}
    assert stages["redact"]["num_quarantined"] == 1 and stages["filter"]["num_out"] == 3
    lengths = {(row["field"], row["unit"]): row["percentiles"] for row in length_facts(counts)}
    assert lengths["input", "tokens"]["p50"] == 3 and lengths["text", "characters"]["max"] == 12
    assert "secret" not in str(counts)
