"""The endpoint's behaviour without HTTP or Ray: from a checked request to a generation, or to embeddings. Works
over any `ftlib.inference.protocol.Engine`.

Leaving a generation early (the client is gone, the handler was cancelled) cancels it in the engine.
"""

import array
import asyncio
import base64
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ftlib.core.errors import UserError
from ftlib.inference.protocol import Engine, GenerationRequest, QueueFullError, TokenEvent
from ftlib.models.chat import render_prompt
from serve_apps.answers import Generation, merged
from serve_apps.errors import ApiError
from serve_apps.logprobs import Vocabulary
from serve_apps.metrics import EndpointMetrics
from serve_apps.remote import RemoteEngine
from serve_apps.sampling import engine_requests, grammar_name, refuse_beyond
from serve_apps.schema import ChatRequest, CompletionRequest, EmbeddingRequest, SamplingParameters, each_prompt

_RETRY_AFTER_S = 2


@dataclass(frozen=True)
class ServedName:
    """A public model name: the engine's adapter behind it (None: the base), its immutable identity, its template."""

    name: str
    adapter: str | None
    root: str
    tokenizer: Any
    parent: str | None = None


class Endpoint:
    """Models by public name over one engine. A tenant is whoever shares an API key (`KeyRing.tenant`)."""

    def __init__(self, engine: Engine, served: list[ServedName], metrics: EndpointMetrics) -> None:
        self.engine, self.metrics = engine, metrics
        self._served = {model.name: model for model in served}
        self._created = int(time.time())
        # The tokenizers' Rust side refuses to be changed while in use; chat templates may do so.
        self._tokenizing = threading.Lock()
        self._vocabularies: dict[str, Vocabulary] = {}

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None, None]:
        """While requests are taken; an engine behind a handle needs to be asked first."""
        if isinstance(self.engine, RemoteEngine):
            async with self.engine.opened():
                yield
        else:
            yield

    async def refresh(self, with_text: bool = False) -> None:
        """Ask the engine how it is, where that takes asking."""
        if isinstance(self.engine, RemoteEngine):
            await self.engine.refresh(with_text)

    def add(self, model: ServedName) -> None:
        """Serve another name."""
        self._served[model.name] = model

    def remove(self, name: str) -> None:
        """No longer serve a name; what is under way on it ends as the engine has it."""
        self._served.pop(name, None)
        self._vocabularies.pop(name, None)

    def names(self) -> set[str]:
        """The public names."""
        return set(self._served)

    def models(self) -> list[dict[str, Any]]:
        """The entries of `/v1/models`."""
        return [self.model(name) for name in list(self._served)]

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

    async def start_chat(self, request: ChatRequest, tenant: str = "") -> Generation:
        """Begin to answer a conversation; raises ApiError."""
        self.check_room()
        served = self._find(request.model)
        if served.tokenizer.chat_template is None:
            raise ApiError(400, f"model {served.name} has no chat template; use /v1/completions", param="model")
        messages = [{"role": message.role, "content": message.text} for message in request.messages]
        prompt = await asyncio.to_thread(self._render, served, messages)
        return await self._start(served, request, [prompt], request.limit, tenant)

    async def start_completion(self, request: CompletionRequest, tenant: str = "") -> Generation:
        """Begin to continue texts; raises ApiError."""
        self.check_room()
        served = self._find(request.model)
        prompts = await asyncio.to_thread(self._encode, served, each_prompt(request.prompt), "prompt")
        return await self._start(served, request, prompts, request.max_tokens, tenant)

    async def embed(self, request: EmbeddingRequest) -> dict[str, Any]:
        """The response of `/v1/embeddings`; raises ApiError."""
        served = self._find(request.model)
        if not self.engine.capabilities().embeddings:
            raise ApiError(400, f"model: the engine of {served.name} makes no embeddings", param="model")
        prompts = await asyncio.to_thread(self._encode, served, each_prompt(request.input), "input")
        for prompt in prompts:
            self._check_length(prompt, 0, "input")
        try:
            vectors = await self.engine.embed([tuple(prompt) for prompt in prompts], served.adapter)
        except QueueFullError:
            raise _queue_full() from None
        data = [
            {"object": "embedding", "index": index, "embedding": _in_format(vector, request.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        num_tokens = sum(map(len, prompts))
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "data": data, "model": served.name, "usage": usage}

    def _find(self, name: str) -> ServedName:
        if name not in self._served:
            raise ApiError(404, f"the model {name!r} does not exist", param="model", code="model_not_found")
        return self._served[name]

    def check_room(self) -> None:
        """Raise ApiError 429 when no replica has room.

        A refusal before anything else is done costs next to nothing: many of them do not slow those who are answered.
        """
        if isinstance(self.engine, RemoteEngine) and self.engine.is_full:
            raise _queue_full()

    def _render(self, served: ServedName, messages: list[dict[str, str]]) -> list[int]:
        with self._tokenizing:
            try:
                return list(render_prompt(served.tokenizer, messages))
            except UserError as error:
                raise ApiError(
                    400, "messages: the model's chat template refuses this order of roles", param="messages"
                ) from error

    def _encode(self, served: ServedName, prompts: list[str | list[int]], param: str) -> list[list[int]]:
        size = len(served.tokenizer)
        if any(max(prompt) >= size for prompt in prompts if not isinstance(prompt, str)):
            raise ApiError(400, f"{param}: token ids must be below {size}", param=param, code="invalid_value")
        with self._tokenizing:
            return [
                list(served.tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else prompt for prompt in prompts
            ]

    def _check_length(self, prompt: list[int], wanted: int, param: str) -> None:
        longest = self.engine.capabilities().max_model_len
        if not prompt:
            raise ApiError(400, "the prompt is empty", param=param, code="invalid_value")
        if len(prompt) + wanted > longest:
            raise ApiError(
                400,
                f"the context is {longest} tokens; the prompt has {len(prompt)} and {wanted} were asked for",
                param=param,
                code="context_length_exceeded",
            )

    async def _vocabulary(self, served: ServedName) -> Vocabulary:
        if served.name not in self._vocabularies:

            def read() -> Vocabulary:
                with self._tokenizing:
                    return Vocabulary(served.tokenizer)

            self._vocabularies[served.name] = await asyncio.to_thread(read)
        return self._vocabularies[served.name]

    async def _start(
        self,
        served: ServedName,
        request: SamplingParameters,
        prompts: list[list[int]],
        limit: int | None,
        tenant: str,
    ) -> Generation:
        capabilities, chat = self.engine.capabilities(), isinstance(request, ChatRequest)
        generation_id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        requests: list[GenerationRequest] = []
        for index, prompt in enumerate(prompts):
            wanted = limit if limit is not None else max(1, capabilities.max_model_len - len(prompt))
            self._check_length(prompt, wanted, "messages" if chat else "prompt")
            requests += engine_requests(
                request, f"{generation_id}-{index}", prompt, limit=wanted, adapter=served.adapter, tenant=tenant
            )
        refuse_beyond(request, requests[0], capabilities, len(served.tokenizer))
        vocabulary = await self._vocabulary(served) if request.num_logprobs is not None else None
        events = merged([self._translated(served, request, item) for item in requests])
        try:
            # Refusals come before the first event: a client must get them as a status, not inside a stream.
            first = await anext(events)
        except BaseException:
            await events.aclose()
            raise
        return Generation(
            id=generation_id,
            model=served.name,
            chat=chat,
            events=events,
            first=first,
            num_choices=len(requests),
            num_answers_each=request.n,
            num_prompt_tokens=sum(map(len, prompts)),
            created=int(time.time()),
            vocabulary=vocabulary,
        )

    async def _translated(
        self, served: ServedName, request: SamplingParameters, engine_request: GenerationRequest
    ) -> AsyncGenerator[TokenEvent, None]:
        """The engine's events; its refusals as ApiError, without its words, which may quote the prompt."""
        started = False
        try:
            async with aclosing(self._timed(served, engine_request)) as events:
                async for event in events:
                    started = True
                    yield event
        except QueueFullError:
            raise _queue_full() from None
        except KeyError:
            if started or engine_request.adapter is None:
                raise
            # Unloaded since the name was looked up.
            message = f"the model {served.name!r} is not loaded"
            raise ApiError(404, message, param="model", code="model_not_found") from None
        except ValueError:
            if started or engine_request.grammar is None:
                raise
            param = grammar_name(request)
            message = f"{param}: the engine cannot hold answers to this {engine_request.grammar.kind}"
            raise ApiError(400, message, param=param, code="invalid_value") from None

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


def _queue_full() -> ApiError:
    return ApiError(
        429,
        "too many requests are waiting; try again shortly",
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(_RETRY_AFTER_S)},
    )


def _in_format(vector: list[float], encoding_format: str) -> list[float] | str:
    if encoding_format == "float":
        return vector
    return base64.b64encode(array.array("f", vector).tobytes()).decode()  # float32, little-endian on all our machines
