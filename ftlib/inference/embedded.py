"""The embedded engine: continuous batching of requests with any adapters, one worker thread that owns the model.

The loop goes round once a step: it runs commands (adapters in and out), drops cancelled requests, gives waiting ones a
slot, and computes one row of tokens: the next one of every answer under way, and beside them chunks of prompts, so that
a long prompt holds up nobody for longer than a chunk takes. A request takes over the states of an earlier one as far as
their tokens, adapter and salt agree.

A defect in a step ends the requests in it with `error`; the loop goes on.
"""

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.inference.detokenize import Detokenizer, StopStrings
from ftlib.inference.outbox import Outbox
from ftlib.inference.protocol import (
    Capabilities,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Health,
    QueueFullError,
    TokenEvent,
    refuse_length,
)
from ftlib.inference.sampling import SamplingState
from ftlib.inference.scheduler import Active, Scheduler
from ftlib.inference.stepper import Stepper

logger = get_logger(__name__)

T = TypeVar("T")

_IDLE_WAIT_S = 1.0
_MAX_LOGPROBS = 20
_STEPS_BACK = 4  # of niceness


class EmbeddedEngine:
    """`ftlib.inference.protocol.Engine` on a Stepper that `load` makes."""

    def __init__(
        self,
        load: Callable[[], Stepper],
        *,
        max_rows: int = 16,
        max_waiting: int = -1,
        stall_s: float = 60.0,
        prefill_tokens: int = 256,
        reuse_prefixes: bool = True,
    ) -> None:
        """Prepare an engine; `start` loads the model.

        Args:
            load: makes the stepper; its slots beyond `max_rows` keep prompts of ended requests.
            max_rows: answers generated at once.
            max_waiting: requests waiting beyond these; more raise QueueFullError. -1: no limit.
            stall_s: a loop that has not gone round for so long, with work to do, is unhealthy.
            prefill_tokens: prompt tokens computed in a step beside answers under way.
            reuse_prefixes: whether states of earlier prompts are used again.
        """
        self._load, self._max_rows, self._max_waiting = load, max_rows, max_waiting
        self._stall_s, self._prefill_tokens, self._reuse = stall_s, prefill_tokens, reuse_prefixes
        self._wake, self._adding = threading.Condition(), threading.Lock()
        self._waiting: deque[Active] = deque()
        self._commands: deque[Callable[[], None]] = deque()
        self._requests: dict[str, Active] = {}
        self._adapters: set[str] = set()
        self._num_finished: Counter[str] = Counter()
        self._beat = time.monotonic()
        self._stopping = self._draining = False
        self._thread: threading.Thread | None = None
        self._outbox = Outbox()
        self._scheduler: Scheduler
        self.stepper: Stepper

    def start(self) -> None:
        """Load the model and begin to serve."""
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="ftlib-engine", daemon=True)
        self._thread.start()
        ready.result()

    def drain(self) -> None:
        """Refuse new requests; those in flight end."""
        with self._wake:
            self._draining = True

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
        """Read an adapter here and put it into the model, between two steps if it must grow for it."""
        adapter = _in_own_thread(lambda: self.stepper.read(name, path, sha256))
        with self._adding:
            if self.stepper.has_room(adapter):
                _in_own_thread(lambda: self.stepper.add(adapter))
            else:
                self._in_loop(lambda: self.stepper.add(adapter))
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
        """All there are; the longest prompt and answer is what a slot holds."""
        return Capabilities(
            max_model_len=self.stepper.slots.capacity,
            grammars=frozenset({"json_schema", "json_object", "regex"}),
            max_logprobs=_MAX_LOGPROBS,
            embeddings=True,
        )

    def stats(self) -> EngineStats:
        """A snapshot of gauges and counters."""
        with self._wake:
            kv_tokens = sum(active.num_done for active in self._scheduler.active)
            running, waiting = (
                Counter(active.request.adapter for active in group if active.request.adapter)
                for group in (self._scheduler.active, self._waiting)
            )
            return replace(
                self._scheduler.stats,
                num_running=len(self._scheduler.active),
                num_waiting=len(self._waiting),
                num_kv_tokens=kv_tokens,
                kv_cache_usage=kv_tokens / (self._max_rows * self.stepper.slots.capacity),
                num_finished=dict(self._num_finished),
                running_adapters=dict(running),
                waiting_adapters=dict(waiting),
            )

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate; leaving the iterator cancels the request.

        Raises:
            QueueFullError: `max_waiting` requests wait already, or the engine drains.
            KeyError: the adapter is not loaded.
            ValueError: an empty prompt, no room for a single token, a grammar that cannot be compiled, an id in use.
        """
        events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        send = self._outbox.to(asyncio.get_running_loop(), events.put_nowait)
        sampling = await asyncio.to_thread(self._sampling, request) if request.grammar else self._sampling(request)
        self._add(request, send, sampling)
        try:
            while True:
                event = await events.get()
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            self.cancel(request.request_id)

    async def embed(self, prompts: Sequence[tuple[int, ...]], adapter: str | None = None) -> list[list[float]]:
        """Mean of each prompt's last hidden states, of length 1."""
        ids = [f"embed-{random.getrandbits(64):x}" for _ in prompts]
        futures: list[Future[list[float]]] = []
        try:
            for name, prompt in zip(ids, prompts, strict=True):
                futures.append(Future())
                request = GenerationRequest(name, prompt, 0, adapter=adapter)
                self._add(request, lambda event: None, SamplingState(request, 0), futures[-1])
            return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
        finally:
            for name in ids:
                self.cancel(name)

    def add(self, request: GenerationRequest, emit: Callable[[TokenEvent], None]) -> None:
        """`submit` with a callback, which is called from the engine's thread and must not block."""
        self._add(request, emit, self._sampling(request))

    def _sampling(self, request: GenerationRequest) -> SamplingState:
        seed = request.seed if request.seed is not None else random.getrandbits(62)
        if request.grammar is None:
            return SamplingState(request, seed)
        return SamplingState(request, seed, self.stepper.grammars_of(request.adapter).matcher(request.grammar))

    def _add(
        self,
        request: GenerationRequest,
        emit: Callable[[TokenEvent], None],
        sampling: SamplingState,
        embedded: Future[list[float]] | None = None,
    ) -> None:
        self._check(request, embedded is not None)
        tokenizer = self.stepper.tokenizer_of(request.adapter)
        active = Active(
            request, emit, [*request.prompt, *request.generated], sampling, Detokenizer(tokenizer),
            StopStrings(request.stop), embedded=embedded,
        )  # fmt: skip
        for token in request.generated:
            active.stops.push(active.detokenizer.push(token))
        sampling.num_generated = len(request.generated)
        if sampling.matcher is not None:
            sampling.matcher.accept(request.generated)
        with self._wake:
            if self._stopping or self._draining:
                raise QueueFullError("the engine is stopping")
            if request.request_id in self._requests:
                raise ValueError(f"request id {request.request_id} is in use")
            # What the next rounds admit does not wait; an answer under way, come from elsewhere, is not refused.
            free = self._max_rows - len(self._scheduler.active)
            if not request.generated and 0 <= self._max_waiting <= len(self._waiting) - max(0, free):
                raise QueueFullError(f"{len(self._waiting)} requests are waiting")
            self._requests[request.request_id] = active
            self._waiting.append(active)
            self._wake.notify()

    def _check(self, request: GenerationRequest, embeds: bool) -> None:
        if request.adapter is not None and request.adapter not in self._adapters:
            raise KeyError(request.adapter)
        refuse_length(request, self.stepper.slots.capacity, least_new=0 if embeds else 1)
        if not embeds and len(request.generated) >= request.max_new_tokens:
            raise ValueError("generated: the answer is complete already")
        if (request.logprobs or 0) > _MAX_LOGPROBS:
            raise ValueError(f"logprobs: at most {_MAX_LOGPROBS}")

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
        self._scheduler.forget(name)
        self.stepper.remove(name)

    def _run(self, ready: Future[None]) -> None:
        # The model is loaded here, where it is used: see _in_own_thread.
        _step_back()
        try:
            self.stepper = self._load()
            slots = self.stepper.slots
            if slots.num_slots < self._max_rows:
                raise ValueError(f"{self._max_rows} rows need as many slots, not {slots.num_slots}")
            self._scheduler = Scheduler(self.stepper, self._prefill_tokens, self._reuse)
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            self._rounds()
        except Exception as error:
            # Nobody may wait for a loop that is gone; `health` tells that it is.
            logger.error("the engine's loop failed: %s", type(error).__name__, exc_info=error)
        with self._wake:
            self._stopping = True
        for command in self._commands:  # their callers wait for an outcome
            command()
        for active in list(self._requests.values()):
            self._end(active, "cancelled")
        self._outbox.flush()

    def _rounds(self) -> None:
        with torch.inference_mode():
            while True:
                with self._wake:
                    self._beat = time.monotonic()
                    if self._stopping:
                        break
                    if not (self._commands or self._waiting or self._scheduler.active):
                        self._wake.wait(_IDLE_WAIT_S)
                        continue
                    commands, self._commands = list(self._commands), deque()
                for command in commands:
                    command()
                self._drop_cancelled()
                self._admit()
                if self._scheduler.active:
                    self._step()
                self._outbox.flush()

    def _step(self) -> None:
        """A step; a defect ends the requests in it and no others."""
        batch = self._scheduler.next_batch()
        try:
            events = self._scheduler.step(batch)
        except Exception as error:
            # The message of an error may hold prompt text: the type is enough to find it.
            logger.error("a step failed: %s", type(error).__name__, exc_info=error)
            for active, _ in batch:
                self._end(active, "error", message=type(error).__name__)
            return
        for active, event in events:
            if event.finish_reason is not None:
                self._forget(active, event.finish_reason)
            active.emit(event)

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [active for active in self._requests.values() if active.cancelled]
        for active in gone:
            self._end(active, "cancelled")

    def _admit(self) -> None:
        while len(self._scheduler.active) < self._max_rows:
            with self._wake:
                if not self._waiting:
                    return
                self._scheduler.admit(self._waiting.popleft())

    def _end(self, active: Active, reason: FinishReason, message: str | None = None) -> None:
        if not self._forget(active, reason):
            return
        if active.embedded is not None:
            if not active.embedded.done():
                active.embedded.set_exception(RuntimeError(message or reason))
            return
        active.emit(TokenEvent(None, "", reason, message))

    def _forget(self, active: Active, reason: FinishReason) -> bool:
        """Free a request's slot; False if it has ended already."""
        with self._wake:
            if self._requests.pop(active.request.request_id, None) is None:
                return False
            if active.slot >= 0:
                self._scheduler.leave(active)
            elif active in self._waiting:
                self._waiting.remove(active)
        self._num_finished[reason] += 1
        return True


def _step_back() -> None:
    """Let this thread, and the helpers that it starts, go behind the others of the process and its neighbours.

    Those who read requests, write answers and load adapters need little and at once; on Linux threads have a niceness
    of their own.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _STEPS_BACK)


def _in_own_thread(work: Callable[[], T]) -> T:
    """Do work in a thread that ends with it.

    GNU OpenMP keeps helpers for every thread that ever ran a parallel loop, and once a process has more of them than
    CPUs its threads no longer spin for each other but sleep: steps of the engine took 1.4 times as long. The helpers of
    a thread that ended are gone.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="ftlib-engine-read", daemon=True).start()
    return done.result()
