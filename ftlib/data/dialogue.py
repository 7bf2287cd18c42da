"""Builders of conversations: pairs of question and answer, lists of messages, prompts with completions.

In: one row as a mapping of columns. Out: `Content` with messages (`tools` where the row defines some), or `RowError`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftlib.config.prepare import InputConfig
from ftlib.data import schema as s
from ftlib.data.conversation import Left, Message, as_conversation, conversation, tools_json
from ftlib.data.leftout import is_nothing
from ftlib.data.records import INSTRUCTING
from ftlib.data.values import RowError, as_text, is_blank

Row = Mapping[str, Any]


@dataclass
class Content:
    """The content of a canonical record."""

    messages: list[Message] | None = None
    text: str | None = None
    rejected: str | None = None
    tools: str | None = None
    id: str | None = None
    label: str | None = None
    weight: float = 1.0
    subject: str | None = None
    metadata: Any = field(default_factory=dict)
    left_out: Left = field(default_factory=Counter)
    """Columns and keys that are not carried on, with the characters of their text."""


def text_of(row: Row, name: str) -> str:
    """Canonical text of a column; raises RowError where it is absent or null."""
    if name not in row:
        raise RowError("missing_column")
    return as_text(row[name])


def dialogue(row: Row, question: str, answer: str) -> Content:
    """`system` and the pairs of `history`, where there are any, then question and answer."""
    messages: list[Message] = []
    if not is_blank(row.get("system")):
        messages.append({"role": "system", s.CONTENT: as_text(row["system"])})
    messages += history_of(row)
    content = Content(
        messages=[*messages, {"role": "user", s.CONTENT: question}, {"role": "assistant", s.CONTENT: answer}]
    )
    if not is_blank(row.get("negative")):
        content.rejected = text_of(row, "negative")
    return content


def history_of(row: Row) -> list[Message]:
    """Earlier turns in `history`: a list of pairs of question and answer, or its JSON text."""
    value = row.get("history")
    if is_nothing(value):
        return []
    try:
        pairs: Any = json.loads(value) if isinstance(value, str) else value
        return [
            {"role": role, s.CONTENT: as_text(text)}
            for question, answer in pairs
            for role, text in (("user", question), ("assistant", answer))
        ]
    except (ValueError, TypeError, RecursionError):
        raise RowError("bad_history") from None


def pair_of(question: str, answer: str) -> Callable[[Row, InputConfig], Content]:
    """Builder of rows with these two columns."""

    def build(row: Row, config: InputConfig) -> Content:
        return dialogue(row, text_of(row, question), text_of(row, answer))

    return build


def instruction_and(answer: str) -> Callable[[Row, InputConfig], Content]:
    """Alpaca's and Dolly's rows: `context` and `input` are a part of the question."""

    def build(row: Row, config: InputConfig) -> Content:
        return dialogue(row, instruction_of(row), text_of(row, answer))

    return build


def instruction_of(row: Row) -> str:
    """The question of an alpaca or Dolly row."""
    more = [text_of(row, name) for name in ("context", "input") if not is_blank(row.get(name))]
    return "\n\n".join([text_of(row, "instruction"), *more])


def from_messages(row: Row, config: InputConfig) -> Content:
    """OpenAI's rows: `messages`, perhaps `tools`."""
    left: Left = Counter()
    return Content(messages=conversation(row.get("messages"), left), tools=tools_json(row), left_out=left)


def from_conversations(row: Row, config: InputConfig) -> Content:
    """ShareGPT's rows: `from` and `value` in `conversations`, perhaps `system` and `tools` beside them."""
    left: Left = Counter()
    name = "conversation" if is_nothing(row.get("conversations")) else "conversations"
    messages = conversation(row.get(name), left, name)
    return Content(messages=with_system(row, messages), tools=tools_json(row), left_out=left)


def with_system(row: Row, messages: list[Message]) -> list[Message]:
    """The messages with the row's `system` before them, unless they begin with an instruction."""
    if is_blank(row.get("system")) or messages[0]["role"] in INSTRUCTING:
        return messages
    return [{"role": "system", s.CONTENT: as_text(row["system"])}, *messages]


def prompt_completion(row: Row, config: InputConfig) -> Content:
    """TRL's prompt and completion: text, or messages."""
    if not any(isinstance(row.get(name), (list, Mapping)) for name in ("prompt", "completion")):
        content = dialogue(row, text_of(row, "prompt"), text_of(row, "completion"))
        content.tools = tools_json(row)
        return content
    left: Left = Counter()
    messages = as_conversation(row.get("prompt"), "user", left, "prompt")
    messages += as_conversation(row.get("completion"), "assistant", left, "completion")
    return Content(messages=with_system(row, messages), tools=tools_json(row), left_out=left)
