"""From a generation's events to answers in OpenAI's shapes, whole or as server-sent events.

Nothing is kept ahead of the client: of each choice one event at most is waited for, and the next one is asked of the
engine when the last was sent.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ftlib.inference.protocol import TokenEvent
from serve_apps.errors import ApiError
from serve_apps.logprobs import LogprobWriter, Vocabulary

Event = tuple[int, TokenEvent]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps would make one each time


@dataclass
class Generation:
    """The answers to one request: their events by the choice's index, the first of them waited for."""

    id: str
    model: str
    chat: bool
    events: AsyncGenerator[Event, None]
    first: Event
    num_choices: int
    num_answers_each: int
    """Choices of one prompt."""

    num_prompt_tokens: int
    created: int
    vocabulary: Vocabulary | None = None
    """Set where log-probabilities were asked for."""

    num_generated: int = 0
    num_cached: dict[int, int] = field(default_factory=dict)

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object: a prompt counts once however many answers it has; the end token counts."""
        total = self.num_prompt_tokens + self.num_generated
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_generated,
            "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": sum(self.num_cached.values())},
        }

    def count(self, index: int, event: TokenEvent) -> None:
        """Take an event into the usage."""
        self.num_generated += event.token is not None
        if index % self.num_answers_each == 0:  # the prompt's first answer says what was found; the others find that
            self.num_cached.setdefault(index, event.num_cached_tokens)

    def writers(self) -> list[LogprobWriter] | None:
        """One for each choice, None where no log-probabilities were asked for."""
        if self.vocabulary is None:
            return None
        return [LogprobWriter(self.vocabulary, self.chat) for _ in range(self.num_choices)]


async def merged(streams: list[AsyncGenerator[TokenEvent, None]]) -> AsyncGenerator[Event, None]:
    """Events of several streams as they come. Leaving, or a failure of one, closes all."""
    pending: dict[asyncio.Future[TokenEvent], int] = {}
    try:
        if len(streams) == 1:  # no task for each token
            async for event in streams[0]:
                yield 0, event
            return
        pending = {asyncio.ensure_future(anext(stream)): index for index, stream in enumerate(streams)}  # type: ignore[arg-type]
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: pending[task]):
                event = task.result()
                index = pending.pop(task)
                yield index, event
                if event.finish_reason is None:
                    pending[asyncio.ensure_future(anext(streams[index]))] = index  # type: ignore[arg-type]
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def pieces(generation: Generation) -> AsyncGenerator[Event, None]:
    """The generation's events, counted; raises ApiError when one of its choices fails on the way."""
    async with aclosing(generation.events) as events:
        index, event = generation.first
        open_choices = generation.num_choices
        while True:
            generation.count(index, event)
            if event.finish_reason in ("error", "cancelled"):
                raise ApiError(
                    500 if event.finish_reason == "error" else 503,
                    f"the generation ended early ({event.message or 'the engine is stopping'})",
                    kind="server_error",
                )
            yield index, event
            open_choices -= event.finish_reason is not None
            if open_choices == 0:
                return
            index, event = await anext(events)


async def whole_answer(generation: Generation) -> dict[str, Any]:
    """The response of a request that does not stream."""
    received: list[list[TokenEvent]] = [[] for _ in range(generation.num_choices)]
    async with aclosing(pieces(generation)) as events:
        async for index, event in events:
            received[index].append(event)
    writers = generation.writers()
    choices = []
    for index, answer in enumerate(received):
        text = "".join(event.text for event in answer)
        logprobs = writers[index].write(answer) if writers is not None else None
        body = {"message": {"role": "assistant", "content": text}} if generation.chat else {"text": text}
        choices.append({"index": index, **body, "finish_reason": answer[-1].finish_reason, "logprobs": logprobs})
    head = _head(generation, "chat.completion" if generation.chat else "text_completion")
    return {**head, "choices": choices, "usage": generation.usage()}


async def sse(generation: Generation, include_usage: bool) -> AsyncGenerator[str, None]:
    """Server-sent events of a stream, `[DONE]` last. A failure on the way is an event with `error`, then `[DONE]`."""
    chat, writers = generation.chat, generation.writers()
    head = _head(generation, "chat.completion.chunk" if chat else "text_completion")

    def chunk(
        index: int, text: str | None, reason: str | None = None, role: str | None = None, logprobs: Any = None
    ) -> str:
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": logprobs}
        if chat:
            delta = {"role": role} if role else {}
            choice["delta"] = delta | ({"content": text} if text is not None else {})
        else:
            choice["text"] = text or ""
        return _event({**head, "choices": [choice], **({"usage": None} if include_usage else {})})

    if chat:
        for index in range(generation.num_choices):
            yield chunk(index, "", role="assistant")
    try:
        async with aclosing(pieces(generation)) as events:
            async for index, event in events:
                logprobs = writers[index].write([event]) if writers is not None else None
                if event.text or logprobs:
                    yield chunk(index, event.text, logprobs=logprobs)
                if event.finish_reason is not None:
                    yield chunk(index, None, event.finish_reason)
        if include_usage:
            yield _event({**head, "choices": [], "usage": generation.usage()})
    except ApiError as error:
        yield _event(error.body())
    yield "data: [DONE]\n\n"


def _head(generation: Generation, kind: str) -> dict[str, Any]:
    return {"id": generation.id, "object": kind, "created": generation.created, "model": generation.model}


def _event(value: dict[str, Any]) -> str:
    return f"data: {_encode(value)}\n\n"
