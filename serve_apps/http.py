"""The HTTP routes: FastAPI around an Endpoint. Keys guard `/v1`; probes, `/metrics` and `/openapi.json` are open."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from ray.exceptions import TaskCancelledError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ftlib.core.logging import get_logger
from serve_apps.adapters import AdapterDesk, add_adapter_routes
from serve_apps.answers import Generation, sse, whole_answer
from serve_apps.auth import KeyRing
from serve_apps.batch_worker import BatchWorker
from serve_apps.body import MAX_BODY_BYTES, json_body
from serve_apps.endpoint import Endpoint
from serve_apps.errors import ApiError
from serve_apps.openapi import add_document, describe
from serve_apps.schema import ChatRequest, CompletionRequest, EmbeddingRequest, parse
from serve_apps.state_http import add_state_routes

logger = get_logger(f"ftlib.{__name__}")

__all__ = ["MAX_BODY_BYTES", "build_http"]


def build_http(
    endpoint: Endpoint, keys: KeyRing, worker: BatchWorker | None = None, desk: AdapterDesk | None = None
) -> FastAPI:
    """The ASGI application of one gateway.

    With a worker it has files and batches, and works on them while it runs; with a desk adapters come and go.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with endpoint.opened():
            working = [asyncio.create_task(item.run()) for item in (worker, desk) if item is not None]
            yield
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    app = FastAPI(title="ftlib", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(ClientGone)
    _add_error_handlers(app, endpoint)
    _add_probes(app, endpoint)
    _add_model_routes(app, endpoint, keys)
    if worker is not None:
        add_state_routes(app, worker.store, keys)
    if desk is not None:
        add_adapter_routes(app, desk, keys)
    add_document(app)
    return app


def _add_model_routes(app: FastAPI, endpoint: Endpoint, keys: KeyRing) -> None:
    @app.get("/v1/models", **describe("List of models"))
    async def list_models(request: Request) -> dict[str, Any]:
        keys.check(request.headers.get("authorization"))
        return {"object": "list", "data": endpoint.models()}

    @app.get("/v1/models/{name}", **describe("Model", fails=(404,)))
    async def get_model(name: str, request: Request) -> dict[str, Any]:
        keys.check(request.headers.get("authorization"))
        return endpoint.model(name)

    fails = (400, 404, 413, 429, 500, 503)

    @app.post("/v1/chat/completions", **describe("Chat completion", ChatRequest, fails, streams=True))
    async def chat_completions(request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        endpoint.check_room()
        parsed = parse(ChatRequest, await json_body(request))
        return await _respond(await endpoint.start_chat(parsed, tenant), parsed.stream, parsed.include_usage)

    @app.post("/v1/completions", **describe("Completion", CompletionRequest, fails, streams=True))
    async def completions(request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        endpoint.check_room()
        parsed = parse(CompletionRequest, await json_body(request))
        return await _respond(await endpoint.start_completion(parsed, tenant), parsed.stream, parsed.include_usage)

    @app.post("/v1/embeddings", **describe("Embeddings", EmbeddingRequest, fails))
    async def embeddings(request: Request) -> Response:
        keys.check(request.headers.get("authorization"))
        return JSONResponse(await endpoint.embed(parse(EmbeddingRequest, await json_body(request))))


class ClientGone:
    """ASGI middleware: a client that leaves is no error. Serve then cancels the request, or sending fails."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application and let the end of the connection be the end of the request."""
        with contextlib.suppress(TaskCancelledError, ClientDisconnect):
            await self._app(scope, receive, send)


class EventStream(StreamingResponse):
    """A stream whose source is closed when the response ends, however it ends: at once, not when memory is tidied."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send, then close."""
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().__call__(scope, receive, send)


async def _respond(generation: Generation, stream: bool, include_usage: bool) -> Response:
    if not stream:
        return JSONResponse(await whole_answer(generation))

    async def body() -> AsyncGenerator[str, None]:
        async with aclosing(generation.events), aclosing(sse(generation, include_usage)) as lines:
            async for line in lines:
                yield line

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventStream(body(), media_type="text/event-stream", headers=headers)


def _add_probes(app: FastAPI, endpoint: Endpoint) -> None:
    @app.get("/health", **describe("Health", fails=(503,), key=False))
    async def health() -> Response:
        await endpoint.refresh()
        state = endpoint.engine.health()
        body = {"status": "ok" if state.ok else "unhealthy", "idle_s": round(state.idle_s, 3), "message": state.message}
        return JSONResponse(body, 200 if state.ok else 503)

    @app.get("/ready", **describe("Readiness", fails=(503,), key=False))
    async def ready() -> Response:
        # A replica takes requests only after its constructor has loaded the model and every adapter.
        await endpoint.refresh()
        state = endpoint.engine.health()
        body = {"status": "ready" if state.ok else "not ready", "models": [model["id"] for model in endpoint.models()]}
        return JSONResponse(body, 200 if state.ok else 503)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics")
    async def metrics() -> Response:
        await endpoint.refresh(with_text=True)
        return Response(endpoint.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_handlers(app: FastAPI, endpoint: Endpoint) -> None:
    def reply(error: ApiError) -> Response:
        endpoint.metrics.rejected(error.status)
        return JSONResponse(error.body(), error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return reply(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return reply(ApiError(error.status_code, detail, headers=dict(error.headers or {})))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        # The text of an exception may quote the prompt: the client gets none of it, the log gets its type and place.
        logger.error("%s %s failed: %s", request.method, request.url.path, _place(error))
        return reply(ApiError(500, "internal error", kind="server_error"))


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    return f"{type(error).__name__} at {where}"
