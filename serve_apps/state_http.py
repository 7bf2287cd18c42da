"""The routes of files and batches: FastAPI around a BatchStore."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import Field, StrictStr
from starlette.datastructures import UploadFile

from serve_apps.auth import KeyRing
from serve_apps.batches import BatchStore
from serve_apps.body import form_body, json_body
from serve_apps.errors import ApiError, unsupported
from serve_apps.files import MAX_FILE_BYTES, page
from serve_apps.openapi import LIST_PARAMETERS, UPLOAD, describe
from serve_apps.schema import Strict, parse

_MAX_FORM_BYTES = MAX_FILE_BYTES + (64 << 10)  # the form around the file
_MAX_PAGE = 100
_BLOCK_BYTES = 1 << 18
_Metadata = dict[Annotated[StrictStr, Field(min_length=1, max_length=64)], Annotated[StrictStr, Field(max_length=512)]]


class BatchRequest(Strict):
    """`POST /v1/batches`."""

    input_file_id: StrictStr
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Annotated[_Metadata, Field(max_length=16)] | None = None


def add_state_routes(app: FastAPI, store: BatchStore, keys: KeyRing) -> None:
    """Files and batches, each tenant's own."""
    _add_file_routes(app, store, keys)
    _add_batch_routes(app, store, keys)


def _add_file_routes(app: FastAPI, store: BatchStore, keys: KeyRing) -> None:
    files = store.files

    @app.post("/v1/files", **describe("File", fails=(400, 413), body=UPLOAD))
    async def upload(request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        form = await form_body(request, _MAX_FORM_BYTES)
        try:
            file, name = _upload(dict(form.multi_items()))
            return JSONResponse(await asyncio.to_thread(files.add, tenant, file.file, name))
        finally:
            await form.close()

    @app.get("/v1/files", **describe("List of files", fails=(400,), parameters=LIST_PARAMETERS))
    async def list_files(request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        after, limit = _page_of(request)
        return JSONResponse(page(await asyncio.to_thread(files.all, tenant), after, limit))

    @app.get("/v1/files/{file_id}", **describe("File", fails=(404,)))
    async def get_file(file_id: str, request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        return JSONResponse(await asyncio.to_thread(files.get, tenant, file_id))

    @app.delete("/v1/files/{file_id}", **describe("File deleted", fails=(404,)))
    async def delete_file(file_id: str, request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        return JSONResponse(await asyncio.to_thread(files.delete, tenant, file_id))

    @app.get(
        "/v1/files/{file_id}/content",
        **describe("Content of a file", fails=(404,), media="application/octet-stream"),
    )
    async def content(file_id: str, request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        path = await asyncio.to_thread(files.content, tenant, file_id)
        length = {"Content-Length": str(path.stat().st_size)}
        return StreamingResponse(_blocks(path), media_type="application/octet-stream", headers=length)


def _add_batch_routes(app: FastAPI, store: BatchStore, keys: KeyRing) -> None:
    @app.post("/v1/batches", **describe("Batch", BatchRequest, (400, 404, 413)))
    async def create(request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        asked = parse(BatchRequest, await json_body(request))
        value = await asyncio.to_thread(store.create, tenant, asked.input_file_id, asked.endpoint, asked.metadata)
        return JSONResponse(value)

    @app.get("/v1/batches", **describe("List of batches", fails=(400,), parameters=LIST_PARAMETERS))
    async def list_batches(request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        after, limit = _page_of(request)
        return JSONResponse(page(await asyncio.to_thread(store.all, tenant), after, limit))

    @app.get("/v1/batches/{batch_id}", **describe("Batch", fails=(404,)))
    async def get_batch(batch_id: str, request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        return JSONResponse(await asyncio.to_thread(store.get, tenant, batch_id))

    @app.post("/v1/batches/{batch_id}/cancel", **describe("Batch", fails=(404, 409)))
    async def cancel(batch_id: str, request: Request) -> Response:
        tenant = keys.check(request.headers.get("authorization"))
        return JSONResponse(await asyncio.to_thread(store.cancel, tenant, batch_id))


def _upload(fields: dict[str, Any]) -> tuple[UploadFile, str]:
    """The file of a form and its name; raises ApiError 400."""
    if unknown := sorted(set(fields) - {"file", "purpose"}):
        raise unsupported(unknown[0][:64])
    file, purpose = fields.get("file"), fields.get("purpose")
    if not isinstance(file, UploadFile):
        raise ApiError(400, "file is required", param="file", code="missing_required_parameter")
    if purpose != "batch":
        raise ApiError(400, "purpose: only batch is accepted", param="purpose", code="invalid_value")
    if (file.size or 0) > MAX_FILE_BYTES:
        raise ApiError(413, f"file: at most {MAX_FILE_BYTES} bytes", param="file", code="request_too_large")
    return file, (file.filename or "upload.jsonl")[:255]


def _page_of(request: Request) -> tuple[str | None, int]:
    given = dict(request.query_params)
    if unknown := sorted(set(given) - {"after", "limit"}):
        raise unsupported(unknown[0][:64])
    limit = given.get("limit", "20")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= _MAX_PAGE):
        raise ApiError(400, f"limit: a number from 1 to {_MAX_PAGE}", param="limit", code="invalid_value")
    return given.get("after"), int(limit)


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
