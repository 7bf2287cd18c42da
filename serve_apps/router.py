"""Which replica of the engine a request goes to (Ray Serve's interface of routers).

An adapter whose number of replicas is set has as many homes: those that rank highest by a hash of adapter and replica
(rendezvous hashing, Thaler and Ravishankar, 1998), so that a replica that comes or goes moves only its own adapters.
Requests go to the home with the fewest; where every home has all rows taken, to whichever replica has the fewest.
A gateway that listens to a replica (`serve_apps.mail`) gets that one. Everything else takes the shorter queue of two
replicas at random (Mitzenmacher, 2001).
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from ftlib.inference.protocol import GenerationRequest
from serve_apps.args import AdapterArgs
from serve_apps.mail import Listen

_R = TypeVar("_R", bound="_Replica")


class _Replica(Protocol):
    @property
    def replica_id(self) -> Any: ...


class AdapterRouter(RequestRouter):
    """Sends requests on an adapter to its homes."""

    def initialize_state(self, rows: int, target: int | None, targets: dict[str, int]) -> None:  # type: ignore[override]
        """`rows`: answers that a replica generates at once; `target`: replicas of an adapter that `targets` lacks."""
        self._rows, self._target, self._targets = rows, target, targets

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups of replicas to try, one after another; of a group the one with the shortest queue is taken."""
        if pending_request is not None:
            # Else the next round follows at once when all are full.
            pending_request.routing_context.should_backoff = True
            for argument in pending_request.args:
                if isinstance(argument, Listen):
                    meant = [item for item in candidate_replicas if item.replica_id.unique_id == argument.replica]
                    return [meant or random.sample(candidate_replicas, 1)]
        adapter = adapter_of(pending_request.args) if pending_request is not None else None
        target = self._targets.get(adapter, self._target) if adapter is not None else None
        if adapter is None or target is None or target >= len(candidate_replicas):
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        ranked = ranking(adapter, candidate_replicas)
        homes, others = ranked[:target], ranked[target:]
        return [homes, others] if any(map(self._has_room, homes)) else [ranked]

    def _has_room(self, replica: RunningReplica) -> bool:
        length = self.replica_queue_len_cache.get(replica.replica_id)
        return length is None or length < self._rows


def adapter_of(arguments: Sequence[Any]) -> str | None:
    """The engine's name of the adapter that a call is about."""
    for argument in arguments:
        if isinstance(argument, GenerationRequest):
            return argument.adapter
        if isinstance(argument, AdapterArgs):
            return argument.engine_id
    return None


def ranking(adapter: str, replicas: Sequence[_R]) -> list[_R]:
    """Replicas in the order in which they are homes of an adapter, the same in every process."""
    return sorted(
        replicas,
        key=lambda replica: hashlib.sha256(f"{adapter} {replica.replica_id.unique_id}".encode()).digest(),
        reverse=True,
    )
