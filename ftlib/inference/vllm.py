"""An engine that is vLLM, run as a supervised child process in an environment of its own.

One thread watches the child: it reads the metrics twice a second, and when the child dies it starts it again, with
growing pauses and not for ever, and loads the adapters again. Requests that were in flight end as `error`. Each answer
is one HTTP stream, read by a task in the caller's event loop; ending the task closes the connection, and vLLM drops a
request whose connection is closed.

Adapters are known to vLLM under names that never come back: its cache of prompt states is keyed by the name, so that
other weights under a name of before would answer from states of the old ones.
"""

import asyncio
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.core.logging import get_logger
from ftlib.core.storage import read_json
from ftlib.inference.protocol import (
    Capabilities,
    EngineStats,
    GenerationRequest,
    Health,
    QueueFullError,
    TokenEvent,
)
from ftlib.inference.vllm_adapters import refuse_adapter, refuse_code, write_zero_adapter
from ftlib.inference.vllm_requests import (
    GRAMMARS,
    MAX_LOGPROBS,
    Answer,
    completion_body,
    parse_metrics,
    refuse_request,
)
from ftlib.inference.vllm_server import BASE_NAME, RefusedError, ServerError, VllmOptions, VllmServer
from ftlib.models.adapt import check_adapter
from ftlib.models.chat import stop_token_ids
from ftlib.models.load import load_tokenizer

logger = get_logger(__name__)

_POLL_S = 0.5
_MAX_PAUSE_S = 30.0
_GOOD_RUN_S = 600.0
_ZERO = "zero"
_TOTALS = ("prompt_tokens_total", "generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total")


@dataclass(frozen=True)
class _Adapter:
    """A loaded adapter: vLLM's name for it and where its files are."""

    internal: str
    path: Path


@dataclass
class _Active:
    """A request in flight: its events, and the task in `loop` that reads them. The base's adapter is None."""

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[TokenEvent | Exception]"
    task: "asyncio.Task[None] | None" = None

    def cancel(self) -> None:
        with suppress(RuntimeError):  # the caller's event loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(lambda: self.task and self.task.cancel())


class VllmEngine:
    """`ftlib.inference.protocol.Engine` on vLLM's OpenAI server."""

    def __init__(
        self, options: VllmOptions, max_waiting: int = -1, stall_s: float = 60.0, max_restarts: int = 3
    ) -> None:
        """Prepare an engine; `start` starts the server.

        Args:
            options: how the server is run.
            max_waiting: requests beyond `options.max_rows` in flight; more raise QueueFullError. -1: no limit.
            stall_s: an engine that has not moved for so long, with requests in flight, is unhealthy.
            max_restarts: times that a server that died is started again; one that had served for ten minutes is not
                counted with those before.
        """
        self._options, self._max_waiting = options, max_waiting
        self._stall_s, self._max_restarts = stall_s, max_restarts
        self._lock = threading.Lock()
        self._adapter_lock = threading.RLock()  # held while the server is told of adapters
        self._requests: dict[str, _Active] = {}
        self._adapters: dict[str, _Adapter] = {}
        self._num_loaded = self._num_runs = self._num_failures = 0
        self._stats, self._num_finished = EngineStats(), Counter[str]()
        self._totals_before = dict.fromkeys(_TOTALS, 0)
        self._progress: tuple[float, ...] = ()
        self._metrics_text = ""
        self._beat = self._ready_at = time.monotonic()
        self._down = "the engine is not running"  # why nothing can be asked of the server; empty while it serves
        self._draining = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._server: VllmServer | None = None

    def start(self) -> None:
        """Start vLLM and wait until it serves. Raises UserError, with its last lines, if it does not."""
        refuse_code(self._options.model)
        self._tokenizer = load_tokenizer(self._options.model)
        self._stop_ids = _stop_ids(self._options.model, self._tokenizer)
        self._folder = Path(tempfile.mkdtemp(prefix="ftlib-vllm-"))
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._supervise, args=(ready,), name="ftlib-vllm", daemon=True)
        self._thread.start()
        ready.result()

    def drain(self) -> None:
        """Refuse new requests and let those in flight end."""
        self._draining = True

    def stop(self) -> None:
        """End all requests as cancelled, and vLLM with all its processes."""
        self._stopping.set()
        with self._lock:
            active = list(self._requests.values())
        for item in active:
            item.cancel()
        if self._thread is not None:
            self._thread.join()

    def health(self) -> Health:
        """Whether vLLM serves and, with requests in flight, its counters or answers have grown within `stall_s`."""
        idle_s = time.monotonic() - self._beat
        if self._down or self._server is None:
            return Health(False, idle_s, self._down)
        if self._server.exit_code() is not None:
            return Health(False, idle_s, "vLLM has ended")
        if idle_s > self._stall_s:
            return Health(False, idle_s, f"vLLM has not moved for {idle_s:.0f} s")
        return Health(True, idle_s)

    def capabilities(self) -> Capabilities:
        """All parameters and grammars; some combinations and `generated` with draws are refused (`refuse_request`)."""
        return Capabilities(
            max_model_len=self._options.max_model_len,
            max_lora_rank=self._options.max_lora_rank,
            grammars=GRAMMARS,
            max_logprobs=MAX_LOGPROBS,
        )

    def load_adapter(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Load an adapter, whose folder must stay as it is until it is unloaded: vLLM may read it again."""
        with self._adapter_lock:
            if name in self._adapters:
                raise UserError(
                    f"adapter {name} is loaded already; names stand for one content for as long as they are loaded"
                )
            actual = folder_sha256(path)
            if sha256 not in (None, actual):
                raise UserError(
                    f"adapter {name}: the files in {path} are not those expected (sha256 {actual[:12]}…, "
                    f"expected {sha256[:12]}…)"
                )
            refuse_code(path)
            refuse_adapter(path, self._options.max_lora_rank)
            check_adapter(path, self._options.model)
            self._num_loaded += 1
            adapter = _Adapter(f"{name}@{actual[:16]}.{self._num_loaded}", path.resolve())
            self._running().load_adapter(adapter.internal, adapter.path)
            self._adapters[name] = adapter

    def unload_adapter(self, name: str) -> None:
        """Refuse new requests on the adapter, cancel those in flight, then forget it."""
        with self._adapter_lock:
            adapter = self._adapters.pop(name, None)
            if adapter is None:
                return
            with self._lock:
                active = [item for item in self._requests.values() if item.request.adapter == name]
            for item in active:
                item.cancel()
            with suppress(UserError):  # a server that is being started again does not get it back
                self._running().unload_adapter(adapter.internal)

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate; leaving the iterator cancels the request.

        Raises:
            QueueFullError: too many requests are in flight, or vLLM is not serving.
            KeyError: the adapter is not loaded.
            ValueError: no room for a token, an id in use, or what vLLM refuses or would not do exactly.
        """
        active = self._enter(request)
        active.task = asyncio.create_task(self._read(active))
        # Not in the task: one that is cancelled before its first step runs no code of its own.
        active.task.add_done_callback(lambda _: self._read_ended(active))
        reason: str | None = "cancelled"
        try:
            while True:
                event = await active.events.get()
                if isinstance(event, Exception):
                    reason = None
                    raise event
                if event.finish_reason is not None:
                    reason = event.finish_reason
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            active.task.cancel()
            await asyncio.wait([active.task])
            with self._lock:
                del self._requests[request.request_id]
                if reason is not None:
                    self._num_finished[reason] += 1

    async def embed(self, prompts: Sequence[tuple[int, ...]], adapter: str | None = None) -> list[list[float]]:
        """Raises ValueError: vLLM's server of a generating model has no embeddings."""
        raise ValueError("embeddings: vLLM's server of a generating model has none")

    def cancel(self, request_id: str) -> None:
        """End a request; unknown ids are ignored."""
        with self._lock:
            active = self._requests.get(request_id)
        if active is not None:
            active.cancel()

    def stats(self) -> EngineStats:
        """vLLM's figures, at most about a second old; counters go on over its restarts."""
        with self._lock:
            adapters = Counter(item.request.adapter for item in self._requests.values() if item.request.adapter)
            return replace(
                self._stats,
                **{name: self._totals_before[name] + getattr(self._stats, name) for name in _TOTALS},
                num_finished=dict(self._num_finished),
                running_adapters=dict(adapters),
            )

    def metrics_text(self) -> str:
        """vLLM's own metrics in Prometheus' text format, at most about a second old; empty before the first."""
        return self._metrics_text

    def _enter(self, request: GenerationRequest) -> _Active:
        """Take a request in, or raise as `submit` does."""
        if request.adapter is not None and request.adapter not in self._adapters:
            raise KeyError(request.adapter)
        refuse_request(request, self._options.max_model_len)
        active = _Active(request, asyncio.get_running_loop(), asyncio.Queue())
        with self._lock:
            if self._down or self._draining or self._stopping.is_set():
                raise QueueFullError(self._down or "the engine takes no more requests")
            if request.request_id in self._requests:
                raise ValueError(f"request id {request.request_id} is in use")
            if 0 <= self._max_waiting <= len(self._requests) - self._options.max_rows:
                raise QueueFullError(f"{len(self._requests)} requests are in flight")
            if not self._requests:
                self._beat = time.monotonic()
            self._requests[request.request_id] = active
        return active

    async def _read(self, active: _Active) -> None:
        """Put the events of a request into its queue."""
        request = active.request
        base = _ZERO if self._options.cpu else BASE_NAME
        model = base if request.adapter is None else self._adapters[request.adapter].internal
        answer = Answer(request, self._tokenizer, self._stop_ids)
        body = completion_body(request, model, sorted(self._stop_ids))
        async with aclosing(self._running().complete(body)) as choices:
            async for choice in choices:
                self._beat = time.monotonic()
                for event in answer.push(choice):
                    active.events.put_nowait(event)
                    if event.finish_reason is not None:
                        return
        raise ServerError("the stream ended early")

    def _read_ended(self, active: _Active) -> None:
        """Put in the last event of a request whose reading ended without one: cancelled, refused or failed."""
        error = None if active.task is None or active.task.cancelled() else active.task.exception()
        if isinstance(error, RefusedError):
            active.events.put_nowait(error.reason)
        elif error is None or self._stopping.is_set():
            active.events.put_nowait(TokenEvent(None, "", "cancelled"))
        else:  # the message of an error may hold text of the request
            active.events.put_nowait(TokenEvent(None, "", "error", f"vLLM failed ({type(error).__name__})"))

    def _running(self) -> VllmServer:
        if self._server is None or self._down:
            raise UserError(self._down or "the engine is not running")
        return self._server

    def _supervise(self, ready: "Future[None]") -> None:
        """The thread: start the server, watch it, start it again, and end it."""
        try:
            if self._options.cpu:
                write_zero_adapter(self._options.model, self._folder / _ZERO)
            self._launch()
        except BaseException as error:
            ready.set_exception(error)
        else:
            ready.set_result(None)
            while not self._stopping.wait(_POLL_S):
                if self._server is None or self._server.exit_code() is not None:
                    if not self._start_again():
                        break
                else:
                    self._poll(self._server)
            self._stopping.wait()
        self._down = "the engine is not running"
        if self._server is not None:
            self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self) -> None:
        """Start a server and load the adapters. Raises UserError."""
        self._num_runs += 1
        self._server = VllmServer(self._options, self._folder, self._num_runs)
        self._server.wait_until_ready(self._stopping)
        if self._options.cpu:
            self._server.load_adapter(_ZERO, self._folder / _ZERO)
        with self._adapter_lock:
            for name, adapter in list(self._adapters.items()):
                try:
                    self._server.load_adapter(adapter.internal, adapter.path)
                except UserError as error:
                    logger.error("adapter %s is lost: %s", name, error)
                    del self._adapters[name]
            self._beat = self._ready_at = time.monotonic()
            self._down = ""

    def _start_again(self) -> bool:
        """Start a server in the place of one that died; returns whether it serves."""
        if self._server is not None:
            self._down = f"vLLM has ended (exit code {self._server.exit_code()})"
            logger.error("%s; its log: %s", self._down, self._server.log)
            self._server.stop()
        with self._lock:
            for name in _TOTALS:
                self._totals_before[name] += getattr(self._stats, name)
            self._stats = EngineStats()
        if time.monotonic() - self._ready_at > _GOOD_RUN_S:
            self._num_failures = 0
        while self._num_failures < self._max_restarts:
            self._num_failures += 1
            self._down = f"vLLM is being started again ({self._num_failures} of {self._max_restarts})"
            if self._stopping.wait(min(2.0 ** (self._num_failures - 1), _MAX_PAUSE_S)):
                return False
            try:
                self._launch()
                return True
            except (UserError, OSError) as error:
                logger.error("%s", error)
        self._down = f"vLLM ended {self._num_failures + 1} times; it is not started again"
        logger.error("%s", self._down)
        return False

    def _poll(self, server: VllmServer) -> None:
        """Read the metrics; an engine that is asked for nothing, or whose counters grow, moves."""
        try:
            text = server.metrics()
            stats, progress = parse_metrics(text)
        except (httpx.HTTPError, ValueError, OverflowError):
            return  # health tells, if it goes on
        with self._lock:
            self._stats, self._metrics_text = stats, text
            if progress != self._progress or not self._requests:
                self._beat = time.monotonic()
            self._progress = progress


def _stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer, as `ModelRunner` has them of the loaded model."""
    found = [path for name in ("generation_config.json", "config.json") if (path := folder / name).exists()]
    configured = SimpleNamespace(eos_token_id=read_json(str(found[0])).get("eos_token_id") if found else None)
    return frozenset(stop_token_ids(tokenizer, configured))
