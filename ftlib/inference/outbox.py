"""Events from the engine's thread to the event loops of those who wait for them, one call a loop and step."""

import asyncio
from collections.abc import Callable
from typing import Any


class Outbox:
    """Collects calls; `flush` hands them over. Both in the engine's thread."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.AbstractEventLoop, list[tuple[Callable[[Any], None], Any]]] = {}

    def to(self, loop: asyncio.AbstractEventLoop, receive: Callable[[Any], None]) -> Callable[[Any], None]:
        """A function that has `receive` called with its argument in `loop`, after the next flush."""

        def send(event: Any) -> None:
            self._calls.setdefault(loop, []).append((receive, event))

        return send

    def flush(self) -> None:
        """Hand over what was collected; a loop that is closed has nobody left who listens."""
        calls, self._calls = self._calls, {}
        for loop, waiting in calls.items():
            try:
                loop.call_soon_threadsafe(_deliver, waiting)
            except RuntimeError:
                continue


def _deliver(waiting: list[tuple[Callable[[Any], None], Any]]) -> None:
    for receive, event in waiting:
        receive(event)
