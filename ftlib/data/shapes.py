"""From a raw row of any supported shape to the content of a canonical record.

In: one row as a mapping of columns. Out: `Content`, or a `RowError` whose `error` class names what is wrong without
quoting it. A file has a shape, detected from its first rows or set; where it is detected, a row that has the columns of
another shape only has that one. Columns and keys that no record carries on are counted in `Content.left_out`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ftlib.config.prepare import InputConfig, TemplateConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.conversation import Message, check_conversation
from ftlib.data.dialogue import (
    Content,
    Row,
    from_conversations,
    from_messages,
    has_turns,
    instruction_and,
    pair_of,
    prompt_completion,
    text_of,
)
from ftlib.data.leftout import is_nothing, num_chars, shown_names
from ftlib.data.preference import kto, preference, preferred_output, truth_of, turn_undesirable
from ftlib.data.records import INSTRUCTING
from ftlib.data.values import RowError, as_key, as_text, is_blank

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
LANGUAGE = "language"
VERDICT = "kto_tag"
"""LLaMA-Factory's column that says of a row of any shape whether its answer is desirable."""
_COMMON_COLUMNS = {"id", "weight", "metadata"}
_MEDIA = ("image", "audio", "video")


def _has(row: Row, *names: str) -> bool:
    """Whether a row has these columns; one that is null or empty in it counts as absent."""
    for name in names:
        value = row.get(name)
        # Plain text, which almost all columns are, is not looked at any further.
        if not value if value.__class__ is str else is_nothing(value):
            return False
    return True


_DETECTORS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("preference", lambda row: _has(row, "chosen", "rejected") or _has(row, "input", "output", "negative")),
    ("preferred_output", lambda row: _has(row, "input", "preferred_output", "non_preferred_output")),
    ("messages", lambda row: has_turns(row, "messages")),
    ("conversations", lambda row: has_turns(row, "conversations") or has_turns(row, "conversation")),
    ("instruction_output", lambda row: _has(row, "instruction", "output")),
    ("instruction_response", lambda row: _has(row, "instruction", "response")),
    ("kto", lambda row: _has(row, "prompt", "completion") and truth_of(row.get("label")) is not None),
    ("prompt_completion", lambda row: _has(row, "prompt", "completion")),
    ("input_output", lambda row: _has(row, "input", "output")),
    ("text", lambda row: _has(row, "text")),
)
_MATCHES = dict(_DETECTORS)


def shape_of(row: Row) -> str | None:
    """The shape whose columns a row has."""
    return next((shape for shape, matches in _DETECTORS if matches(row)), None)


def row_shape(row: Row, shape: str, config: InputConfig) -> str:
    """The shape of one row of a file of the given shape: its own, where it has not the file's columns but another's."""
    if config.shape != "auto" or shape not in _MATCHES:
        return shape
    if shape == "prompt_completion" and _MATCHES["kto"](row):
        return "kto"  # most rows may lack the verdict, but no bad answer may pass for a good one
    return shape if _MATCHES[shape](row) else shape_of(row) or shape


def resolve_shape(source: str, rows: Sequence[Row], config: InputConfig) -> str:
    """The shape of a file from its first readable rows; raises UserError when it is none that is known."""
    columns = sorted({column for row in rows for column in row})
    if not rows:
        raise UserError(
            f"{source}: no readable record at its beginning; JSONL needs one JSON object a line "
            "(a JSON array: jq -c '.[]' FILE), CSV a header"
        )
    if config.template is not None:
        return _check_template(source, config.template, columns)
    if config.shape == "template":
        raise UserError("input.shape is template, but input.template is not given")
    if config.shape != "auto":
        return config.shape
    counts = Counter(shape for row in rows if (shape := shape_of(row)))
    # Where no row is complete, the columns alone tell what the rows lack.
    counts = counts or Counter(shape for row in rows if (shape := shape_of(dict.fromkeys(row, True))))
    if not counts:
        raise UserError(
            f"{source}: unknown shape; its columns are: {shown_names(columns)}. Known are "
            f"{', '.join(name for name, _ in _DETECTORS)}; for other columns give input.template, "
            'for example {user: "{question}", assistant: "{answer}"}'
        )
    return counts.most_common(1)[0][0]


def _check_template(source: str, template: TemplateConfig, columns: Sequence[str]) -> str:
    parts = (template.user, template.assistant, template.system or "")
    wanted = {name for part in parts for name in _PLACEHOLDER.findall(part)}
    missing = sorted(name for name in wanted if name.split(".", 1)[0] not in columns and name not in columns)
    if missing:
        raise UserError(
            f"{source}: input.template names {', '.join(missing)}, but the columns are: {shown_names(columns)}"
        )
    return "template"


def to_content(row: Row, shape: str, config: InputConfig) -> Content:
    """Build a record's content; raises RowError."""
    shape = row_shape(row, shape, config)
    content = _BUILDERS[shape](row, config)
    verdict = None if shape == "canonical" else _verdict(row, shape, config)
    if verdict is False:
        turn_undesirable(content)
    if content.messages is not None:
        alone = content.rejected is not None and (verdict is False or shape in _BAD_ANSWERS)
        check_conversation(content.messages, answered=not alone)
        if config.system_prompt and content.messages[0]["role"] not in INSTRUCTING:
            content.messages.insert(0, {"role": "system", s.CONTENT: config.system_prompt})
    elif not (content.text or "").strip():
        raise RowError("empty_text")
    if content.rejected is not None and not content.rejected.strip():
        raise RowError("empty_answer")
    content.id = as_key(row.get("id"), "bad_id") or None
    if config.label_column != s.LABEL or not (shape == "kto" or _judges(row, shape)):
        content.label = as_key(_lookup(row, config.label_column), "bad_label") or None
    content.weight = _weight(row.get("weight"))
    content.metadata = _metadata(row.get("metadata"))
    used = content.used
    used |= _COMMON_COLUMNS
    used |= {config.label_column.partition(".")[0], config.subject_column.partition(".")[0]}
    if isinstance(row.get(LANGUAGE), str) and isinstance(content.metadata, dict):
        content.metadata = {LANGUAGE: row[LANGUAGE], **content.metadata}
        if content.metadata[LANGUAGE] == row[LANGUAGE]:
            used.add(LANGUAGE)
    if shape != "canonical" and truth_of(row.get(VERDICT)) is not None:
        used.add(VERDICT)
    for name, value in () if row.keys() <= used else row.items():
        if name not in used and not is_nothing(value):
            if (kind := name.rstrip("s")) in _MEDIA and _refers_to(content, kind):
                raise RowError(f"{kind}_content")
            content.left_out[name] += num_chars(value)
    return content


def _judges(row: Row, shape: str) -> bool:
    """Whether a boolean `label` beside messages says if their last answer is desirable, as in LLaMA-Factory's files."""
    return shape in ("messages", "conversations") and isinstance(row.get(s.LABEL), bool)


def _verdict(row: Row, shape: str, config: InputConfig) -> bool | None:
    """Whether the last answer is desirable, where the row says so beside its conversation."""
    verdict = truth_of(row.get(VERDICT))
    if verdict is None and config.label_column == s.LABEL and _judges(row, shape):
        return truth_of(row[s.LABEL])
    return verdict


def _refers_to(content: Content, kind: str) -> bool:
    """Whether a text has a placeholder (`<image>`) for what stands in another column."""
    texts = [content.text, *(message[s.CONTENT] for message in content.messages or ())]
    return any(f"<{kind}>" in text for text in texts if text)


def subject_of(row: Row, config: InputConfig) -> str | None:
    """The data subject's key of a row of any shape; None without one. Raises RowError where it is no plain value."""
    return as_key(_lookup(row, config.subject_column), "bad_subject") or None


_TOOLS = {s.TOOLS, "functions"}
_COLUMNS: dict[str, set[str]] = {
    "messages": {"messages", "system", *_TOOLS},
    "conversations": {"conversations", "conversation", "system", *_TOOLS},
    "preference": {
        "prompt", "instruction", "question", "input", "output", "chosen", "rejected", "negative", "messages",
        "conversations",
        "system",
        "history",
        "context", *_TOOLS,
    },
    "preferred_output": {"input", "preferred_output", "non_preferred_output", *_TOOLS},
    "instruction_output": {"instruction", "context", "input", "output", "negative", "system", "history"},
    "instruction_response": {"instruction", "context", "input", "response", "negative", "system", "history"},
    "prompt_completion": {"prompt", "completion", "negative", "system", "history", *_TOOLS},
    "kto": {"prompt", "completion", "label", "system", "history", *_TOOLS},
    "input_output": {"input", "output", "negative", "system", "history"},
    "text": {"text"},
    "canonical": {"messages", "text", "rejected", s.TOOLS, s.SOURCE},
}  # fmt: skip
"""Shape → columns that its records are made of."""
_BAD_ANSWERS = ("kto", "canonical")
"""Shapes that can hold an undesirable answer alone."""


def used_columns(shape: str, config: InputConfig) -> set[str]:
    """Columns that may end up in the record; the others are left out."""
    used = _COMMON_COLUMNS | {LANGUAGE, VERDICT, config.label_column.split(".")[0], config.subject_column.split(".")[0]}
    if shape == "template" and config.template:
        parts = (config.template.user, config.template.assistant, config.template.system or "")
        return used | {name.split(".", 1)[0] for part in parts for name in _PLACEHOLDER.findall(part)}
    return used | _COLUMNS[shape]


def readable_columns(shape: str, config: InputConfig) -> set[str]:
    """Columns that may end up in a record of a file of this shape; rows of another shape have others."""
    shapes = {shape, *_MATCHES} if config.shape == "auto" and shape in _MATCHES else {shape}
    return set().union(*(used_columns(each, config) for each in shapes))


def _from_text(row: Row, config: InputConfig) -> Content:
    return Content(text=text_of(row, "text"), used={"text"})


def _canonical(row: Row, config: InputConfig) -> Content:
    """A record as `jobs.prepare` writes it: `messages` or `text`, perhaps `rejected` and `tools`."""
    content = _from_text(row, config) if row.get("messages") is None else from_messages(row, config)
    content.rejected = None if row.get("rejected") is None else text_of(row, "rejected")
    # `source` is made anew from the file's name.
    content.used |= {"rejected", s.TOOLS, s.SOURCE}
    return content


def _from_template(row: Row, config: InputConfig) -> Content:
    template = config.template
    assert template is not None

    def fill(pattern: str) -> str:
        return _PLACEHOLDER.sub(lambda match: as_text(_lookup(row, match.group(1))), pattern)

    messages: list[Message] = [
        {"role": "user", s.CONTENT: fill(template.user)},
        {"role": "assistant", s.CONTENT: fill(template.assistant)},
    ]
    if template.system:
        messages.insert(0, {"role": "system", s.CONTENT: fill(template.system)})
    parts = (template.user, template.assistant, template.system or "")
    used = {name for part in parts for name in _PLACEHOLDER.findall(part)}
    return Content(messages=messages, used=used | {name.split(".", 1)[0] for name in used})


_BUILDERS: dict[str, Callable[[Row, InputConfig], Content]] = {
    "messages": from_messages,
    "conversations": from_conversations,
    "preference": preference,
    "preferred_output": preferred_output,
    "instruction_output": instruction_and("output"),
    "instruction_response": instruction_and("response"),
    "prompt_completion": prompt_completion,
    "kto": kto,
    "input_output": pair_of("input", "output"),
    "text": _from_text,
    "template": _from_template,
    "canonical": _canonical,
}


def _lookup(row: Row, path: str) -> Any:
    """A column, or a value inside one by a dotted path (`metadata.intent`)."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _weight(value: Any) -> float:
    if is_blank(value):
        return 1.0
    try:
        # What is stored is a float32: a weight that is infinite there would make a loss infinite.
        with np.errstate(over="ignore"):
            weight = float(np.float32(float(value)))
    except (TypeError, ValueError, OverflowError):
        raise RowError("bad_weight") from None
    if not math.isfinite(weight) or weight < 0:
        raise RowError("bad_weight")
    return weight


def _metadata(value: Any) -> Any:
    """Any JSON value; a string that holds JSON (as from CSV) is read."""
    if is_blank(value):
        return {}
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
