"""The engine as a gateway sees it: replicas behind a Ray Serve handle, and streams that outlive them.

A gateway keeps the tokens of each answer under way. When its replica dies or stops, the request goes to another one
together with them (`GenerationRequest.generated`), and the stream goes on with neither a gap nor a repeated token:
token t is drawn by (seed, t) alone, and the seed is fixed before the first submission.
"""

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.exceptions import ActorUnavailableError, ObjectLostError, RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.inference.protocol import Capabilities, EngineStats, GenerationRequest, Health, QueueFullError, TokenEvent
from serve_apps.args import AdapterArgs
from serve_apps.mail import LostError, Postman, Refused
from serve_apps.replica import Snapshot

logger = get_logger(f"ftlib.{__name__}")

_LOST = (RayActorError, ActorUnavailableError, ObjectLostError, TaskCancelledError, LostError)
_MAX_FRUITLESS = 20
"""Submissions in a row, a pause between them, that bring no token before an answer is given up."""
_PAUSE_S, _MAX_PAUSE_S = 0.05, 2.0
_POLL_S = 1.0
_ANSWER_S = 10.0


class RemoteEngine:
    """`ftlib.inference.protocol.Engine` over replicas; `opened` must be entered before it is asked."""

    def __init__(self, engines: DeploymentHandle, max_of_replica: int = -1, everywhere: bool = True) -> None:
        """`max_of_replica`: answers and waiting requests that each replica takes; -1: no limit. `everywhere`: every
        replica holds the adapters that come while serving."""
        self._engines, self._max_of_replica, self._everywhere = engines, max_of_replica, everywhere
        self._num_in_flight = 0
        self._postman = Postman(engines, uuid.uuid4().hex)
        self._capabilities: Capabilities
        self._snapshots: list[Snapshot] = []
        self.num_resumed = 0
        """Streams that went on in another replica, a count for each time."""

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None, None]:
        """Ask what the engine can do, and keep up with how its replicas are."""
        self._capabilities = await self._engines.capabilities.remote()
        await self.refresh()
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            self._postman.close()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            with suppress(Exception):  # the next round asks again; health() tells when none answers
                await self.refresh()

    async def refresh(self, with_text: bool = False) -> None:
        """Ask all replicas how they are; those that do not answer in time are left out."""
        answers = self._engines.broadcast("snapshot", with_text)
        try:
            found = await answers.results_async(timeout_s=_ANSWER_S, return_exceptions=True)
        except (TimeoutError, *_LOST):
            found = []
        self._snapshots = [item for item in found if isinstance(item, Snapshot)]

    async def load(self, adapter: AdapterArgs) -> None:
        """Load an adapter into every replica, or into a home of it; raises UserError with the first refusal."""
        if self._everywhere:
            found = await self._engines.broadcast("load_adapter", adapter).results_async(return_exceptions=True)
        else:
            found = await asyncio.gather(self._engines.load_adapter.remote(adapter), return_exceptions=True)
        for item in found:
            if isinstance(item, Refused):
                raise UserError(item.message)
        if not found or all(isinstance(item, BaseException) for item in found):
            raise UserError("no replica answers")

    async def unload_everywhere(self, adapter: AdapterArgs) -> None:
        """Unload an adapter from every replica."""
        await self._engines.broadcast("unload_adapter", adapter).results_async(return_exceptions=True)

    def snapshots(self) -> list[Snapshot]:
        """The replicas as they were at the last `refresh`."""
        return self._snapshots

    @property
    def is_full(self) -> bool:
        """Whether this gateway's requests alone fill all replicas: another one is refused without asking them."""
        most = self._max_of_replica * max(1, len(self._snapshots))
        return 0 <= most <= self._num_in_flight

    def start(self) -> None:
        """Nothing: Serve starts the replicas."""

    def drain(self) -> None:
        """Nothing: Serve sends nothing to a replica that it stops, and waits for what is in flight."""

    def stop(self) -> None:
        """Nothing: Serve stops the replicas."""

    def health(self) -> Health:
        """The liveliest replica's."""
        healths = [item.health for item in self._snapshots]
        return min(healths, key=lambda health: (not health.ok, health.idle_s), default=_NONE)

    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._capabilities

    def stats(self) -> EngineStats:
        """All replicas together."""
        total = EngineStats()
        for item in self._snapshots:
            total.num_running += item.stats.num_running
            total.num_waiting += item.stats.num_waiting
        return total

    def load_adapter(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Not from here: replicas load the adapters that they are deployed with."""
        raise NotImplementedError

    def unload_adapter(self, name: str) -> None:
        """Not from here."""
        raise NotImplementedError

    def cancel(self, request_id: str) -> None:
        """Nothing: leaving `submit` cancels."""

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """Generate; leaving the iterator cancels. Raises as the engine does; a lost replica is no error."""
        if request.seed is None and request.temperature > 0:
            request = replace(request, seed=random.getrandbits(62))
        if self.is_full:
            raise QueueFullError("all replicas are full")
        self._num_in_flight += 1
        try:
            async with aclosing(self._anywhere(request)) as events:
                async for event in events:
                    yield event
        finally:
            self._num_in_flight -= 1

    async def _anywhere(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        tokens = list(request.generated)
        fruitless = attempt = 0
        while fruitless < _MAX_FRUITLESS:
            attempt_id = f"{request.request_id}-{attempt}"
            attempt += 1
            fruitless += 1
            try:
                async with aclosing(
                    self._postman.answer(replace(request, request_id=attempt_id, generated=tuple(tokens)))
                ) as items:
                    async for item in items:
                        if isinstance(item, Refused):
                            if len(tokens) == len(request.generated):
                                _refuse(item, request)
                            break  # of an answer under way: another replica, or this one a little later
                        if item.finish_reason == "cancelled":
                            break
                        fruitless = 0
                        if item.token is not None:
                            tokens.append(item.token)
                        yield item
                        if item.finish_reason is not None:
                            return
            except BackPressureError:
                if len(tokens) == len(request.generated):
                    raise QueueFullError("Serve's queue is full") from None
            except (*_LOST, DeploymentUnavailableError) as error:
                logger.warning("a replica is lost (%s): its stream goes on in another", type(error).__name__)
            self.num_resumed += 1
            await asyncio.sleep(min(_PAUSE_S * 2**fruitless, _MAX_PAUSE_S))
        yield TokenEvent(None, "", "cancelled", "no replica goes on with the answer")

    async def embed(self, prompts: Sequence[tuple[int, ...]], adapter: str | None = None) -> list[list[float]]:
        """Embeddings; asked again when a replica is lost. Raises as the engine does."""
        for fruitless in range(_MAX_FRUITLESS):
            try:
                found: Any = await self._engines.embed.remote(prompts, adapter)
            except BackPressureError:
                raise QueueFullError("Serve's queue is full") from None
            except (*_LOST, DeploymentUnavailableError):
                await asyncio.sleep(min(_PAUSE_S * 2**fruitless, _MAX_PAUSE_S))
                continue
            if isinstance(found, Refused):
                _refuse(found, None)
            return found  # type: ignore[no-any-return]
        raise QueueFullError("no replica answers")


_NONE = Health(False, 0.0, "no replica answers")


def _refuse(refused: Refused, request: GenerationRequest | None) -> None:
    """Raise what the engine raised."""
    if refused.why == "queue":
        raise QueueFullError("the engine's queue is full")
    if refused.why == "adapter":
        raise KeyError(request.adapter if request is not None else "")
    raise ValueError(refused.message)
