"""What a model's chat template can say, found out by rendering probes, and records turned into what it takes.

Templates disagree: some want a call's arguments as an object, some as JSON text; some call a turn's reasoning
`thinking`; some print `None` for a turn without content; many know neither tools nor the role `developer`. In: a
tokenizer and canonical messages. Out: the messages as its template takes them, so that what is rendered is what
`apply_chat_template` makes of the raw row. What a template cannot say at all is told by `Traits`, never dropped
unseen. Cost: some twenty renderings of four short turns, once a tokenizer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from ftlib.core.errors import UserError

Message = Mapping[str, Any]
REASONING, CALLS, TOOLS = "reasoning_content", "tool_calls", "tools"
REFUSALS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What templates raise, besides jinja's own errors, at a conversation that they were not written for."""
_PROBE = "ftlib_probe"
_ARGUMENTS, _SPACED = '{"probe":1}', '{"probe": 1}'
_REASONING_KEYS = (REASONING, "thinking", "reasoning")


@dataclass(frozen=True)
class Traits:
    """What a template knows."""

    arguments: Literal["object", "text"] | None
    """How it takes the arguments of a call; None: it does not render calls."""
    tools: bool
    """Whether it renders definitions of tools."""
    reasoning: str | None
    """Under which key it takes a turn's reasoning; None: it renders none."""
    null_content: bool
    """Whether a turn that only calls tools may have null as content."""
    developer: bool
    """Whether it knows the role `developer`."""


_known: "WeakKeyDictionary[Any, tuple[str, Traits]]" = WeakKeyDictionary()


def traits_of(tokenizer: Any) -> Traits:
    """The traits of a tokenizer's chat template, probed once."""
    template = str(tokenizer.chat_template)
    known = _known.get(tokenizer)
    if known is None or known[0] != template:
        known = _known[tokenizer] = (template, _probe(tokenizer, template))
    return known[1]


def conversation_for(tokenizer: Any, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the tokenizer's template takes them. Raises UserError for calls that it does not render."""
    if all(set(message) <= {"role", "content"} and message["content"] is not None for message in messages) and not any(
        message["role"] == "developer" for message in messages
    ):
        return [dict(message) for message in messages]
    traits = traits_of(tokenizer)
    return [_adapted(message, traits) for message in messages]


def _adapted(message: Message, traits: Traits) -> dict[str, Any]:
    adapted = {name: value for name, value in message.items() if value is not None and name not in (REASONING, "train")}
    content = message.get("content")
    adapted["content"] = None if content is None and traits.null_content else content or ""
    if message["role"] == "developer" and not traits.developer:
        adapted["role"] = "system"
    if message.get(REASONING) and traits.reasoning:
        adapted[traits.reasoning] = message[REASONING]
    calls = message.get(CALLS)
    adapted.pop(CALLS, None)
    if calls:
        if traits.arguments is None:
            raise UserError("the model's chat template does not render calls of tools")
        adapted[CALLS] = [_call(call, traits) for call in calls]
    return adapted


def _call(call: Mapping[str, Any], traits: Traits) -> dict[str, Any]:
    function = dict(call["function"])
    if traits.arguments == "object" and isinstance(function["arguments"], str):
        function["arguments"] = _as_object(function["arguments"])
    return {name: value for name, value in call.items() if value is not None} | {"function": function}


def _as_object(arguments: str) -> Any:
    """The object that JSON text says; the text itself where it says none, as a model may write broken JSON."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _probe(tokenizer: Any, template: str) -> Traits:
    def render(*turns: dict[str, Any], tools: list[Any] | None = None) -> str | None:
        from jinja2.exceptions import TemplateError

        try:
            return str(tokenizer.apply_chat_template(list(turns), tools=tools, tokenize=False))
        except (TemplateError, *REFUSALS):
            return None

    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}

    def calling(arguments: Any, **fields: Any) -> list[dict[str, Any]]:
        # Nine letters and digits: some templates check the id of a call.
        call = {"id": "abcdef123", "type": "function", "function": {"name": _PROBE, "arguments": arguments}}
        result = {"role": "tool", "content": "b", "name": _PROBE, "tool_call_id": "abcdef123"}
        return [user, {"role": "assistant", "content": "", CALLS: [call], **fields}, result, answer]

    def shows(text: str | None, word: str = _PROBE) -> bool:
        return text is not None and word in text

    tool = {"type": "function", "function": {"name": _PROBE, "description": "d",
            "parameters": {"type": "object", "properties": {}}}}  # fmt: skip
    forms: dict[Literal["object", "text"], Any] = {"object": {"probe": 1}, "text": _ARGUMENTS}
    form: Literal["object", "text"] | None = None
    content: str | None = ""
    for content in ("", None):
        # Some render calls of turns with null alone.
        rendered = {form: render(*calling(value, content=content)) for form, value in forms.items()}
        uncalled = [{**turn, CALLS: None} if CALLS in turn else turn for turn in calling("", content=content)]
        without = render(
            *({name: value for name, value in turn.items() if value or name != CALLS} for turn in uncalled)
        )
        form = next((form for form, text in rendered.items() if shows(text, "probe") and text != without), None)
        if form is not None:
            break
    as_object, as_text = rendered["object"], rendered["text"]
    if form == "object" and as_text is not None and as_text != as_object:
        # Where text is passed on as it stands, it is more faithful than JSON that is read and written again.
        form = "text" if as_text.replace(_ARGUMENTS, _SPACED) == as_object else form
    value = forms[form or "object"]
    with_null, with_empty = render(*calling(value, content=None)), render(*calling(value))
    prints_none = with_null is None or with_null.count("None") > (with_empty or "").count("None")
    reasoning = next(
        (
            key
            for key in _REASONING_KEYS
            if shows(render(user, {**answer, key: "thought"}), "thought")
            or shows(render(*calling(value, **{key: "thought"})), "thought")
        ),
        None,
    )
    developer = {"role": "developer", "content": "thought"}
    return Traits(
        arguments=form,
        tools=shows(render(user, answer, tools=[tool])),
        reasoning=reasoning,
        null_content=content is None or not prints_none,
        developer="developer" in template and shows(render(developer, user, answer), "thought"),
    )
