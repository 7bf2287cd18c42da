"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`. Messages never hold prompt text."""

from typing import Any


class ApiError(Exception):
    """An error that the client gets."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def unsupported(param: str, detail: str = "") -> ApiError:
    """400 for a parameter, or a value of one, that this endpoint does not honour."""
    message = f"{param} is not supported by this endpoint" + (f": {detail}" if detail else "")
    return ApiError(400, message, param=param, code="unsupported_parameter")
