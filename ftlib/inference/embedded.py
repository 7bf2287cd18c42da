"""The embedded engine: streaming answers from transformers' modules, one worker thread that owns the model.

Requests of one adapter share a batch (`Rows`). The loop goes round once for every decode step: it runs commands (load,
unload), drops cancelled rows, admits at most one waiting request (its prompt is one forward pass, so running answers
stall for one prompt at most), then takes one step for each group of rows. A row's tokens do not depend on its
neighbours but for the order of floating-point sums.

A defect in a step ends the requests of that group with `error`; the loop goes on.
"""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.inference.detokenize import Detokenizer, StopStrings
from ftlib.inference.protocol import (
    Capabilities,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Health,
    QueueFullError,
    TokenEvent,
)
from ftlib.inference.rows import Rows
from ftlib.inference.runner import ModelRunner
from ftlib.inference.sampling import sample

logger = get_logger(__name__)

_IDLE_WAIT_S = 1.0


@dataclass
class _Active:
    """A request in the engine: where its events go and its text so far."""

    request: GenerationRequest
    emit: Callable[[TokenEvent], None]
    detokenizer: Detokenizer
    stops: StopStrings
    num_generated: int = 0
    cancelled: bool = False


@dataclass
class _Group:
    """Rows of one adapter with the logits of their next token, `[R, vocabulary]`."""

    rows: Rows
    logits: Tensor
    members: list[_Active]


class EmbeddedEngine:
    """`ftlib.inference.protocol.Engine` on a ModelRunner that `load` makes in the worker thread's process."""

    def __init__(
        self,
        load: Callable[[], ModelRunner],
        max_model_len: int = 2048,
        max_rows: int = 16,
        max_waiting: int = -1,
        stall_s: float = 60.0,
    ) -> None:
        """Prepare an engine; `start` loads the model.

        Args:
            load: makes the runner.
            max_model_len: longest prompt and answer together, in tokens; bounded by the model's own positions.
            max_rows: answers generated at once.
            max_waiting: requests waiting beyond these; more raise QueueFullError. -1: no limit.
            stall_s: a loop that has not gone round for so long, with work to do, is unhealthy.
        """
        self._load, self._max_model_len = load, max_model_len
        self._max_rows, self._max_waiting, self._stall_s = max_rows, max_waiting, stall_s
        self._wake = threading.Condition()
        self._waiting: deque[_Active] = deque()
        self._commands: deque[Callable[[], None]] = deque()
        self._groups: dict[str | None, _Group] = {}
        self._requests: dict[str, _Active] = {}
        self._adapters: set[str] = set()
        self._stats = EngineStats()
        self._beat = time.monotonic()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.runner: ModelRunner

    def start(self) -> None:
        """Load the model and begin to serve."""
        self.runner = self._load()
        self._max_model_len = min(self._max_model_len, self.runner.max_positions)
        self._thread = threading.Thread(target=self._loop, name="ftlib-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all requests as cancelled and the thread with them."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=self._stall_s)

    def health(self) -> Health:
        """Unhealthy when the thread is dead, or the loop has not moved for `stall_s`."""
        idle_s = time.monotonic() - self._beat
        if self._thread is None or not self._thread.is_alive():
            return Health(False, idle_s, "the engine is not running")
        if idle_s > self._stall_s:
            return Health(False, idle_s, f"the engine has not moved for {idle_s:.0f} s")
        return Health(True, idle_s)

    def load_adapter(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Load an adapter between two steps; returns when it can be asked for."""
        self._in_loop(lambda: self.runner.load_adapter(name, path, sha256))
        self._adapters.add(name)

    def unload_adapter(self, name: str) -> None:
        """Refuse new requests on the adapter, cancel those in flight, then forget it."""
        self._adapters.discard(name)
        with self._wake:
            for active in self._requests.values():
                if active.request.adapter == name:
                    active.cancelled = True
        self._in_loop(lambda: self._unload(name))

    def capabilities(self) -> Capabilities:
        """Longest prompt and answer, and the parameters that are honoured."""
        return Capabilities(max_model_len=self._max_model_len)

    def stats(self) -> EngineStats:
        """A snapshot of gauges and counters."""
        with self._wake:
            running = sum(len(group.members) for group in self._groups.values())
            return replace(
                self._stats,
                num_running=running,
                num_waiting=len(self._waiting),
                num_finished=dict(self._stats.num_finished),
            )

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate; leaving the iterator cancels the request.

        Raises:
            QueueFullError: `max_waiting` requests wait already.
            KeyError: the adapter is not loaded.
            ValueError: an empty prompt, no room for a single token, or an id in use.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[TokenEvent] = asyncio.Queue()

        def emit(event: TokenEvent) -> None:
            try:
                loop.call_soon_threadsafe(events.put_nowait, event)
            except RuntimeError:  # the caller's event loop is closed: nobody listens any more
                self.cancel(request.request_id)

        self.add(request, emit)
        try:
            while True:
                event = await events.get()
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            self.cancel(request.request_id)

    def add(self, request: GenerationRequest, emit: Callable[[TokenEvent], None]) -> None:
        """`submit` with a callback, which is called from the engine's thread and must not block."""
        if request.adapter is not None and request.adapter not in self._adapters:
            raise KeyError(request.adapter)
        total = len(request.prompt) + request.max_new_tokens
        if not request.prompt or request.max_new_tokens < 1 or total > self._max_model_len:
            raise ValueError(
                f"{len(request.prompt)} prompt tokens and {request.max_new_tokens} new ones: at least one of each and "
                f"at most {self._max_model_len} together"
            )
        if request.seed is None:
            request = replace(request, seed=random.getrandbits(62))
        active = _Active(
            request, emit, Detokenizer(self.runner.tokenizer_of(request.adapter)), StopStrings(request.stop)
        )
        with self._wake:
            if self._stopping:
                raise QueueFullError("the engine is stopping")
            if request.request_id in self._requests:
                raise ValueError(f"request id {request.request_id} is in use")
            # What the next rounds admit does not wait.
            free = self._max_rows - sum(len(group.members) for group in self._groups.values())
            if 0 <= self._max_waiting <= len(self._waiting) - max(0, free):
                raise QueueFullError(f"{len(self._waiting)} requests are waiting")
            self._requests[request.request_id] = active
            self._waiting.append(active)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """End a request at the next step; unknown ids are ignored."""
        with self._wake:
            if active := self._requests.get(request_id):
                active.cancelled = True
                self._wake.notify()

    def _in_loop(self, command: Callable[[], None]) -> None:
        """Run a command in the engine's thread, between two steps, and wait for it."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                command()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        with self._wake:
            if self._stopping or self._thread is None:
                raise UserError("the engine is not running")
            self._commands.append(run)
            self._wake.notify()
        done.result()

    def _unload(self, name: str) -> None:
        self._drop_cancelled()
        self.runner.unload_adapter(name)

    def _loop(self) -> None:
        with torch.inference_mode():
            while True:
                with self._wake:
                    self._beat = time.monotonic()
                    if self._stopping:
                        break
                    if not (self._commands or self._waiting or self._groups):
                        self._wake.wait(_IDLE_WAIT_S)
                        continue
                    commands, self._commands = list(self._commands), deque()
                for command in commands:
                    command()
                self._drop_cancelled()
                self._admit()
                for adapter in list(self._groups):
                    self._guarded(self._groups[adapter].members, lambda adapter=adapter: self._step(adapter))  # type: ignore[misc]
                self._stats.num_kv_tokens = sum(group.rows.num_tokens for group in self._groups.values())
        for command in self._commands:  # their callers wait for an outcome
            command()
        for active in list(self._requests.values()):
            self._end(active, "cancelled")

    def _guarded(self, members: list[_Active], work: Callable[[], None]) -> None:
        """Run a part of the loop; a defect ends the requests it touches and no others."""
        try:
            work()
        except Exception as error:
            # The message of an error may hold prompt text: the type is enough to find it.
            logger.error("a step failed: %s", type(error).__name__, exc_info=error)
            for active in list(members):
                self._end(active, "error", message=type(error).__name__)
            for adapter, group in list(self._groups.items()):
                if group.members is members:
                    del self._groups[adapter]

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [active for active in self._waiting if active.cancelled]
            self._waiting = deque(active for active in self._waiting if not active.cancelled)
        for active in gone:
            self._end(active, "cancelled")
        for adapter, group in list(self._groups.items()):
            for active in [active for active in group.members if active.cancelled]:
                self._end(active, "cancelled")
            self._compact(adapter, [i for i, active in enumerate(group.members) if not active.cancelled])

    def _admit(self) -> None:
        """Take in the request that has waited longest, if there is room: its prompt, and a row in its group."""
        with self._wake:
            running = sum(len(group.members) for group in self._groups.values())
            if not self._waiting or running >= self._max_rows:
                return
            active = self._waiting.popleft()
        self._guarded([active], lambda: self._prefill(active))

    def _prefill(self, active: _Active) -> None:
        request = active.request
        self.runner.use(request.adapter)
        rows = Rows(1, self.runner.device)
        ids = torch.tensor([request.prompt], device=self.runner.device)
        logits = rows.forward(self.runner.model, ids)[:, -1].float()
        self._stats.prompt_tokens_total += len(request.prompt)
        group = self._groups.get(request.adapter)
        if group is None:
            self._groups[request.adapter] = _Group(rows, logits, [active])
        else:
            group.rows.join(rows)
            group.logits = torch.cat([group.logits, logits])
            group.members.append(active)

    def _step(self, adapter: str | None) -> None:
        """Choose and emit the next token of each row, then run the model on those that go on."""
        group = self._groups[adapter]
        likeliest = group.logits.argmax(-1).tolist()
        going_on, next_ids = [], []
        for row, active in enumerate(group.members):
            request = active.request
            token = likeliest[row]
            if request.temperature > 0:
                position = active.num_generated
                token = sample(group.logits[row], request.temperature, request.top_p, request.seed or 0, position)
            if self._emit(active, token):
                going_on.append(row)
                next_ids.append([token])
        self._compact(adapter, going_on)
        if not going_on:
            return
        self.runner.use(adapter)
        ids = torch.tensor(next_ids, device=self.runner.device)
        group.logits = group.rows.forward(self.runner.model, ids)[:, -1].float()

    def _emit(self, active: _Active, token: int) -> bool:
        """Send a token's event; returns whether the answer goes on."""
        active.num_generated += 1
        self._stats.generation_tokens_total += 1
        if token in self.runner.stop_ids:
            self._end(active, "stop", token)
            return False
        text = active.stops.push(active.detokenizer.push(token))
        if active.stops.stopped:
            self._end(active, "stop", token, text)
            return False
        if active.num_generated >= active.request.max_new_tokens:
            self._end(active, "length", token, text)
            return False
        active.emit(TokenEvent(token, text))
        return True

    def _end(
        self,
        active: _Active,
        reason: FinishReason,
        token: int | None = None,
        text: str = "",
        message: str | None = None,
    ) -> None:
        """Send the last event and forget the request; text that was held back comes with it."""
        if reason in ("stop", "length"):
            text += active.stops.push(active.detokenizer.flush()) + active.stops.flush()
            reason = "stop" if active.stops.stopped else reason
        with self._wake:
            if self._requests.pop(active.request.request_id, None) is None:
                return
            self._stats.num_finished[reason] = self._stats.num_finished.get(reason, 0) + 1
        active.emit(TokenEvent(token, text, reason, message))

    def _compact(self, adapter: str | None, keep: list[int]) -> None:
        """Keep these rows of a group; an empty group goes."""
        group = self._groups[adapter]
        if len(keep) == len(group.members):
            return
        group.members[:] = [group.members[row] for row in keep]
        if not keep:
            with self._wake:
                del self._groups[adapter]
            return
        group.rows.keep(keep)
        group.logits = group.logits[torch.tensor(keep, device=group.logits.device)]
