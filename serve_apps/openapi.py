"""The OpenAPI document of the routes that an app has. Bodies are parsed by hand, so each route says what it takes."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

_REFERENCE = "#/components/schemas/{model}"
_NULLABLE_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _NULLABLE_TEXT,
                "code": _NULLABLE_TEXT,
            },
        }
    },
}
_REASONS = {
    400: "A parameter is wrong, or not supported; `param` names it",
    401: "No valid API key",
    404: "No such model, file or batch",
    409: "Not in this state",
    413: "Too large",
    429: "Too many requests wait; see Retry-After",
    500: "Internal error",
    503: "The engine stops or stands still",
}

UPLOAD = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file", "purpose"],
            "additionalProperties": False,
            "properties": {
                "file": {"type": "string", "format": "binary"},
                "purpose": {"type": "string", "enum": ["batch"]},
            },
        }
    }
}
LIST_PARAMETERS = [
    {"name": "after", "in": "query", "schema": {"type": "string"}, "description": "Id of the last object seen"},
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}},
]


def describe(
    summary: str,
    request: type[BaseModel] | None = None,
    fails: tuple[int, ...] = (),
    *,
    streams: bool = False,
    key: bool = True,
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    media: str = "application/json",
) -> dict[str, Any]:
    """Arguments of a route that document it.

    Args:
        request: model of the JSON body.
        fails: statuses of its errors; 401 goes without saying where a key is asked for.
        streams: whether it also answers in server-sent events.
        key: whether a key is asked for.
        body: or: the content of another body.
        parameters: of the query.
        media: type of its answer.
    """
    content: dict[str, Any] = {media: {"schema": {"type": "object"}} if media == "application/json" else {}}
    if streams:
        content["text/event-stream"] = {}
    error = {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Error")} if key else {"type": "object"}}}
    responses: dict[int | str, dict[str, Any]] = {200: {"description": summary, "content": content}}
    for status in sorted({*fails, *((401,) if key else ())}):
        responses[status] = {"description": _REASONS[status], "content": error}
    extra: dict[str, Any] = {"responses": {str(status): response for status, response in responses.items()}}
    if key:
        extra["security"] = [{"key": []}]
    if request is not None:
        body = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=request.__name__)}}}
        extra["x-schemas"] = {request.__name__: request.model_json_schema(ref_template=_REFERENCE)}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": body}
    if parameters:
        extra["parameters"] = parameters
    return {"summary": summary, "openapi_extra": extra}


def add_document(app: FastAPI) -> None:
    """`/openapi.json`, of the routes added so far."""
    document = _document(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(document)


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="ftlib", version="1", description="OpenAI's API over private models", routes=app.routes
    )
    schemas: dict[str, Any] = {"Error": _ERROR}
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own: no parameter of ours can fail its checks
            for name, schema in operation.pop("x-schemas", {}).items():
                schemas |= schema.pop("$defs", {})
                schemas[name] = schema
    document["components"] = {
        "schemas": schemas,
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    return document
