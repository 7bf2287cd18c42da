"""Request bodies, read with limits: JSON and uploads."""

import json
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData

from serve_apps.errors import ApiError

MAX_BODY_BYTES = 8 << 20


async def json_body(request: Request) -> Any:
    """The request's JSON; at most MAX_BODY_BYTES of it are read."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY_BYTES:
            raise _too_large(MAX_BODY_BYTES)
    try:
        value = json.loads(content, parse_constant=_refuse)
        if b"\\u" in content:  # half of a surrogate pair is valid JSON and no text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ApiError(400, "the request body is not valid JSON", code="invalid_json") from None
    return value


async def form_body(request: Request, max_bytes: int) -> FormData:
    """A multipart form with one file, which lies on disk where it is large; raises ApiError 413 for a longer body."""
    received = 0

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        return message

    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "send the file as multipart/form-data", code="invalid_value")
    try:
        return await Request(request.scope, receive).form(max_files=1, max_fields=8)
    except ValueError:  # a header of a part that is no text
        raise ApiError(400, "the form is not valid multipart/form-data", code="invalid_value") from None


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the request body has more than {limit} bytes", code="request_too_large")


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
