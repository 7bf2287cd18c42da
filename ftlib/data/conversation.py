"""From messages as files spell them to messages of a canonical record.

In: a list (or its JSON text) of OpenAI's `role` and `content` or ShareGPT's `from` and `value`, in any mixture. Out:
dicts with the fields of `schema.MESSAGE_TYPE` that are set. Raises `RowError`, whose class says what cannot be carried:
images, audio, unknown roles. Keys that are not carried on are counted in `left` with their characters of text.

- Content is text, a list of text parts (joined without a sign between them, as chat templates and the endpoint do),
  or null beside tool calls. What a tool gives back may be any JSON value: it is stored as JSON.
- Arguments of a call are JSON text; an object becomes JSON, and text that is no JSON stays as the model wrote it.
- `weight: 0`, `train: false` and `training: false` say that a turn is not learnt.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ftlib.data import schema as s
from ftlib.data.leftout import is_nothing, num_chars
from ftlib.data.values import RowError, as_json, as_text, is_blank

Message = dict[str, Any]
Left = Counter[str]
"""Names that are not carried on → characters of their text."""

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
"""Names of roles → the role of a canonical message."""
_CALLING = ("function_call", "tool_call")
"""ShareGPT's roles of a turn whose text is a call."""
_REASONING = (s.REASONING, "reasoning", "thinking")
_NOT_LEARNT = ("weight", s.TRAIN_TURN, "training")
_CARRIED = {
    "role", "from", "content", "value", *_REASONING, s.NAME, s.TOOL_CALLS, s.TOOL_CALL_ID, "function_call",
    *_NOT_LEARNT,
}  # fmt: skip
_PLAIN = {"role", "from", "content", "value"}
"""Who speaks and what is said: most messages have no more."""
_REFUSED = {"image": "image_content", "audio": "audio_content", "video": "video_content", "file": "file_content"}
"""Beginning of a part's type, or of a message's key → error class."""
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def conversation(value: Any, left: Left, name: str = s.MESSAGES) -> list[Message]:
    """Read a list of messages. `name`: what the column is called in counts of `left`."""
    value = _parsed(value)
    if not isinstance(value, list) or not value:
        raise RowError("null_text" if value is None else "bad_messages")
    return [_message(item, left, f"{name}[]") for item in value]


def as_conversation(value: Any, role: str, left: Left, name: str) -> list[Message]:
    """Messages where there are some, else one turn of `role` that says the text."""
    if isinstance(value, list):
        return conversation(value, left, name)
    if isinstance(value, Mapping):
        return conversation([value], left, name)
    return [{"role": role, s.CONTENT: as_text(value)}]


def tools_json(row: Mapping[str, Any]) -> str | None:
    """The tools that a row defines in `tools`, or in OpenAI's older `functions`, as a JSON array; None without any."""
    value = _parsed(row.get(s.TOOLS), "bad_tools")
    if is_nothing(value):
        functions = _parsed(row.get("functions"), "bad_tools")
        if is_nothing(functions):
            return None
        value = [{"type": "function", "function": item} for item in _listed(functions)]
    return as_json(_listed(value))


def check_conversation(messages: Sequence[Message], *, answered: bool = True) -> None:
    """A conversation needs something said to the assistant and, if `answered`, something said or done by it."""
    answers = [message for message in messages if message["role"] == "assistant"]
    if answered and not answers:
        raise RowError("no_assistant_message")
    if not all(message.get(s.TOOL_CALLS) or (message[s.CONTENT] or "").strip() for message in answers):
        raise RowError("empty_answer")
    if not any((message[s.CONTENT] or "").strip() for message in messages if message["role"] != "assistant"):
        raise RowError("empty_input")


def _parsed(value: Any, error: str = "bad_messages") -> Any:
    """A value, read where it is JSON text (as from CSV); null where it is blank."""
    if is_blank(value):
        return None
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(error) from None


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise RowError("bad_tools")
    return value


def _message(item: Any, left: Left, place: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError("bad_messages")
    given = item.get("role") if not is_blank(item.get("role")) else item.get("from")
    if not isinstance(given, str) or given.strip().lower() not in ROLES:
        raise RowError("bad_messages" if given is None else "unknown_role")
    given = given.strip().lower()
    message: Message = {"role": ROLES[given], s.CONTENT: None}
    plain = item.keys() <= _PLAIN
    value = item.get("content") if item.get("content") is not None else item.get("value")
    calls = [] if plain else _calls(item, left, place)
    if given in _CALLING:
        calls += _called_in_text(value, left, f"{place}.value")
        value = None
    elif value is not None and not (calls and is_blank(value)):
        _set_content(message, value, left, place)
    if not plain:
        _add_details(message, item)
    if calls:
        message[s.TOOL_CALLS] = calls
    elif message[s.CONTENT] is None:
        if message["role"] != "tool":
            raise RowError("null_text")
        message[s.CONTENT] = ""  # a tool that gives nothing back has run all the same
    if not plain:
        _mark_not_learnt(message, item, left, place)
    _count_left(item, _CARRIED, left, place)
    return message


def _add_details(message: Message, item: Mapping[str, Any]) -> None:
    thought = next((item[name] for name in _REASONING if not is_blank(item.get(name))), None)
    if thought is not None:
        message[s.REASONING] = as_text(thought)
    for name in (s.NAME, s.TOOL_CALL_ID):
        if not is_blank(item.get(name)):
            message[name] = as_text(item[name])


def _set_content(message: Message, value: Any, left: Left, place: str) -> None:
    is_result = message["role"] == "tool"
    if isinstance(value, list) and not (is_result and not all(_is_part(part) for part in value)):
        _set_parts(message, value, left, place)
    elif is_result and isinstance(value, (list, Mapping)):
        message[s.CONTENT] = as_json(value)
    else:
        message[s.CONTENT] = as_text(value)


def _is_part(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("type"), str)


def _set_parts(message: Message, parts: Sequence[Any], left: Left, place: str) -> None:
    """Content that is a list of parts: their texts, and what was thought."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        if isinstance(part, str) or (isinstance(part, Mapping) and [*part] == ["text"]):
            texts.append(as_text(part if isinstance(part, str) else part["text"]))
            continue
        if not _is_part(part):
            raise RowError("nested_text")
        kind = part["type"]
        refused = next((error for start, error in _REFUSED.items() if start in kind), None)
        if refused:
            raise RowError(refused)
        if kind in ("thinking", "reasoning"):
            key = kind if kind in part else "text"
            thoughts.append(as_text(part.get(key)))
        elif kind in _TEXT_PARTS:
            key = _TEXT_PARTS[kind]
            texts.append(as_text(part.get(key)))
        else:
            raise RowError("unknown_content_part")
        _count_left(part, {"type", key}, left, f"{place}.content[]")
    message[s.CONTENT] = "".join(texts) if texts else None
    if thoughts:
        message[s.REASONING] = "\n".join(thoughts)


def _calls(item: Mapping[str, Any], left: Left, place: str) -> list[dict[str, Any]]:
    """The calls of a message: `tool_calls`, or OpenAI's older `function_call`."""
    given = _parsed(item.get(s.TOOL_CALLS), "bad_tool_calls")
    calls = [] if is_nothing(given) else [given] if isinstance(given, Mapping) else given
    if not isinstance(calls, list):
        raise RowError("bad_tool_calls")
    found = [_call(call, left, f"{place}.{s.TOOL_CALLS}[]") for call in calls]
    if not is_nothing(item.get("function_call")):
        found.append(_call({"function": item["function_call"]}, left, f"{place}.function_call"))
    return found


def _called_in_text(value: Any, left: Left, place: str) -> list[dict[str, Any]]:
    """ShareGPT's calls: a turn whose text is a call as JSON, or a list of them."""
    parsed = _parsed(value, "bad_tool_calls")
    calls = parsed if isinstance(parsed, list) else [parsed]
    return [_call(call, left, place) for call in calls]


def _call(call: Any, left: Left, place: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise RowError("bad_tool_calls")
    inner = call.get("function")
    function = inner if isinstance(inner, Mapping) else call
    if is_blank(function.get("name")):
        raise RowError("bad_tool_calls")
    arguments = function.get("arguments", function.get("parameters"))
    found: dict[str, Any] = {
        "type": "function" if is_blank(call.get("type")) else as_text(call["type"]),
        "function": {
            "name": as_text(function["name"]),
            "arguments": "{}" if is_blank(arguments) else _arguments(arguments),
        },
    }
    if not is_blank(call.get("id")):
        found["id"] = as_text(call["id"])
    _count_left(call, {"id", "type", "function", "name", "arguments", "parameters"}, left, place)
    if function is not call:
        _count_left(function, {"name", "arguments", "parameters"}, left, f"{place}.function")
    return found


def _arguments(value: Any) -> str:
    return as_text(value) if isinstance(value, str) else as_json(value)


def _mark_not_learnt(message: Message, item: Mapping[str, Any], left: Left, place: str) -> None:
    """`train: false` on a turn of the assistant whose keys ask for it; what cannot be said is counted as left out."""
    for name in _NOT_LEARNT:
        value = item.get(name)
        if is_blank(value):
            continue
        try:
            learnt = float(json.loads(value.strip().lower()) if isinstance(value, str) else value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RecursionError):
            raise RowError("bad_turn_weight") from None
        if learnt == 0 and message["role"] == "assistant":
            message[s.TRAIN_TURN] = False
        elif learnt not in (0, 1) or (learnt == 1 and name != "weight" and message["role"] != "assistant"):
            # A turn is learnt or not, and of the assistant's alone.
            left[f"{place}.{name}"] += num_chars(value)


def _count_left(item: Mapping[str, Any], carried: set[str], left: Left, place: str) -> None:
    if item.keys() <= carried:
        return
    for name, value in item.items():
        if name in carried or is_nothing(value):
            continue
        refused = next((error for start, error in _REFUSED.items() if name in (start, f"{start}s")), None)
        if refused and not place.endswith("content[]"):
            raise RowError(refused)
        left[f"{place}.{name}"] += num_chars(value)
