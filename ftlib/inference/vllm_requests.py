"""Between the engine protocol and vLLM: what is refused, bodies of requests, events from tokens, statistics.

vLLM gives token ids; text, stop strings and end tokens are made of them here by the classes that the embedded engine
uses, so an answer that goes on from `generated` holds back and stops as if it had never been cut off.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftlib.inference.detokenize import Detokenizer, StopStrings
from ftlib.inference.protocol import (
    EngineStats,
    FinishReason,
    GenerationRequest,
    GrammarKind,
    TokenEvent,
    refuse_length,
)

GRAMMARS: frozenset[GrammarKind] = frozenset({"json_schema", "json_object", "regex"})
MAX_LOGPROBS = 20
_MIN_TEMPERATURE = 0.01
_TOKEN_ID = "token_id:"
_METRIC = re.compile(r"^vllm:(\w+)(?:\{[^\n]*\})? (\S+)$", re.MULTILINE)
_NUM_BLOCKS = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)


def refuse_request(request: GenerationRequest, max_model_len: int) -> None:
    """Raise ValueError for what vLLM would not do, or not exactly as asked."""
    refuse_length(request, max_model_len)
    if len(request.generated) >= request.max_new_tokens:
        raise ValueError(
            f"generated: {len(request.generated)} of {request.max_new_tokens} tokens, none is left to make"
        )
    if 0 < request.temperature < _MIN_TEMPERATURE:
        raise ValueError(f"temperature: vLLM draws with at least {_MIN_TEMPERATURE}; 0 is greedy")
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
        raise ValueError(f"logprobs: {request.logprobs}; 0 to {MAX_LOGPROBS}")
    if request.grammar is not None:
        if request.logprobs is not None:
            raise ValueError("logprobs: vLLM takes them after the grammar, not under the model alone")
        if request.ignore_eos:
            raise ValueError("ignore_eos: behind the end of a grammar vLLM would go on without it")
    if request.generated:
        inexact = {
            "temperature": request.temperature > 0,  # vLLM's draws go on from the state of a generator
            "presence_penalty": request.presence_penalty != 0,  # these two would not count the part that is sent
            "frequency_penalty": request.frequency_penalty != 0,
            "grammar": request.grammar is not None,
        }
        if named := [name for name, is_set in inexact.items() if is_set]:
            raise ValueError(f"generated: vLLM cannot go on with {', '.join(named)}")


def completion_body(request: GenerationRequest, model: str, stop_ids: Sequence[int]) -> dict[str, Any]:
    """The body of `/v1/completions`. Stop strings are not in it: they are found in what comes back."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": [*request.prompt, *request.generated],
        "max_tokens": request.max_new_tokens - len(request.generated),
        "stream": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "ignore_eos": request.ignore_eos,
        "stop_token_ids": [] if request.ignore_eos else list(stop_ids),
    }
    if request.seed is not None:
        body["seed"] = request.seed % 2**63  # vLLM takes -1 for none
    if request.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.logit_bias}
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    if request.salt:
        body["cache_salt"] = request.salt
    if (grammar := request.grammar) is not None:
        keys = {"json_schema": ("json", grammar.text), "regex": ("regex", grammar.text)}
        name, value = keys.get(grammar.kind, ("json_object", True))
        body["structured_outputs"] = {name: value}
    return body


class Answer:
    """The events of one request, made from the choices that vLLM streams."""

    def __init__(self, request: GenerationRequest, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self._stop_ids = stop_ids
        self._num_logprobs = request.logprobs
        self._detokenizer, self._stops = Detokenizer(tokenizer), StopStrings(request.stop)
        for token in request.generated:  # shown already, but for what was held back
            self._stops.push(self._detokenizer.push(token))

    def push(self, choice: Mapping[str, Any]) -> Iterator[TokenEvent]:
        """One event for each token; the last has a finish reason, and what comes behind it is to be thrown away."""
        tokens, reason = choice.get("token_ids") or [], choice.get("finish_reason")
        for index, token in enumerate(tokens):
            last = reason if index == len(tokens) - 1 else None
            event = self._event(token, last, choice.get("logprobs"), index)
            yield event
            if event.finish_reason is not None:
                return
        if reason is not None and not tokens:
            yield self._event(None, reason, None, 0)

    def _event(self, token: int | None, reason: str | None, logprobs: Any, index: int) -> TokenEvent:
        text, ends = "", reason == "stop" and token in self._stop_ids
        if token is not None and not ends:
            text = self._stops.push(self._detokenizer.push(token))
        if reason not in (None, "stop", "length"):
            return TokenEvent(token, "", "error", f"vLLM ended the request ({reason})")
        finish: FinishReason | None = None
        if reason is not None or self._stops.stopped:
            text += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
            finish = "length" if reason == "length" and not self._stops.stopped else "stop"
        if self._num_logprobs is None or logprobs is None:
            return TokenEvent(token, text, finish)
        likeliest = logprobs["top_logprobs"][index] or {}
        ranked = sorted(likeliest.items(), key=lambda item: -item[1])[: self._num_logprobs]
        top = tuple((int(name.removeprefix(_TOKEN_ID)), value) for name, value in ranked)
        return TokenEvent(token, text, finish, logprob=logprobs["token_logprobs"][index], top_logprobs=top)


def parse_metrics(text: str) -> tuple[EngineStats, tuple[float, ...]]:
    """From vLLM's metrics: the statistics (without what it does not know), and figures that grow while it moves."""
    sums: dict[str, float] = {}
    for name, value in _METRIC.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    config = _NUM_BLOCKS.search(text)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', config[1])) if config else {}
    usage = sums.get("kv_cache_usage_perc", 0.0)
    num_blocks, block_size = (labels.get(name, "") for name in ("num_gpu_blocks", "block_size"))
    capacity = int(num_blocks) * int(block_size) if num_blocks.isdigit() and block_size.isdigit() else 0
    stats = EngineStats(
        num_running=int(sums.get("num_requests_running", 0)),
        num_waiting=int(sums.get("num_requests_waiting", 0)),
        num_kv_tokens=round(usage * capacity),
        kv_cache_usage=usage,
        prompt_tokens_total=int(sums.get("prompt_tokens_total", 0)),
        generation_tokens_total=int(sums.get("generation_tokens_total", 0)),
        prefix_cache_queries_total=int(sums.get("prefix_cache_queries_total", 0)),
        prefix_cache_hits_total=int(sums.get("prefix_cache_hits_total", 0)),
    )
    steps = sums.get("iteration_tokens_total_count", 0.0)  # counts steps that only read a part of a prompt, too
    return stats, (steps, stats.prompt_tokens_total, stats.generation_tokens_total)
