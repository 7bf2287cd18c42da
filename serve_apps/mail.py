"""Events of many answers on their way from a replica to a gateway, in one stream of Ray Serve for both.

Every item of such a stream costs both processes a quarter of a millisecond. So a gateway listens to a replica once, for
as long as it has answers there, and all that a step of the engine brings for its answers is one item. The call for an
answer itself carries no events: it says which replica took it and whether it was refused, leaving it cancels the
answer, and its failure tells of a lost replica. Events of an answer are numbered, so that a lost one is seen.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Literal

from ray.serve.handle import DeploymentHandle

from ftlib.inference.protocol import GenerationRequest, TokenEvent

_IDLE_S = 2.0
"""How long a gateway goes on listening when its last answer there has ended; Serve waits for it to stop a replica."""
_GRACE_S = 5.0
"""How much later than the end of its call an answer's last events may come."""

Letter = tuple[str, int, TokenEvent]
"""A request's id, an event of its answer, and between them the event's number, from 0."""


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
    """Events of an answer are lost, or a replica no longer sends any."""


@dataclass(slots=True)
class _Box:
    letters: list[Letter] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    listener: object = None
    num_writers: int = 0
    is_closed: bool = False


class Mailboxes:
    """A replica's events by gateway, until they are fetched."""

    def __init__(self) -> None:
        self._boxes: dict[str, _Box] = {}

    def __len__(self) -> int:
        return len(self._boxes)

    @contextmanager
    def writing(self, gateway: str, request_id: str) -> Iterator[Callable[[TokenEvent], None]]:
        """A function that sends a gateway the next event of an answer."""
        box = self._boxes.setdefault(gateway, _Box())
        box.num_writers += 1
        numbers = itertools.count()

        def send(event: TokenEvent) -> None:
            box.letters.append((request_id, next(numbers), event))
            box.changed.set()

        try:
            yield send
        finally:
            box.num_writers -= 1
            self._close_when_idle(gateway, box)

    async def fetch(self, gateway: str) -> AsyncGenerator[list[Letter], None]:
        """Events as they come, those that came together in one list; ends a while after the last answer.

        Who asks anew for a gateway takes over from who asked before.
        """
        box = self._boxes.setdefault(gateway, _Box())
        box.listener = listener = object()
        box.changed.set()
        self._close_when_idle(gateway, box)
        while box.listener is listener:
            if box.letters:
                letters, box.letters = box.letters, []
                yield letters
            elif box.is_closed:
                return
            else:
                box.changed.clear()
                await box.changed.wait()

    def _close_when_idle(self, gateway: str, box: _Box) -> None:
        if box.num_writers == 0:
            asyncio.get_running_loop().call_later(_IDLE_S, self._close, gateway, box)

    def _close(self, gateway: str, box: _Box) -> None:
        # Letters that nobody fetches go too: their gateway died, or sees that they are missing.
        if box.num_writers == 0 and self._boxes.get(gateway) is box:
            del self._boxes[gateway]
            box.is_closed = True
            box.changed.set()


@dataclass(slots=True)
class _Answer:
    """An answer on its way to a gateway."""

    inbox: asyncio.Queue[TokenEvent | Refused | BaseException] = field(default_factory=asyncio.Queue)
    replica: str | None = None
    num_events: int = 0


class Postman:
    """A gateway's side: sends requests to replicas and hands out the events of their answers."""

    def __init__(self, engines: DeploymentHandle, gateway: str) -> None:
        """`gateway` is this gateway's name, unlike any other's."""
        self._gateway = gateway
        # Plain pickle takes a third of the time of Serve's choice, which is for functions and classes by value.
        options = {"_by_reference": False, "request_serialization": "pickle", "response_serialization": "pickle"}
        self._generate = engines.options(method_name="generate", stream=True, **options)
        self._listen = engines.options(method_name="listen", stream=True, **options)
        self._answers: dict[str, _Answer] = {}
        self._listening: dict[str, asyncio.Task[None]] = {}

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent | Refused, None]:
        """The events of an answer, or why there is none; leaving cancels it.

        Raises LostError, or what Ray raises, when the replica is lost.
        """
        response = self._generate.remote(request, self._gateway)
        answer = self._answers[request.request_id] = _Answer()
        following = asyncio.create_task(self._follow(response, answer))
        try:
            while True:
                item = await answer.inbox.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Refused) or item.finish_reason is not None:
                    return
        finally:
            del self._answers[request.request_id]
            response.cancel()
            following.cancel()

    def close(self) -> None:
        """Listen no more; answers under way are lost."""
        for task in self._listening.values():
            task.cancel()

    async def _follow(self, response: Any, answer: _Answer) -> None:
        """What the call for an answer itself tells."""
        try:
            async for item in response:
                if isinstance(item, Started):
                    answer.replica = item.replica
                    if item.replica not in self._listening:
                        # Serve cancels all that a request's context has called when its client leaves, and this is
                        # for every client: a context of its own.
                        task = asyncio.create_task(self._hear(item.replica), context=Context())
                        self._listening[item.replica] = task
                else:
                    answer.inbox.put_nowait(item)
            await asyncio.sleep(_GRACE_S)
            answer.inbox.put_nowait(LostError("events of the answer are missing"))
        except asyncio.CancelledError:  # by Serve, perhaps
            answer.inbox.put_nowait(LostError("the call was cancelled"))
            raise
        except Exception as error:
            answer.inbox.put_nowait(error)

    async def _hear(self, replica: str) -> None:
        """Hand out what a replica sends for as long as answers are awaited from it."""
        why: BaseException | None = None
        try:
            while self._awaited(replica):
                response = self._listen.remote(Listen(replica, self._gateway))
                try:
                    async for letters in response:
                        if not letters:
                            return
                        for letter in letters:
                            self._deliver(*letter)
                finally:
                    response.cancel()
        except Exception as error:
            why = error
        finally:
            del self._listening[replica]
            for answer in self._awaited(replica):
                lost = LostError(f"replica {replica} sends no more events")
                lost.__cause__ = why
                answer.inbox.put_nowait(lost)

    def _awaited(self, replica: str) -> list[_Answer]:
        return [answer for answer in self._answers.values() if answer.replica == replica]

    def _deliver(self, request_id: str, number: int, event: TokenEvent) -> None:
        answer = self._answers.get(request_id)
        if answer is None:
            return  # its client has left
        answer.inbox.put_nowait(event if number == answer.num_events else LostError("events of the answer are missing"))
        answer.num_events += 1
