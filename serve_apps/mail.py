"""Events of many answers on their way from a replica to a gateway, in one stream of Ray Serve for both.

Every item of such a stream costs both processes a quarter of a millisecond. So a gateway listens to a replica once, for
as long as it has answers there, and all that a step of the engine brings for its answers is one item. The call for an
answer itself carries no events: it says which replica took it and whether it was refused, leaving it cancels the
answer, and its failure tells of a lost replica.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from ray.serve.handle import DeploymentHandle

from ftlib.inference.protocol import GenerationRequest, TokenEvent

_IDLE_S = 2.0
"""How long a gateway goes on listening when its last answer there has ended; Serve waits for it to stop a replica."""
_FORGOTTEN_S = 10.0
"""After so long without answers a replica no longer believes in the gateway: it died without a word."""

Letter = tuple[str, TokenEvent]
"""A request's id, and an event of its answer."""


@dataclass(frozen=True, slots=True)
class Started:
    """A replica has taken a request."""

    replica: str


@dataclass(frozen=True, slots=True)
class Refused:
    """In place of an answer: why there is none. A value, since Serve would log an exception with its traceback."""

    why: Literal["queue", "adapter", "value"]
    message: str = ""


@dataclass(frozen=True, slots=True)
class Listen:
    """A gateway's wish for the events of its answers in one replica."""

    replica: str
    gateway: str


class LostError(Exception):
    """A replica no longer sends events."""


@dataclass(slots=True)
class _Box:
    letters: list[Letter] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    listener: object = None
    num_writers: int = 0


class Mailboxes:
    """A replica's events by gateway, until they are fetched."""

    def __init__(self) -> None:
        self._boxes: dict[str, _Box] = {}

    def __len__(self) -> int:
        return len(self._boxes)

    @contextmanager
    def writing(self, gateway: str) -> Iterator[Callable[[Letter], None]]:
        """A function that sends a gateway one event."""
        box = self._boxes.setdefault(gateway, _Box())
        box.num_writers += 1

        def send(letter: Letter) -> None:
            box.letters.append(letter)
            box.arrived.set()

        try:
            yield send
        finally:
            box.num_writers -= 1
            self._drop_unused(gateway, box)

    async def fetch(self, gateway: str) -> AsyncGenerator[list[Letter], None]:
        """Events as they come, those that came together in one list; ends when the gateway asks anew or is gone."""
        box = self._boxes.setdefault(gateway, _Box())
        box.listener = listener = object()
        box.arrived.set()  # wakes the listener before
        try:
            while True:
                if box.letters:
                    letters, box.letters = box.letters, []
                    yield letters
                box.arrived.clear()
                try:
                    async with asyncio.timeout(_FORGOTTEN_S):
                        if not box.letters:
                            await box.arrived.wait()
                except TimeoutError:
                    if box.num_writers == 0:
                        return
                if box.listener is not listener:
                    return
        finally:
            if box.listener is listener:
                box.listener = None
            self._drop_unused(gateway, box)

    def _drop_unused(self, gateway: str, box: _Box) -> None:
        # Letters that nobody has fetched wait for a gateway that is about to listen; without answers here it will not.
        unused = box.listener is None and box.num_writers == 0
        if unused and not box.letters and self._boxes.get(gateway) is box:
            del self._boxes[gateway]


@dataclass(slots=True)
class _Round:
    """A gateway's listening to one replica."""

    response: Any
    reading: asyncio.Task[None]
    requests: set[str] = field(default_factory=set)


class Postman:
    """A gateway's side: sends requests to replicas and hands out the events of their answers."""

    def __init__(self, engines: DeploymentHandle, gateway: str) -> None:
        """`gateway` is this gateway's name, unlike any other's."""
        self._gateway = gateway
        self._generate = engines.options(method_name="generate", stream=True, _by_reference=False)
        self._listen = engines.options(method_name="listen", stream=True, _by_reference=False)
        self._inboxes: dict[str, asyncio.Queue[TokenEvent | Refused | BaseException]] = {}
        self._rounds: dict[str, _Round] = {}

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent | Refused, None]:
        """The events of an answer, or why there is none; leaving cancels it.

        Raises LostError, or what Ray raises, when the replica is lost.
        """
        inbox = self._inboxes[request.request_id] = asyncio.Queue()
        response = self._generate.remote(request, self._gateway)
        watching = asyncio.create_task(self._watch(response, request.request_id))
        try:
            while True:
                item = await inbox.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Refused) or item.finish_reason is not None:
                    return
        finally:
            response.cancel()
            watching.cancel()
            self._leave(request.request_id)

    def close(self) -> None:
        """Listen no more."""
        for name in list(self._rounds):
            self._stop(name)

    async def _watch(self, response: Any, request_id: str) -> None:
        """Follow the call for an answer."""
        try:
            async for item in response:
                if isinstance(item, Started):
                    self._join(item.replica, request_id)
                else:
                    self._deliver(request_id, item)
        except Exception as error:
            self._deliver(request_id, error)

    def _deliver(self, request_id: str, item: TokenEvent | Refused | BaseException) -> None:
        if (inbox := self._inboxes.get(request_id)) is not None:
            inbox.put_nowait(item)

    def _join(self, replica: str, request_id: str) -> None:
        """See to it that the replica is listened to."""
        if request_id not in self._inboxes:
            return
        if replica not in self._rounds:
            response = self._listen.remote(Listen(replica, self._gateway))
            self._rounds[replica] = _Round(response, asyncio.create_task(self._read(replica, response)))
        self._rounds[replica].requests.add(request_id)

    def _leave(self, request_id: str) -> None:
        del self._inboxes[request_id]
        for replica, mine in self._rounds.items():
            if request_id in mine.requests:
                mine.requests.discard(request_id)
                if not mine.requests:
                    asyncio.get_running_loop().call_later(_IDLE_S, self._stop_if_idle, replica, mine)
                return

    def _stop_if_idle(self, replica: str, mine: _Round) -> None:
        if not mine.requests and self._rounds.get(replica) is mine:
            self._stop(replica)

    def _stop(self, replica: str) -> None:
        mine = self._rounds.pop(replica)
        mine.response.cancel()
        mine.reading.cancel()

    async def _read(self, replica: str, response: Any) -> None:
        """Hand out what a replica sends until it ends; who waits for more is told."""
        with suppress(Exception):  # whatever it is, the replica is lost to us; the calls tell more
            async for letters in response:
                for request_id, event in letters:
                    self._deliver(request_id, event)
        mine = self._rounds.get(replica)
        if mine is not None and mine.response is response:
            del self._rounds[replica]
            for request_id in mine.requests:
                self._deliver(request_id, LostError(f"replica {replica} sends no more events"))
