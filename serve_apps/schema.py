"""Requests of OpenAI's completion and embedding APIs, checked strictly: what is not honoured is refused by name.

A parameter that this endpoint does not implement passes only with the value that means "do nothing" (`best_of: 1`,
`tools: []`, null), because clients send such defaults unasked. Extensions are vLLM's, under its names.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from ftlib.inference.protocol import Grammar
from serve_apps.errors import ApiError, unsupported

MAX_CHOICES = 256
"""Most answers, or embeddings, of one request."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "store": (False,),
}
_INT64 = 1 << 63

Stop = Annotated[list[Annotated[StrictStr, Field(min_length=1, max_length=256)]], Field(max_length=16)]
TokenIds = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)]
Prompt = (
    StrictStr
    | TokenIds
    | Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_CHOICES)]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES)]
)
Penalty = Annotated[float, Field(ge=-2, le=2, strict=True)]
Bias = Annotated[float, Field(ge=-100, le=100, strict=True)]
Limit = Annotated[StrictInt, Field(ge=1)]
M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """A part of a request: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: StrictBool = False


class NamedSchema(Strict):
    """`response_format.json_schema`. The answer always matches it, `strict` or not."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=64)]
    description: StrictStr | None = None
    json_schema: Annotated[dict[StrictStr, Any], Field(alias="schema")]
    strict: StrictBool | None = None


class ResponseFormat(Strict):
    """The form of an answer: any text, a JSON object, or JSON that matches a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _schema_where_due(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with type json_schema, and with no other")
        return self

    @property
    def grammar(self) -> Grammar | None:
        """What the answer must match."""
        if self.json_schema is not None:
            return Grammar("json_schema", _dump(self.json_schema.json_schema, "response_format"))
        return Grammar("json_object") if self.type == "json_object" else None


class StructuredOutputs(Strict):
    """vLLM's extension: one of a regular expression and a JSON schema."""

    regex: Annotated[StrictStr, Field(min_length=1, max_length=4096)] | None = None
    json_value: Annotated[dict[StrictStr, Any] | StrictStr | None, Field(alias="json")] = None

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        if (self.regex is None) == (self.json_value is None):
            raise ValueError("give either regex or json")
        return self

    @property
    def grammar(self) -> Grammar:
        """What the answer must match."""
        if self.regex is not None:
            return Grammar("regex", self.regex)
        text = self.json_value if isinstance(self.json_value, str) else _dump(self.json_value, "structured_outputs")
        return Grammar("json_schema", text)


class SamplingParameters(Strict):
    """What both completion APIs share."""

    model: StrictStr
    n: Annotated[StrictInt, Field(ge=1, le=128)] = 1
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Bias], Field(max_length=1024)] = {}
    seed: Annotated[StrictInt, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: Stop = []
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, lt=1 << 31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2, strict=True)] = 1.0
    ignore_eos: StrictBool = False
    structured_outputs: StructuredOutputs | None = None
    cache_salt: Annotated[StrictStr, Field(min_length=1, max_length=256)] = ""

    @field_validator("stop", mode="before", json_schema_input_type=StrictStr | Stop)
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to tell for each token; None: no log-probabilities at all."""
        return None

    @property
    def grammar(self) -> Grammar | None:
        """What the answer must match."""
        if self.structured_outputs is not None:
            return self.structured_outputs.grammar
        return self.response_format.grammar if self.response_format is not None else None

    def refuse_contradictions(self) -> None:
        """Raise ApiError 400 for parameters that exclude one another."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options goes with stream=true", param="stream_options", code="invalid_value")
        if self.structured_outputs is not None and self.response_format is not None:
            message = "structured_outputs and response_format exclude each other"
            raise ApiError(400, message, param="structured_outputs", code="invalid_value")


class TextPart(Strict):
    """A part of a message's content; text is the only kind."""

    type: Literal["text"]
    text: StrictStr


class ChatMessage(Strict):
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
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None

    @property
    def limit(self) -> int | None:
        """Longest answer in tokens; None: as long as the model's context allows."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to tell for each token; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def refuse_contradictions(self) -> None:
        """Raise ApiError 400 for parameters that exclude one another."""
        super().refuse_contradictions()
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs goes with logprobs=true", param="top_logprobs", code="invalid_value")


class CompletionRequest(SamplingParameters):
    """`POST /v1/completions`. `prompt` is a text, several, the token ids of one prompt, or of several."""

    prompt: Prompt
    max_tokens: Limit = 16
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to tell for each token; None: no log-probabilities at all."""
        return self.logprobs

    def refuse_contradictions(self) -> None:
        """Raise ApiError 400 for parameters that exclude one another."""
        super().refuse_contradictions()
        if len(each_prompt(self.prompt)) * self.n > MAX_CHOICES:
            raise ApiError(400, f"prompts times n: at most {MAX_CHOICES}", param="n", code="invalid_value")


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    model: StrictStr
    input: Prompt
    encoding_format: Literal["float", "base64"] = "float"


def each_prompt(prompt: Prompt) -> list[str | list[int]]:
    """The prompts, each a text or token ids."""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return list(prompt)  # type: ignore[arg-type]


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
            raise unsupported(name, f"only {_NEUTRAL[name][0]!r} is accepted" if name in _NEUTRAL else "")
    try:
        parsed = model.model_validate(given)
    except ValidationError as error:
        raise _as_api_error(error) from None
    if isinstance(parsed, SamplingParameters):
        parsed.refuse_contradictions()
    return parsed


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


def _dump(schema: Any, param: str) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError):
        raise ApiError(400, f"{param}: the schema is not valid JSON", param=param, code="invalid_value") from None
