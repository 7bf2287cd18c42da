"""From a checked request to the engine's: every parameter under the engine's name, and a 400 for what it cannot do."""

import hashlib

from ftlib.inference.protocol import Capabilities, GenerationRequest
from serve_apps.errors import ApiError, unsupported
from serve_apps.schema import ChatRequest, SamplingParameters

_GREEDY_BELOW = 1e-5  # dividing logits by less overflows; it is greedy in the limit (vLLM draws the line there too)


def engine_requests(
    request: SamplingParameters, request_id: str, prompt: list[int], *, limit: int, adapter: str | None, tenant: str
) -> list[GenerationRequest]:
    """The `n` requests of one prompt. Seeds count up from the given one, so that each answer can be had again."""
    return [
        GenerationRequest(
            request_id=f"{request_id}-{index}",
            prompt=tuple(prompt),
            max_new_tokens=limit,
            temperature=request.temperature if request.temperature >= _GREEDY_BELOW else 0.0,
            top_p=request.top_p,
            top_k=max(0, request.top_k),
            min_p=request.min_p,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            repetition_penalty=request.repetition_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in request.logit_bias.items()),
            seed=None if request.seed is None else (request.seed + index) % (1 << 63),
            logprobs=request.num_logprobs,
            stop=tuple(request.stop),
            ignore_eos=request.ignore_eos,
            grammar=request.grammar,
            adapter=adapter,
            salt=salt_of(tenant, request.cache_salt),
        )
        for index in range(request.n)
    ]


def salt_of(tenant: str, cache_salt: str) -> str:
    """Prompts share states within a tenant only, so that none can tell by time what another one asked."""
    return hashlib.sha256(f"{tenant}\0{cache_salt}".encode()).hexdigest() if tenant or cache_salt else ""


def refuse_beyond(
    request: SamplingParameters, engine_request: GenerationRequest, capabilities: Capabilities, vocabulary: int
) -> None:
    """Raise ApiError 400 naming OpenAI's parameter for what the engine cannot do or the vocabulary does not have."""
    names = {"grammar": grammar_name(request)}
    for name in engine_request.beyond(capabilities.parameters):
        raise unsupported(names.get(name, name), "the engine of this model does not have it")
    grammar = engine_request.grammar
    if grammar is not None and grammar.kind not in capabilities.grammars:
        raise unsupported(names["grammar"], f"the engine of this model cannot hold answers to a {grammar.kind}")
    if engine_request.logprobs is not None and engine_request.logprobs > capabilities.max_logprobs:
        name = "top_logprobs" if isinstance(request, ChatRequest) else "logprobs"
        raise unsupported(name, f"the engine of this model tells at most {capabilities.max_logprobs}")
    if any(token >= vocabulary for token, _ in engine_request.logit_bias):
        message = f"logit_bias: token ids must be below {vocabulary}"
        raise ApiError(400, message, param="logit_bias", code="invalid_value")


def grammar_name(request: SamplingParameters) -> str:
    """The parameter that a request's grammar came by."""
    return "structured_outputs" if request.structured_outputs is not None else "response_format"
