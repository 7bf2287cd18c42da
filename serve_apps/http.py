"""The HTTP routes: FastAPI around an Endpoint. Keys guard `/v1`; `/health`, `/ready` and `/metrics` are open."""

import contextlib
import json
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray.exceptions import TaskCancelledError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ftlib.core.logging import get_logger
from serve_apps.auth import KeyRing
from serve_apps.endpoint import Endpoint, Generation, sse, whole_answer
from serve_apps.errors import ApiError
from serve_apps.schema import ChatRequest, CompletionRequest, parse

logger = get_logger(f"ftlib.{__name__}")

MAX_BODY_BYTES = 8 << 20


def build_http(endpoint: Endpoint, keys: KeyRing) -> FastAPI:
    """The ASGI application of one replica."""
    app = FastAPI(title="ftlib", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(ClientGone)
    _add_error_handlers(app, endpoint)
    _add_probes(app, endpoint)

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        keys.check(request.headers.get("authorization"))
        return {"object": "list", "data": endpoint.models()}

    @app.get("/v1/models/{name}")
    async def get_model(name: str, request: Request) -> dict[str, Any]:
        keys.check(request.headers.get("authorization"))
        return endpoint.model(name)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        keys.check(request.headers.get("authorization"))
        parsed = parse(ChatRequest, await _json_body(request))
        generation = await endpoint.start_chat(parsed)
        return await _respond(generation, True, parsed.stream, parsed.include_usage)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        keys.check(request.headers.get("authorization"))
        parsed = parse(CompletionRequest, await _json_body(request))
        generation = await endpoint.start_completion(parsed)
        return await _respond(generation, False, parsed.stream, parsed.include_usage)

    return app


class ClientGone:
    """ASGI middleware: a client that leaves is no error. Serve then cancels the request, or sending fails."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application and let the end of the connection be the end of the request."""
        with contextlib.suppress(TaskCancelledError, ClientDisconnect):
            await self._app(scope, receive, send)


async def _respond(generation: Generation, chat: bool, stream: bool, include_usage: bool) -> Response:
    if not stream:
        return JSONResponse(await whole_answer(generation, chat))

    async def body() -> Any:
        # Closed with the response: a client that leaves ends the generation.
        async with aclosing(generation.events), aclosing(sse(generation, chat, include_usage)) as lines:
            async for line in lines:
                yield line

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


async def _json_body(request: Request) -> Any:
    """The request's JSON; at most MAX_BODY_BYTES of it are read."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY_BYTES:
            raise ApiError(413, f"the request body has more than {MAX_BODY_BYTES} bytes", code="request_too_large")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ApiError(400, "the request body is not valid JSON", code="invalid_json") from None


def _add_probes(app: FastAPI, endpoint: Endpoint) -> None:
    @app.get("/health")
    async def health() -> Response:
        state = endpoint.engine.health()
        body = {"status": "ok" if state.ok else "unhealthy", "idle_s": round(state.idle_s, 3), "message": state.message}
        return JSONResponse(body, 200 if state.ok else 503)

    @app.get("/ready")
    async def ready() -> Response:
        # A replica takes requests only after its constructor has loaded the model and every adapter.
        state = endpoint.engine.health()
        body = {"status": "ready" if state.ok else "not ready", "models": [model["id"] for model in endpoint.models()]}
        return JSONResponse(body, 200 if state.ok else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
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
