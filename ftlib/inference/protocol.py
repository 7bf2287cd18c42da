"""What an engine takes and gives, whichever engine it is: plain dataclasses and one Protocol.

Imports the standard library alone, so that a gateway, an engine in this process and one in a child process can share
it. Prompts are token ids: the caller owns the chat template, the engine owns the model.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to generate.

    `temperature` 0 is greedy. `seed` fixes the random draws of this request whatever else runs beside it; None draws a
    seed. `stop` strings end the answer and are not part of it. `adapter` names a loaded adapter; None is the base.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    adapter: str | None = None


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


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; requests beyond it are refused, never bent."""

    max_model_len: int
    adapters: bool = True
    parameters: frozenset[str] = frozenset({"max_new_tokens", "temperature", "top_p", "seed", "stop"})


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine's loop moves. `idle_s` is the time since it last went round."""

    ok: bool
    idle_s: float
    message: str = ""


@dataclass(slots=True)
class EngineStats:
    """Gauges (running, waiting, tokens in the KV cache) and counters since the start."""

    num_running: int = 0
    num_waiting: int = 0
    num_kv_tokens: int = 0
    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0
    num_finished: dict[str, int] = field(default_factory=dict)


class QueueFullError(Exception):
    """The engine has as many waiting requests as it may have."""


class Engine(Protocol):
    """A generation engine. All methods may be called from any thread but `submit`, which needs a running event loop."""

    def start(self) -> None:
        """Load what is needed and begin to serve; returns when requests are taken."""

    def stop(self) -> None:
        """End all requests as cancelled and free the model."""

    def health(self) -> Health:
        """Whether the loop moves."""

    def load_adapter(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Load an adapter under a name; raises UserError if it does not fit the base or is not that content."""

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; requests in flight on it end first."""

    def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate; leaving the iterator cancels. Raises QueueFullError, KeyError (adapter), ValueError (length)."""

    def cancel(self, request_id: str) -> None:
        """End a request at the next step; unknown ids are ignored."""

    def stats(self) -> EngineStats:
        """A snapshot."""

    def capabilities(self) -> Capabilities:
        """What this engine can do."""
