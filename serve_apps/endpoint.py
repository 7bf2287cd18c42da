"""The endpoint's behaviour without HTTP or Ray: from a checked request to a generation, and from its events to answers
in OpenAI's shapes, whole or as server-sent events. Works over any `ftlib.inference.protocol.Engine`.

Leaving a generation early (the client is gone, the handler was cancelled) cancels it in the engine.
"""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.inference.protocol import Engine, GenerationRequest, QueueFullError, TokenEvent
from ftlib.models.chat import render_prompt
from serve_apps.errors import ApiError
from serve_apps.metrics import EndpointMetrics
from serve_apps.schema import ChatRequest, CompletionRequest, SamplingParameters

logger = get_logger(f"ftlib.{__name__}")

_RETRY_AFTER_S = 2


@dataclass(frozen=True)
class ServedName:
    """A public model name: the engine's adapter behind it (None: the base), its immutable identity, its template."""

    name: str
    adapter: str | None
    root: str
    tokenizer: Any
    parent: str | None = None


@dataclass
class Generation:
    """A request in the engine, its first event waited for."""

    id: str
    served: ServedName
    events: AsyncGenerator[TokenEvent, None]
    first: TokenEvent
    num_prompt_tokens: int
    created: int
    num_generated: int = field(default=0)

    def usage(self) -> dict[str, int]:
        """OpenAI's usage object; the end token counts."""
        total = self.num_prompt_tokens + self.num_generated
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_generated,
            "total_tokens": total,
        }


class Endpoint:
    """Models by public name over one engine."""

    def __init__(self, engine: Engine, served: list[ServedName], metrics: EndpointMetrics) -> None:
        self.engine, self.metrics = engine, metrics
        self._served = {model.name: model for model in served}
        self._created = int(time.time())
        # The tokenizers' Rust side refuses to be changed while in use; chat templates may do so.
        self._tokenizing = threading.Lock()

    def models(self) -> list[dict[str, Any]]:
        """The entries of `/v1/models`."""
        return [self.model(name) for name in self._served]

    def model(self, name: str) -> dict[str, Any]:
        """One entry; raises ApiError 404."""
        served = self._find(name)
        return {
            "id": served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "ftlib",
            "root": served.root,
            "parent": served.parent,
            "max_model_len": self.engine.capabilities().max_model_len,
        }

    async def start_chat(self, request: ChatRequest) -> Generation:
        """Begin to answer a conversation; raises ApiError."""
        served = self._find(request.model)
        if served.tokenizer.chat_template is None:
            raise ApiError(400, f"model {served.name} has no chat template; use /v1/completions", param="model")
        messages = [{"role": message.role, "content": message.text} for message in request.messages]
        prompt = await asyncio.to_thread(self._render, served, messages)
        return await self._start(served, request, prompt, request.limit, "chatcmpl")

    async def start_completion(self, request: CompletionRequest) -> Generation:
        """Begin to continue a text; raises ApiError."""
        served = self._find(request.model)
        if isinstance(request.prompt, str):
            prompt = await asyncio.to_thread(self._encode, served, request.prompt)
        else:
            prompt = list(request.prompt)
            if max(prompt) >= len(served.tokenizer):
                raise ApiError(400, f"prompt: token ids must be below {len(served.tokenizer)}", param="prompt")
        return await self._start(served, request, prompt, request.max_tokens, "cmpl")

    def _find(self, name: str) -> ServedName:
        if name not in self._served:
            raise ApiError(404, f"the model {name!r} does not exist", param="model", code="model_not_found")
        return self._served[name]

    def _render(self, served: ServedName, messages: list[dict[str, str]]) -> list[int]:
        with self._tokenizing:
            try:
                return list(render_prompt(served.tokenizer, messages))
            except UserError as error:
                raise ApiError(
                    400, "messages: the model's chat template refuses this order of roles", param="messages"
                ) from error

    def _encode(self, served: ServedName, text: str) -> list[int]:
        with self._tokenizing:
            return list(served.tokenizer(text)["input_ids"])

    async def _start(
        self, served: ServedName, request: SamplingParameters, prompt: list[int], limit: int | None, prefix: str
    ) -> Generation:
        longest = self.engine.capabilities().max_model_len
        wanted = limit if limit is not None else max(1, longest - len(prompt))
        if len(prompt) + wanted > longest or not prompt:
            raise ApiError(
                400,
                f"the context is {longest} tokens; the prompt has {len(prompt)} and {wanted} were asked for"
                if prompt
                else "the prompt is empty",
                param="messages" if prefix == "chatcmpl" else "prompt",
                code="context_length_exceeded" if prompt else "invalid_value",
            )
        generation_id = f"{prefix}-{uuid.uuid4().hex}"
        events = self._timed(
            served,
            GenerationRequest(
                request_id=generation_id,
                prompt=tuple(prompt),
                max_new_tokens=wanted,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                stop=tuple(request.stop),
                adapter=served.adapter,
            ),
        )
        try:
            # Refusals come before the first event: a client must get them as a status, not inside a stream.
            first = await anext(events)
        except QueueFullError:
            raise ApiError(
                429,
                "too many requests are waiting; try again shortly",
                kind="rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(_RETRY_AFTER_S)},
            ) from None
        except BaseException:
            await events.aclose()
            raise
        return Generation(generation_id, served, events, first, len(prompt), int(time.time()))

    async def _timed(self, served: ServedName, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """The engine's events, measured."""
        started = last = time.monotonic()
        num_tokens, reason = 0, "cancelled"
        try:
            async with aclosing(self.engine.submit(request)) as events:
                async for event in events:
                    now = time.monotonic()
                    if event.token is not None:
                        if num_tokens == 0:
                            self.metrics.first_token(served.name, now - started)
                        else:
                            self.metrics.next_token(served.name, now - last)
                        num_tokens, last = num_tokens + 1, now
                    reason = event.finish_reason or reason
                    yield event
        except QueueFullError:
            reason = ""
            raise
        finally:
            if reason:
                seconds = time.monotonic() - started
                self.metrics.finished(served.name, reason, seconds, len(request.prompt), num_tokens)


async def texts(generation: Generation) -> AsyncGenerator[tuple[str, str | None], None]:
    """The generation's pieces of text, each with the finish reason or None; raises ApiError if it fails on the way."""
    async with aclosing(generation.events) as events:
        event = generation.first
        while True:
            generation.num_generated += event.token is not None
            if event.finish_reason in ("error", "cancelled"):
                raise ApiError(
                    500 if event.finish_reason == "error" else 503,
                    f"the generation ended early ({event.message or 'the engine is stopping'})",
                    kind="server_error",
                )
            yield event.text, event.finish_reason
            if event.finish_reason is not None:
                return
            event = await anext(events)


async def whole_answer(generation: Generation, chat: bool) -> dict[str, Any]:
    """The response of a request that does not stream."""
    async with aclosing(texts(generation)) as pieces:
        received = [piece async for piece in pieces]
    answer = "".join(text for text, _ in received)
    choice: dict[str, Any] = {"index": 0, "finish_reason": received[-1][1], "logprobs": None}
    choice |= {"message": {"role": "assistant", "content": answer}} if chat else {"text": answer}
    head = _head(generation, "chat.completion" if chat else "text_completion")
    return {**head, "choices": [choice], "usage": generation.usage()}


async def sse(generation: Generation, chat: bool, include_usage: bool) -> AsyncGenerator[str, None]:
    """Server-sent events of a stream, `[DONE]` last. A failure on the way is an event with `error`, then `[DONE]`."""
    head = _head(generation, "chat.completion.chunk" if chat else "text_completion")

    def chunk(text: str | None, reason: str | None, role: str | None = None) -> str:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if chat:
            delta = {"role": role} if role else {}
            choice["delta"] = delta | ({"content": text} if text is not None else {})
        else:
            choice["text"] = text or ""
        return _event({**head, "choices": [choice], **({"usage": None} if include_usage else {})})

    if chat:
        yield chunk("", None, "assistant")
    try:
        async with aclosing(texts(generation)) as pieces:
            async for text, reason in pieces:
                if text:
                    yield chunk(text, None)
                if reason is not None:
                    yield chunk(None, reason)
        if include_usage:
            yield _event({**head, "choices": [], "usage": generation.usage()})
    except ApiError as error:
        yield _event(error.body())
    yield "data: [DONE]\n\n"


def _head(generation: Generation, kind: str) -> dict[str, Any]:
    return {"id": generation.id, "object": kind, "created": generation.created, "model": generation.served.name}


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
