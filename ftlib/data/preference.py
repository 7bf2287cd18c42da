"""Builders of preferences: a better and a worse answer to one prompt, or an undesirable answer alone.

In: one row as a mapping of columns. Out: `Content` whose `rejected` is the worse answer; of an undesirable answer alone
the messages end with the prompt. Raises `RowError`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ftlib.config.prepare import InputConfig
from ftlib.data import schema as s
from ftlib.data.conversation import Left, Message, as_conversation, check_conversation, conversation, tools_json
from ftlib.data.dialogue import (
    ASKING,
    Content,
    Row,
    dialogue,
    history_of,
    instruction_of,
    prompt_completion,
    talk,
    text_of,
)
from ftlib.data.leftout import is_nothing, num_chars
from ftlib.data.values import RowError, as_text, is_blank


def truth_of(value: Any) -> bool | None:
    """A boolean, also as CSV spells it; None for anything else."""
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else None


def kto(row: Row, config: InputConfig) -> Content:
    """TRL's unpaired preferences: where `label` is false, the completion is an undesirable answer alone."""
    content = prompt_completion(row, config)
    content.used.add("label")
    if truth_of(row.get("label")) is False:
        turn_undesirable(content)
    return content


def turn_undesirable(content: Content) -> None:
    """Make a conversation's last answer an undesirable answer alone."""
    if content.messages is None or content.rejected is not None:
        raise RowError("verdict_without_answer")
    check_conversation(content.messages)
    content.messages, content.rejected = content.messages[:-1], _last_words(content.messages)
    if not content.messages:
        raise RowError("empty_input")


def _last_words(messages: Sequence[Message]) -> str:
    """The text of a last answer; raises RowError for a call of a tool, which cannot be an undesirable answer."""
    last = messages[-1]
    if last["role"] != "assistant" or last.get(s.TOOL_CALLS):
        raise RowError("rejected_is_no_text")
    return str(last[s.CONTENT])


_PROMPTS = ("prompt", "instruction", "question", "input", "messages", "conversations")
"""Columns that hold what both answers answer; the first that is given counts."""
_ANSWERS = ("chosen", "rejected")


def preference(row: Row, config: InputConfig) -> Content:
    """A prompt, `chosen`, `rejected` (each a string or messages), or `input`, `output`, `negative`."""
    if not is_blank(row.get("negative")) and any(is_blank(row.get(name)) for name in ("chosen", "rejected")):
        asking = ASKING if not is_blank(row.get("instruction")) else ("input",)
        question = instruction_of(row) if len(asking) > 1 else text_of(row, "input")
        return dialogue(row, question, text_of(row, "output"), *asking, "output")
    left: Left = Counter()
    name = next((name for name in _PROMPTS if not is_nothing(row.get(name))), None)
    if name is None and not any(isinstance(row.get(side), (list, Mapping)) for side in ("chosen", "rejected")):
        return Content(text=as_text(row.get("chosen")), rejected=as_text(row.get("rejected")), used={*_ANSWERS})
    head = [] if name is None else as_conversation(row[name], "user", left, name)
    used = {*_ANSWERS, name or ""}
    if name == "instruction":
        # As in alpaca's rows, the question goes on in other columns.
        head, used = [{"role": "user", s.CONTENT: instruction_of(row)}], used | {*ASKING}
    if name is not None and isinstance(row[name], str):
        head, used = [*history_of(row), *head], used | {"history"}
    chosen = as_conversation(row.get("chosen"), "assistant", left, "chosen")
    rejected = as_conversation(row.get("rejected"), "assistant", left, "rejected")
    if head and len(chosen) > 1 and chosen[0]["role"] != "assistant" and len(rejected) > 1:
        # Both are whole conversations; what stands before them repeats their beginning, or is left out.
        if not all(message in chosen for message in head):
            used = {*_ANSWERS}
        head = []
    for other in _PROMPTS:
        # Some files say the prompt, or all of the better conversation, once more.
        if not is_nothing(row.get(other)) and row[other] in (row["chosen"], head):
            used.add(other)
    return _compared(row, head, chosen, rejected, left=left, used=used)


def preferred_output(row: Row, config: InputConfig) -> Content:
    """OpenAI's preferences: the conversation in `input.messages`, an answer in each of the two outputs."""
    given = _object(row.get("input"))
    left: Left = Counter()
    for key, value in given.items():
        if key not in ("messages", s.TOOLS) and not is_nothing(value):
            left[f"input.{key}"] += num_chars(value)
    head = conversation(given.get("messages"), left, "input.messages")
    chosen, rejected = (
        as_conversation(_parsed_list(row.get(name)), "assistant", left, name)
        for name in ("preferred_output", "non_preferred_output")
    )
    content = _compared(
        row, head, chosen, rejected, left=left, used={"input", "preferred_output", "non_preferred_output"}
    )
    if tools := tools_json(given):
        content.tools = tools
        content.used -= {s.TOOLS, "functions"}
    return content


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError("bad_messages") from None
    if not isinstance(value, Mapping):
        raise RowError("bad_messages")
    return value


def _parsed_list(value: Any) -> Any:
    """A list that a CSV cell spells as JSON; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("[{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _compared(
    row: Row, head: list[Message], chosen: list[Message], rejected: list[Message], *, left: Left, used: set[str]
) -> Content:
    """A record of two answers to one prompt, which either stands before both (`head`) or begins both.

    `used`: the columns that it is made of.
    """
    if head and chosen[: len(head)] == head:
        chosen = chosen[len(head) :]
    if head and rejected[: len(head)] == head:
        rejected = rejected[len(head) :]
    if not chosen or not rejected:
        raise RowError("no_assistant_message")
    if chosen[:-1] != rejected[:-1]:
        # A record holds the worse of two answers, not of two conversations.
        raise RowError("prompts_differ")
    for key in set(rejected[-1]) - {"role", s.CONTENT, s.TOOL_CALLS}:
        left[f"rejected[].{key}"] += num_chars(rejected[-1][key])
    content = talk(row, [*head, *chosen], left, *used)
    content.rejected = _last_words(rejected)
    return content
