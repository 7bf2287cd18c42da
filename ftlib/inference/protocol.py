"""What an engine takes and gives, whichever engine it is: plain dataclasses and one Protocol.

Imports the standard library alone, so that a gateway, an engine in this process and one in a child process can share
it. Prompts are token ids: the caller owns the chat template, the engine owns the model.
"""

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled", "error"]
GrammarKind = Literal["json_schema", "json_object", "regex"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must match from its first to its last character.

    `text` is a JSON schema, a regular expression, or empty for any JSON object.
    """

    kind: GrammarKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to generate.

    Token t of the answer is drawn by (`seed`, t) alone: neither what runs beside a request nor an interruption changes
    it. An answer that was cut off goes on by the same request with the tokens it has as `generated`; they count for
    everything (limits, penalties, stop strings, grammar) and come with no event again.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    """With those of `generated`."""

    temperature: float = 0.0
    """0 is greedy."""

    top_p: float = 1.0
    """Only the smallest set of likeliest tokens whose probabilities reach this in sum."""

    top_k: int = 0
    """Only so many likeliest tokens; 0: all."""

    min_p: float = 0.0
    """Only tokens at least so likely as this share of the likeliest one's probability."""

    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer has already."""

    frequency_penalty: float = 0.0
    """Taken off as often as the answer has the token."""

    repetition_penalty: float = 1.0
    """Logits of tokens in prompt or answer are divided by it where positive, else multiplied (Keskar et al., 2019)."""

    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of single tokens."""

    seed: int | None = None
    """None draws one."""

    logprobs: int | None = None
    """Each event tells the token's log-probability and those of so many likeliest; None: neither."""

    stop: tuple[str, ...] = ()
    """Strings that end the answer and are not part of it."""

    ignore_eos: bool = False
    """Go on behind end tokens, to `max_new_tokens`."""

    grammar: Grammar | None = None
    adapter: str | None = None
    """A loaded adapter's name; None: the base."""

    salt: str = ""
    """States of a prompt are reused only among requests of the same salt: one a tenant keeps timing from telling."""

    generated: tuple[int, ...] = ()

    def beyond(self, parameters: frozenset[str]) -> list[str]:
        """Names of the sampling parameters that are set and not among `parameters`."""
        return [name for name, neutral in _NEUTRAL.items() if name not in parameters and getattr(self, name) != neutral]


_NOT_PARAMETERS = {"request_id", "prompt", "max_new_tokens", "adapter", "salt", "generated"}
_NEUTRAL = {
    item.name: item.default for item in dataclasses.fields(GenerationRequest) if item.name not in _NOT_PARAMETERS
}
ALL_PARAMETERS = frozenset(_NEUTRAL)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One step of an answer.

    `text` is what may be shown now: it can be empty (half a character, or the possible start of a stop string) and can
    cover several tokens. The last event has a `finish_reason`; `token` is None when the step made none (cancelled), and
    for `error` the text is empty and `message` says what failed.
    """

    token: int | None
    text: str
    finish_reason: FinishReason | None = None
    message: str | None = None
    logprob: float | None = None
    """Natural logarithm of the token's probability under the model, before temperature, filters and penalties."""

    top_logprobs: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with theirs, best first."""

    num_cached_tokens: int = 0
    """In the first event: prompt tokens whose states were reused."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, in half the time of a dataclass's own way: events go from process to process by the thousand."""
        fields = (self.token, self.text, self.finish_reason, self.message, self.logprob)
        return TokenEvent, (*fields, self.top_logprobs, self.num_cached_tokens)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; requests beyond it are refused, never bent."""

    max_model_len: int
    adapters: bool = True
    max_lora_rank: int = 0
    """Highest rank of an adapter; 0: any."""

    parameters: frozenset[str] = ALL_PARAMETERS
    """Fields of GenerationRequest that it honours."""

    grammars: frozenset[GrammarKind] = frozenset()
    max_logprobs: int = 0
    """Most alternatives of `logprobs`."""

    embeddings: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine's loop moves. `idle_s` is the time since it last went round."""

    ok: bool
    idle_s: float
    message: str = ""


@dataclass(slots=True)
class EngineStats:
    """Gauges (running, waiting, tokens in the KV cache and their share of it) and counters since the start."""

    num_running: int = 0
    num_waiting: int = 0
    num_kv_tokens: int = 0
    kv_cache_usage: float = 0.0
    """Share of the cache that holds running requests, 0 to 1."""

    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0
    prefix_cache_queries_total: int = 0
    """Prompt tokens that were looked up among kept states."""

    prefix_cache_hits_total: int = 0
    """Of those found."""

    num_finished: dict[str, int] = field(default_factory=dict)
    running_adapters: dict[str, int] = field(default_factory=dict)
    """Requests being generated by adapter; the base is not among them. An engine that cannot tell has all here."""

    waiting_adapters: dict[str, int] = field(default_factory=dict)
    """Waiting requests by adapter."""


def refuse_length(request: GenerationRequest, longest: int, least_new: int = 1) -> None:
    """Raise ValueError for a prompt or an answer of no token, or both together beyond `longest`."""
    prompt, new = len(request.prompt), request.max_new_tokens
    if not prompt or new < least_new or prompt + new > longest:
        raise ValueError(
            f"{prompt} prompt tokens and {new} new ones: at least one of each and at most {longest} together"
        )


class QueueFullError(Exception):
    """The engine has as many waiting requests as it may have."""


class Engine(Protocol):
    """A generation engine. Methods may be called from any thread; the coroutines need a running event loop."""

    def start(self) -> None:
        """Load what is needed and begin to serve; returns when requests are taken."""

    def drain(self) -> None:
        """Refuse new requests as QueueFullError and let those in flight end; returns at once."""

    def stop(self) -> None:
        """End all requests as cancelled and free the model."""

    def health(self) -> Health:
        """Whether the loop moves."""

    def load_adapter(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Load an adapter under a name, while requests go on.

        Raises UserError if it does not fit the base, is not that content, or is of a kind that the engine cannot hold.
        """

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; requests in flight on it are cancelled. Unknown names are ignored."""

    def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate; leaving the iterator cancels.

        Raises QueueFullError, KeyError (adapter), ValueError (length, or a parameter, named, beyond the capabilities).
        """

    async def embed(self, prompts: Sequence[tuple[int, ...]], adapter: str | None = None) -> list[list[float]]:
        """Mean of each prompt's last hidden states, of length 1. Raises as `submit` does."""

    def cancel(self, request_id: str) -> None:
        """End a request at the next step; unknown ids are ignored."""

    def stats(self) -> EngineStats:
        """A snapshot."""

    def capabilities(self) -> Capabilities:
        """What this engine can do."""
