"""Requests of OpenAI's completion APIs, checked strictly: what is not honoured is refused by name, never ignored.

A parameter that this endpoint does not implement passes only with the value that means "do nothing" (`n: 1`,
`frequency_penalty: 0`, null), because clients send such defaults unasked.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, field_validator

from serve_apps.errors import ApiError, unsupported

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "echo": (False,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "store": (False,),
}

Stop = Annotated[list[Annotated[StrictStr, Field(min_length=1, max_length=256)]], Field(max_length=16)]
M = TypeVar("M", bound="SamplingParameters")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamOptions(_Strict):
    """Options of a stream."""

    include_usage: StrictBool = False


class SamplingParameters(_Strict):
    """What both APIs share."""

    model: StrictStr
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    seed: StrictInt | None = None
    stop: Stop = []
    stream: StrictBool = False
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(_Strict):
    """A part of a message's content; text is the only kind."""

    type: Literal["text"]
    text: StrictStr


class ChatMessage(_Strict):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: StrictStr | list[TextPart]

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(SamplingParameters):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None

    @property
    def limit(self) -> int | None:
        """Longest answer in tokens; None: as long as the model's context allows."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(SamplingParameters):
    """`POST /v1/completions`. `prompt` is a text or the token ids of one prompt."""

    prompt: StrictStr | Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)]
    max_tokens: Annotated[StrictInt, Field(ge=1)] = 16

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) else value


def parse(model: type[M], body: Any) -> M:
    """Validate a request's JSON value; raises ApiError 400 that names the first offending parameter."""
    if not isinstance(body, dict):
        raise ApiError(400, "the request body must be a JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    known = set(model.model_fields)
    for name in sorted(set(given) - known):
        # `False == 0` in Python: a neutral value must have the type of a neutral value.
        if any(given[name] == neutral and type(given[name]) in _types(neutral) for neutral in _NEUTRAL.get(name, ())):
            del given[name]
        else:
            detail = f"only {_NEUTRAL[name][0]!r} is accepted" if name in _NEUTRAL else ""
            raise unsupported(name, detail)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _as_api_error(error) from None


def _types(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) is int else (type(value),)


def _as_api_error(error: ValidationError) -> ApiError:
    """The first mistake as a 400; the offending value is left out, it may be the prompt."""
    # In a union every alternative reports; the shortest location names the parameter itself.
    item = error.errors(include_url=False, include_input=False)[0]
    location = [str(part) for part in item["loc"] if not _is_union_tag(part)]
    param = ".".join(location)
    if item["type"] == "missing":
        return ApiError(400, f"{param} is required", param=param, code="missing_required_parameter")
    if item["type"] == "extra_forbidden":
        return unsupported(param)
    return ApiError(400, f"{param}: {item['msg']}", param=param, code="invalid_value")


def _is_union_tag(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("str", "int") or "[" in part)
