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
    metadata: Any = field(default_factory=dict)
    left_out: Left = field(default_factory=Counter)
    """Columns and keys that are not carried on, with the characters of their text."""
    used: set[str] = field(default_factory=set)
    """Columns that the messages or the text are made of: any other one is left out."""


def text_of(row: Row, name: str) -> str:
    """Canonical text of a column; raises RowError where it is absent or null."""
    if name not in row:
        raise RowError("missing_column")
    return as_text(row[name])


def dialogue(row: Row, question: str, answer: str, *used: str) -> Content:
    """`system` and the pairs of `history`, where there are any, then question and answer, made of columns `used`."""
    messages: list[Message] = []
    if not is_blank(row.get("system")):
        messages.append({"role": "system", s.CONTENT: as_text(row["system"])})
    messages += history_of(row)
    content = Content(
        messages=[*messages, {"role": "user", s.CONTENT: question}, {"role": "assistant", s.CONTENT: answer}],
        used={"system", "history", "negative", *used},
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
        return dialogue(row, text_of(row, question), text_of(row, answer), question, answer)

    return build


def instruction_and(answer: str) -> Callable[[Row, InputConfig], Content]:
    """Alpaca's and Dolly's rows: `context` and `input` are a part of the question."""

    def build(row: Row, config: InputConfig) -> Content:
        return dialogue(row, instruction_of(row), text_of(row, answer), *ASKING, answer)

    return build


ASKING = ("instruction", "context", "input")
"""Columns of an alpaca or Dolly row that ask."""


def instruction_of(row: Row) -> str:
    """The question of an alpaca or Dolly row."""
    more = [text_of(row, name) for name in ("context", "input") if not is_blank(row.get(name))]
    return "\n\n".join([text_of(row, "instruction"), *more])


def from_messages(row: Row, config: InputConfig) -> Content:
    """OpenAI's rows: `messages`, perhaps `system` and `tools` beside them."""
    left: Left = Counter()
    return talk(row, conversation(row.get("messages"), left), left, "messages")


def from_conversations(row: Row, config: InputConfig) -> Content:
    """ShareGPT's rows: `from` and `value` in `conversations`, perhaps `system` and `tools` beside them."""
    left: Left = Counter()
    name = "conversations" if has_turns(row, "conversations") or not has_turns(row, "conversation") else "conversation"
    return talk(row, conversation(row.get(name), left, name), left, name)


def has_turns(row: Row, name: str) -> bool:
    """Whether a column holds a list of messages, or its JSON text; a word for null (`NULL`, `[]`) is none."""
    value = row.get(name)
    if isinstance(value, str):
        return value.lstrip()[:1] in ("[", "{") and value.strip() not in ("[]", "{}")
    return not is_nothing(value)


def talk(row: Row, messages: list[Message], left: Left, *used: str) -> Content:
    """A conversation made of columns `used`, with the row's tools, and its `system` before it.

    A `system` is left out where the messages begin with another instruction.
    """
    content = Content(messages=messages, tools=tools_json(row), left_out=left, used={*used})
    content.used.add(s.TOOLS if not is_nothing(row.get(s.TOOLS)) else "functions")
    if not is_blank(row.get("system")):
        text = as_text(row["system"])
        if messages[0]["role"] not in INSTRUCTING:
            content.messages = [{"role": "system", s.CONTENT: text}, *messages]
            content.used.add("system")
        elif messages[0][s.CONTENT] == text:
            content.used.add("system")
    return content


def prompt_completion(row: Row, config: InputConfig) -> Content:
    """TRL's prompt and completion: text, or messages."""
    if not any(isinstance(row.get(name), (list, Mapping)) for name in ("prompt", "completion")):
        content = dialogue(row, text_of(row, "prompt"), text_of(row, "completion"), "prompt", "completion")
        content.tools = tools_json(row)
        content.used.add(s.TOOLS if not is_nothing(row.get(s.TOOLS)) else "functions")
        return content
    left: Left = Counter()
    messages = as_conversation(row.get("prompt"), "user", left, "prompt")
    messages += as_conversation(row.get("completion"), "assistant", left, "completion")
    return talk(row, messages, left, "prompt", "completion")
