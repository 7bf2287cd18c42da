"""Conversations as token ids, with the mask of what is learnt: only what the assistant says, stop token included.

Templates seldom mark the assistant's part (`{% generation %}`), so the mask comes from prefix difference: the ids of
the conversation before an answer, rendered with the generation prompt, are compared with the ids of the conversation up
to and including it; what lies beyond their common prefix is the answer. The prompt seen in training is by construction
the one that `render_prompt` builds for inference. White space that a template puts after its stop token is not learnt.

Tools, calls and reasoning are rendered by the template, where it knows them; of each turn that is to be learnt it is
known whether it is, and what the template left out is counted.

What a message says is text: `<|im_end|>` typed by a user becomes the tokens of its letters, never the control token
that would end the turn and let the user speak as another role.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ftlib.core.errors import UserError
from ftlib.models.template import REASONING, REFUSALS, conversation_for, traits_of

Message = Mapping[str, Any]
"""A canonical message: `role` and `content`, and perhaps the other fields of `schema.MESSAGE_TYPE`."""
MAX_BOUNDARY_TOKENS = 3
"""Tokens at the end of a prompt that may merge with the answer's first characters before a turn counts as unaligned."""


def check_chat_template(tokenizer: Any) -> None:
    """Raise UserError when a tokenizer has no chat template, so conversations cannot be rendered."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"{getattr(tokenizer, 'name_or_path', 'the model')}: its tokenizer has no chat template, so conversations "
            "cannot be rendered. Take an instruction-tuned model, or put a chat_template.jinja into its folder"
        )


@dataclass(frozen=True)
class Encoded:
    """A conversation as token ids."""

    ids: list[int]
    supervised: list[bool]
    """Which of the ids are learnt."""
    num_turns_unlearnt: int = 0
    """Turns of the assistant that are to be learnt and are not: as history, the template renders them otherwise."""
    num_reasoning_left_out: int = 0
    """Turns whose reasoning the template leaves out: all of them, or those of earlier turns."""
    tools_left_out: bool = False
    """The template renders no definitions of tools, and the record has some."""


def render_prompt(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> list[int]:
    """Token ids of a conversation up to where the assistant answers (generation prompt added)."""
    return _ids(tokenizer, messages, tools, generation_prompt=True)


def render_text(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any] | None = None, *, generation_prompt: bool = False
) -> str:
    """What the chat template makes of canonical messages. Raises UserError where it refuses them."""
    from jinja2.exceptions import TemplateError

    conversation = conversation_for(tokenizer, messages)
    try:
        return str(
            tokenizer.apply_chat_template(
                conversation,
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        )
    except (TemplateError, *REFUSALS) as error:
        raise UserError(f"the model's chat template refuses the conversation: {error}") from error


def encode_example(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any] | None = None
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation and, for each, whether it is supervised; see `encode_turns`."""
    encoded = encode_turns(tokenizer, messages, tools)
    return encoded.ids, encoded.supervised


def encode_turns(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> Encoded:
    """Token ids of a conversation, what of them is supervised, and what the template lost.

    Messages after the last assistant turn teach nothing and are left out. An earlier assistant turn that the template
    renders otherwise once it is history (reasoning stripped, a system prompt moved) gets no supervision. Where a
    template closes the last turn without a special token, the end-of-sequence token is added and supervised. A turn
    with `train` false is never supervised; one that only calls tools is an answer like any other.

    Raises:
        UserError: the template refuses the conversation, or does not render calls of tools.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        ids = _ids(tokenizer, messages, tools, generation_prompt=False)
        return Encoded(ids, [False] * len(ids))
    messages = messages[: turns[-1] + 1]
    ids, closed = _close(tokenizer, _ids(tokenizer, messages, tools, generation_prompt=False))
    supervised, num_unlearnt = [False] * len(ids), 0
    for turn in (turn for turn in turns if messages[turn].get("train") is not False):
        prompt = render_prompt(tokenizer, messages[:turn], tools)
        start = end = _common_prefix(ids, prompt)
        if len(prompt) - start <= MAX_BOUNDARY_TOKENS:
            end = closed if turn == turns[-1] else _end_of_turn(tokenizer, ids, messages[: turn + 1], tools)
        supervised[start:end] = [True] * (end - start)
        num_unlearnt += end <= start
    return Encoded(
        ids,
        supervised,
        num_unlearnt,
        _num_reasoning_left_out(tokenizer, messages, tools),
        bool(tools) and not traits_of(tokenizer).tools,
    )


def _num_reasoning_left_out(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any] | None) -> int:
    reasoned = [str(message[REASONING]).strip() for message in messages if message.get(REASONING)]
    if not reasoned:
        return 0
    text = render_text(tokenizer, messages, tools)
    return sum(thought not in text for thought in reasoned)


def encode_text(tokenizer: Any, text: str) -> tuple[list[int], list[bool]]:
    """Token ids of plain text with the tokenizer's own special tokens and an end-of-sequence token; all supervised.

    Spellings of special tokens inside the text stay text.
    """
    masked, hidden = _hide(tokenizer, [text])
    ids = _tokenize(tokenizer, masked[0], hidden, add_special_tokens=True)
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    return ids, [True] * len(ids)


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """Every token that ends an answer: end of sequence, the generation config's, and what the template closes with."""
    stops = {tokenizer.eos_token_id}
    configured = getattr(generation_config, "eos_token_id", None)
    stops.update(configured if isinstance(configured, list) else [configured])
    if getattr(tokenizer, "chat_template", None):
        ids, supervised = encode_example(
            tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        )
        last = max((index for index, flag in enumerate(supervised) if flag), default=None)
        if last is not None and ids[last] in tokenizer.all_special_ids:
            stops.add(ids[last])
    return sorted(token for token in stops if token is not None)


def _ids(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Any] | None, *, generation_prompt: bool
) -> list[int]:
    said = list(_strings([*messages, *(tools or ())]))
    texts, hidden = _hide(tokenizer, said)
    if hidden.spellings:
        replacements = dict(zip(said, texts, strict=True))
        messages = [_with_strings(message, replacements) for message in messages]
        tools = [_with_strings(tool, replacements) for tool in tools or ()]
    return _tokenize(tokenizer, render_text(tokenizer, messages, tools, generation_prompt=generation_prompt), hidden)


def _strings(value: Any) -> Iterator[str]:
    """Every string in messages and tools, keys of objects included, each once and in order of their places."""
    seen: dict[str, None] = {}

    def walk(item: Any) -> None:
        if isinstance(item, str):
            seen[item] = None
        elif isinstance(item, Mapping):
            for name, inner in item.items():
                walk(name)
                walk(inner)
        elif isinstance(item, (list, tuple)):
            for inner in item:
                walk(inner)

    walk(value)
    yield from seen


def _with_strings(value: Any, replacements: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return replacements[value]
    if isinstance(value, Mapping):
        return {replacements[name]: _with_strings(item, replacements) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_strings(item, replacements) for item in value]
    return value


_special_patterns: "WeakKeyDictionary[Any, re.Pattern[str]]" = WeakKeyDictionary()
_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True)
class _Hidden:
    """Spellings of special tokens that were taken out of texts; `mark` + number + `mark` stands for each."""

    mark: str = ""
    spellings: tuple[str, ...] = ()


def _hide(tokenizer: Any, texts: Sequence[str]) -> tuple[list[str], _Hidden]:
    """The texts with a mark in the place of each spelling of a special token; almost always the texts themselves."""
    pattern = _special_pattern(tokenizer)
    if not any(pattern.search(text) for text in texts):
        return list(texts), _Hidden()
    mark = next(chr(code) for code in _PRIVATE_USE if not any(chr(code) in text for text in texts))
    spellings: list[str] = []

    def hide(match: re.Match[str]) -> str:
        spellings.append(match[0])
        return f"{mark}{len(spellings) - 1}{mark}"

    return [pattern.sub(hide, text) for text in texts], _Hidden(mark, tuple(spellings))


def _tokenize(tokenizer: Any, text: str, hidden: _Hidden, *, add_special_tokens: bool = False) -> list[int]:
    """Ids of a text, with the hidden spellings put back as the tokens of their letters."""
    if not hidden.spellings:
        return list(tokenizer(text, add_special_tokens=add_special_tokens).input_ids)
    pieces = re.split(f"{hidden.mark}(\\d+){hidden.mark}", text)
    ids: list[int] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            ids += _spelled(tokenizer, hidden.spellings[int(piece)])
        elif piece:
            ids += tokenizer(piece, add_special_tokens=False).input_ids
    return _framed(tokenizer, ids) if add_special_tokens else ids


def _framed(tokenizer: Any, ids: list[int]) -> list[int]:
    """Ids with the special tokens that the tokenizer puts around any text."""
    bare = list(tokenizer("a", add_special_tokens=False).input_ids)
    framed = list(tokenizer("a").input_ids)
    start = next(index for index in range(len(framed)) if framed[index : index + len(bare)] == bare)
    return [*framed[:start], *ids, *framed[start + len(bare) :]]


def _spelled(tokenizer: Any, spelling: str) -> list[int]:
    """Ids of a special token's letters: cut after its first one, so that the tokenizer does not know it."""
    head = list(tokenizer(spelling[0], add_special_tokens=False).input_ids)
    rest, hidden = _hide(tokenizer, [spelling[1:]])
    return head + (_tokenize(tokenizer, rest[0], hidden) if rest[0] else [])


def _special_pattern(tokenizer: Any) -> "re.Pattern[str]":
    """Matches every special token's spelling, longest first."""
    if tokenizer not in _special_patterns:
        added = tokenizer.added_tokens_decoder.values()
        spellings = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
        ordered = sorted((spelling for spelling in spellings if spelling), key=lambda item: (-len(item), item))
        _special_patterns[tokenizer] = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
    return _special_patterns[tokenizer]


def _close(tokenizer: Any, ids: list[int]) -> tuple[list[int], int]:
    """Ids that end with a stop token, and the index just after it."""
    end = _after_last_special(tokenizer, ids)
    if end is not None:
        return ids, end
    end = _without_trailing_space(tokenizer, ids)
    if tokenizer.eos_token_id is None:
        return ids[:end], end
    return [*ids[:end], tokenizer.eos_token_id], end + 1


def _end_of_turn(tokenizer: Any, ids: list[int], messages: Sequence[Message], tools: Sequence[Any] | None) -> int:
    """Where a turn that is not the last ends within the whole conversation's ids."""
    turn = _ids(tokenizer, messages, tools, generation_prompt=False)
    end = _after_last_special(tokenizer, turn)
    if end is None:
        end = _without_trailing_space(tokenizer, turn)
    return _common_prefix(ids, turn[:end])


def _after_last_special(tokenizer: Any, ids: list[int]) -> int | None:
    """The index after the last special token if only white space follows it."""
    special = set(tokenizer.all_special_ids)
    end = _without_trailing_space(tokenizer, ids)
    return end if end and ids[end - 1] in special else None


def _without_trailing_space(tokenizer: Any, ids: list[int]) -> int:
    special = set(tokenizer.all_special_ids)
    end = len(ids)
    while end and ids[end - 1] not in special and not tokenizer.decode([ids[end - 1]]).strip():
        end -= 1
    return end


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    size = min(len(left), len(right))
    return next((index for index in range(size) if left[index] != right[index]), size)
