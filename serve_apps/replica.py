"""A replica of the engine: it generates for the gateways and knows nothing of HTTP.

It is ready when its constructor has loaded the base and every adapter and checked each adapter's SHA-256, so a broken
one never gets traffic. Adapters with a number of replicas of their own (`serve_apps.router`) are loaded, and checked,
by the first request.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.inference.protocol import (
    Capabilities,
    Engine,
    EngineStats,
    GenerationRequest,
    Health,
    QueueFullError,
)
from ftlib.models.adapt import fetch_adapter
from serve_apps.args import AdapterArgs, AppArgs
from serve_apps.mail import Letter, Listen, Mailboxes, Refused, Started
from serve_apps.shelf import AdapterShelf

logger = get_logger(f"ftlib.{__name__}")


@dataclass(frozen=True)
class Snapshot:
    """A replica as it is now."""

    replica: str
    health: Health
    stats: EngineStats = field(default_factory=EngineStats)
    metrics_text: str = ""
    """What an engine in another process counts itself, in Prometheus' format."""

    num_adapters: int = 0
    """Those that it holds."""


class EngineReplica:
    """Holds the engine."""

    def __init__(self, args: AppArgs) -> None:
        from ray import serve

        from ftlib.core.logging import setup_logging
        from ftlib.models.source import resolve_source

        setup_logging()
        self._rows = args.max_ongoing_requests
        self._replica = serve.get_replica_context().replica_id.unique_id
        folder = resolve_source(args.source)
        self._engine = _embedded_engine(folder, args) if args.vllm is None else _vllm_engine(folder, args)
        self._engine.start()
        self._loading = threading.Lock()
        self._loaded: set[str] = set()
        self._mailboxes = Mailboxes()
        self._shelf = AdapterShelf(Path(args.state_dir) / "adapters", folder) if args.load_adapters else None
        self._known = {adapter.engine_id: adapter for adapter in args.adapters}
        # Those with homes are loaded where the router sends their requests.
        for adapter in args.adapters:
            if adapter.replicas is None:
                self._load(adapter)
        for adapter in self._shelf.all().values() if self._shelf is not None and args.adapter_replicas is None else ():
            try:
                self._load(adapter)
            except UserError as error:  # its files are gone: no reason to serve nothing
                logger.warning("adapter %s is not loaded: %s", adapter.name, error)

    def _load(self, adapter: AdapterArgs) -> None:
        name = adapter.engine_id
        with self._loading:
            if name not in self._loaded:
                self._engine.load_adapter(name, fetch_adapter(adapter.path, adapter.sha256), adapter.sha256)
                self._loaded.add(name)

    async def load_adapter(self, adapter: AdapterArgs) -> Refused | None:
        """Load an adapter while requests go on."""
        try:
            await asyncio.to_thread(self._load, adapter)
        except UserError as error:
            return Refused("value", str(error))
        return None

    async def unload_adapter(self, adapter: AdapterArgs) -> None:
        """Forget an adapter; requests in flight on it are cancelled."""
        name = adapter.engine_id
        if name in self._loaded:
            self._loaded.discard(name)
            await asyncio.to_thread(self._engine.unload_adapter, name)

    async def _have(self, name: str | None) -> None:
        """Load an adapter that this replica lacks, if anybody knows it."""
        if name is None or name in self._loaded:
            return
        known = self._known
        if name not in known and self._shelf is not None:
            known = {adapter.engine_id: adapter for adapter in (await asyncio.to_thread(self._shelf.all)).values()}
        if name in known:
            await self.load_adapter(known[name])

    async def generate(self, request: GenerationRequest, gateway: str) -> AsyncGenerator[Started | Refused, None]:
        """Generate an answer, whose events go to `listen`; leaving cancels it."""
        yield Started(self._replica)
        try:
            with self._mailboxes.writing(gateway, request.request_id) as send:
                await self._have(request.adapter)
                async with aclosing(self._engine.submit(request)) as events:
                    async for event in events:
                        send(event)
        except QueueFullError:
            yield Refused("queue")
        except KeyError:
            yield Refused("adapter")
        except ValueError as error:
            yield Refused("value", str(error))

    async def listen(self, wish: Listen) -> AsyncGenerator[list[Letter], None]:
        """The events of a gateway's answers, all that a step brings together; none and an end in another replica."""
        if wish.replica != self._replica:
            yield []
            return
        async with aclosing(self._mailboxes.fetch(wish.gateway)) as bundles:
            async for letters in bundles:
                yield letters

    async def embed(self, prompts: Sequence[tuple[int, ...]], adapter: str | None) -> list[list[float]] | Refused:
        """Embeddings of prompts."""
        try:
            await self._have(adapter)
            return await self._engine.embed(prompts, adapter)
        except QueueFullError:
            return Refused("queue")
        except KeyError:
            return Refused("adapter")

    async def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities()

    async def snapshot(self, with_text: bool = False) -> Snapshot:
        """How it is; `with_text`: with what the engine counts itself."""
        texts = getattr(self._engine, "metrics_text", None) if with_text else None
        text = texts() if texts else ""
        return Snapshot(self._replica, self._engine.health(), self._engine.stats(), text, len(self._loaded))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve: requests per row, or the share of the cache in use, whichever is higher."""
        stats = self._engine.stats()
        return {"load": max((stats.num_running + stats.num_waiting) / self._rows, stats.kv_cache_usage)}

    def check_health(self) -> None:
        """Called by Serve; a replica whose engine stands still is replaced."""
        health = self._engine.health()
        if not health.ok:
            raise RuntimeError(health.message)


def _embedded_engine(folder: Path, args: AppArgs) -> Engine:
    import torch

    from ftlib.inference.embedded import EmbeddedEngine
    from ftlib.inference.stepper import Stepper

    device = "cuda" if args.num_gpus > 0 else "cpu"
    precision = "float32" if args.precision == "auto" and device == "cpu" else args.precision
    if device == "cpu":
        torch.set_num_threads(max(1, min(int(args.num_cpus), os.cpu_count() or 1)))
    rows = args.max_ongoing_requests
    return EmbeddedEngine(
        lambda: Stepper.load(
            folder, precision, device,
            num_slots=rows + max(2, rows // 2), capacity=args.max_model_len, max_adapters=len(args.adapters),
        ),
        max_rows=rows,
        max_waiting=args.max_queued_requests,
    )  # fmt: skip


def _vllm_engine(folder: Path, args: AppArgs) -> Engine:
    from ftlib.inference.vllm import VllmEngine
    from ftlib.inference.vllm_server import VllmOptions

    assert args.vllm is not None
    options = VllmOptions(
        folder, cpu=args.num_gpus == 0, dtype=args.precision, max_model_len=args.max_model_len,
        max_rows=args.max_ongoing_requests, **args.vllm.model_dump(),
    )  # fmt: skip
    return VllmEngine(options, args.max_queued_requests)
