"""From a raw row of any supported shape to the content of a canonical record.

In: one row as a mapping of columns. Out: `Content`, or a `RowError` whose `error` class names what is wrong without
quoting it. The shape is one for each file: detected from its first rows, or set.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ftlib.config.prepare import InputConfig, TemplateConfig
from ftlib.core.errors import UserError
from ftlib.data.values import RowError, as_key, as_text, is_blank

Row = Mapping[str, Any]
Message = dict[str, str]
ROLES = ("system", "user", "assistant", "tool")

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
LANGUAGE = "language"
_COMMON_COLUMNS = {"id", "weight", "metadata", LANGUAGE}


@dataclass
class Content:
    """The content of a canonical record."""

    messages: list[Message] | None = None
    text: str | None = None
    rejected: str | None = None
    id: str | None = None
    label: str | None = None
    weight: float = 1.0
    subject: str | None = None
    metadata: Any = field(default_factory=dict)


def _has(row: Row, *names: str) -> bool:
    """Whether a row has these columns; a column that is null in it counts as absent."""
    return not any(is_blank(row.get(name)) for name in names)


_DETECTORS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("messages", lambda row: _has(row, "messages")),
    ("preference", lambda row: _has(row, "chosen", "rejected") or _has(row, "input", "output", "negative")),
    ("instruction_output", lambda row: _has(row, "instruction", "output")),
    ("instruction_response", lambda row: _has(row, "instruction", "response")),
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
    if config.shape != "auto" or shape not in _MATCHES or _MATCHES[shape](row):
        return shape
    return shape_of(row) or shape


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
            f"{source}: unknown shape; its columns are: {', '.join(columns) or '(none)'}. Known are "
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
            f"{source}: input.template names {', '.join(missing)}, but the columns are: {', '.join(columns)}"
        )
    return "template"


def to_content(row: Row, shape: str, config: InputConfig) -> Content:
    """Build a record's content; raises RowError."""
    content = _BUILDERS[row_shape(row, shape, config)](row, config)
    if content.messages is not None:
        _check_messages(content.messages)
        if config.system_prompt and content.messages[0]["role"] != "system":
            content.messages.insert(0, {"role": "system", "content": config.system_prompt})
    elif not (content.text or "").strip():
        raise RowError("empty_text")
    content.id = as_key(row.get("id"), "bad_id") or None
    content.label = as_key(_lookup(row, config.label_column), "bad_label") or None
    content.subject = as_key(_lookup(row, config.subject_column), "bad_subject") or None
    content.weight = _weight(row.get("weight"))
    content.metadata = _metadata(row.get("metadata"))
    if isinstance(row.get(LANGUAGE), str) and isinstance(content.metadata, dict):
        content.metadata = {LANGUAGE: row[LANGUAGE], **content.metadata}
    return content


def subject_of(row: Row, config: InputConfig) -> str | None:
    """The data subject's key of a row of any shape; None without one, or where it is no plain value."""
    try:
        return as_key(_lookup(row, config.subject_column), "bad_subject") or None
    except RowError:
        return None


def used_columns(shape: str, config: InputConfig) -> set[str]:
    """Columns that end up in the record; the others are left out."""
    used = _COMMON_COLUMNS | {config.label_column.split(".")[0], config.subject_column.split(".")[0]}
    if shape == "template" and config.template:
        parts = (config.template.user, config.template.assistant, config.template.system or "")
        return used | {name.split(".", 1)[0] for part in parts for name in _PLACEHOLDER.findall(part)}
    if shape == "canonical":
        return used | {"messages", "text", "rejected"}
    if shape == "instruction_output":
        return used | {"instruction", "input", "output", "negative"}
    if shape == "preference":
        return used | {"prompt", "instruction", "input", "output", "chosen", "rejected", "negative", "messages"}
    return used | set(shape.split("_")) | {"negative"}


def readable_columns(shape: str, config: InputConfig) -> set[str]:
    """Columns that may end up in a record of a file of this shape; rows of another shape have others."""
    shapes = {shape, *_MATCHES} if config.shape == "auto" and shape in _MATCHES else {shape}
    return set().union(*(used_columns(each, config) for each in shapes))


def _pair(user: str, assistant: str) -> Content:
    return Content(messages=[{"role": "user", "content": user}, {"role": "assistant", "content": assistant}])


def _pair_of(question: str, answer: str) -> Callable[[Row, InputConfig], Content]:
    def build(row: Row, config: InputConfig) -> Content:
        content = _pair(_text(row, question), _text(row, answer))
        if not is_blank(row.get("negative")):
            content.rejected = _text(row, "negative")
        return content

    return build


def _instruction_output(row: Row, config: InputConfig) -> Content:
    question = _text(row, "instruction")
    if not is_blank(row.get("input")):
        question = f"{question}\n\n{_text(row, 'input')}"
    content = _pair(question, _text(row, "output"))
    if not is_blank(row.get("negative")):
        content.rejected = _text(row, "negative")
    return content


def _from_messages(row: Row, config: InputConfig) -> Content:
    return Content(messages=_messages(row.get("messages")))


def _from_text(row: Row, config: InputConfig) -> Content:
    return Content(text=_text(row, "text"))


def _canonical(row: Row, config: InputConfig) -> Content:
    """A record as `jobs.prepare` writes it: `messages` or `text`, perhaps `rejected`."""
    content = _from_text(row, config) if row.get("messages") is None else _from_messages(row, config)
    content.rejected = None if row.get("rejected") is None else _text(row, "rejected")
    return content


def _preference(row: Row, config: InputConfig) -> Content:
    """`prompt`, `chosen`, `rejected` (each a string or messages), or `input`, `output`, `negative`."""
    if is_blank(row.get("chosen")) and not is_blank(row.get("negative")):
        content = _pair(_text(row, "input"), _text(row, "output"))
        content.rejected = _text(row, "negative")
        return content
    chosen, rejected = row.get("chosen"), row.get("rejected")
    prompt = next((row[name] for name in ("prompt", "instruction", "input") if not is_blank(row.get(name))), None)
    head = _messages(prompt) if isinstance(prompt, list) else None
    if isinstance(chosen, list):
        conversation, refused = _messages(chosen), _messages(rejected)
        if prompt is not None and len(conversation) == 1:
            conversation = [*(head or [{"role": "user", "content": as_text(prompt)}]), *conversation]
        return Content(messages=conversation, rejected=refused[-1]["content"])
    answer = {"role": "assistant", "content": as_text(chosen)}
    if head is not None:
        return Content(messages=[*head, answer], rejected=as_text(rejected))
    if prompt is not None:
        return Content(messages=[{"role": "user", "content": as_text(prompt)}, answer], rejected=as_text(rejected))
    return Content(text=as_text(chosen), rejected=as_text(rejected))


def _from_template(row: Row, config: InputConfig) -> Content:
    template = config.template
    assert template is not None

    def fill(pattern: str) -> str:
        return _PLACEHOLDER.sub(lambda match: as_text(_lookup(row, match.group(1))), pattern)

    content = _pair(fill(template.user), fill(template.assistant))
    if template.system and content.messages:
        content.messages.insert(0, {"role": "system", "content": fill(template.system)})
    return content


_BUILDERS: dict[str, Callable[[Row, InputConfig], Content]] = {
    "messages": _from_messages,
    "preference": _preference,
    "instruction_output": _instruction_output,
    "instruction_response": _pair_of("instruction", "response"),
    "prompt_completion": _pair_of("prompt", "completion"),
    "input_output": _pair_of("input", "output"),
    "text": _from_text,
    "template": _from_template,
    "canonical": _canonical,
}


def _text(row: Row, name: str) -> str:
    if name not in row:
        raise RowError("missing_column")
    return as_text(row[name])


def _messages(value: Any) -> list[Message]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError("bad_messages") from None
    if not isinstance(value, list) or not value:
        raise RowError("null_text" if value is None else "bad_messages")
    messages = []
    for item in value:
        if not isinstance(item, dict) or item.get("role") not in ROLES:
            raise RowError("bad_messages")
        messages.append({"role": item["role"], "content": as_text(item.get("content"))})
    return messages


def _check_messages(messages: Sequence[Message]) -> None:
    """A conversation needs something said by the user and something answered."""
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        raise RowError("no_assistant_message")
    if not all(answer.strip() for answer in answers):
        raise RowError("empty_answer")
    if not any(message["content"].strip() for message in messages if message["role"] != "assistant"):
        raise RowError("empty_input")


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
