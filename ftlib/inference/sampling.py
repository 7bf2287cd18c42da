"""The next token of each row: greedy, or drawn by temperature, top-k, top-p (Holtzman et al., 2020) and min-p.

The draw of token t of an answer depends on (seed, t) and its own row of logits alone, so neither the neighbours in the
batch nor a restart in mid-answer change it. The last bits of logits do depend on the batch's shape, so the draw is a
race of exponentials (the largest p/e wins, the "Gumbel-max" trick): where a number falls among cumulative sums of
49,152 probabilities, errors of 1e-6 would change a token in a hundred.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ftlib.inference.grammar import Matcher
from ftlib.inference.protocol import GenerationRequest

_GROUP = 256
_CANDIDATES = 256  # likeliest tokens looked at first; a row that needs more is sorted whole


@dataclass(slots=True)
class Choice:
    """A chosen token, with what was asked about probabilities."""

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class SamplingState:
    """What the next draw of one request depends on besides the logits."""

    request: GenerationRequest
    seed: int
    matcher: Matcher | None = None
    num_generated: int = 0
    _seen: Tensor | None = field(default=None, repr=False)
    _counts: Tensor | None = field(default=None, repr=False)

    def add(self, token: int) -> None:
        """The answer got a token."""
        self.num_generated += 1
        for held in (self._seen, self._counts):
            if held is not None and token < len(held):
                held[token] += 1

    @property
    def changes_logits(self) -> bool:
        """Whether it biases, punishes or forbids tokens."""
        request = self.request
        penalties = request.presence_penalty or request.frequency_penalty or request.repetition_penalty != 1
        return bool(penalties or request.logit_bias or self.matcher)

    def adjust(self, logits: Tensor, generated: Sequence[int]) -> None:
        """Change `[vocabulary]` in place; `generated` is the answer so far."""
        request = self.request
        for token, bias in request.logit_bias:
            logits[token] += bias
        if request.repetition_penalty != 1:
            if self._seen is None:
                self._seen = _count((*request.prompt, *generated), logits)
            punished = torch.where(logits > 0, logits / request.repetition_penalty, logits * request.repetition_penalty)
            logits.copy_(torch.where(self._seen > 0, punished, logits))
        if request.presence_penalty or request.frequency_penalty:
            if self._counts is None:
                self._counts = _count(generated, logits)
            logits -= request.frequency_penalty * self._counts + request.presence_penalty * (self._counts > 0)
        if self.matcher is not None:
            logits.masked_fill_(~self.matcher.allowed(len(logits)).to(logits.device), -torch.inf)


def _count(tokens: Sequence[int], like: Tensor) -> Tensor:
    ids = torch.tensor(list(tokens), dtype=torch.long, device=like.device)
    return torch.bincount(ids[ids < len(like)], minlength=len(like)).to(like.dtype)


def choose(logits: Tensor, states: Sequence[SamplingState], answers: Sequence[Sequence[int]]) -> list[Choice]:
    """The next token of each row.

    Args:
        logits: float32 `[rows, vocabulary]`; rows that are biased or masked are changed in place.
        states: of each row.
        answers: each row's tokens so far.
    """
    told = [row for row, state in enumerate(states) if state.request.logprobs is not None]
    logprobs = logits[told].log_softmax(-1) if told else None
    for row, state in enumerate(states):
        if state.changes_logits:
            state.adjust(logits[row], answers[row])
    choices = [Choice(token) for token in logits.argmax(-1).tolist()]
    drawn = [row for row, state in enumerate(states) if state.request.temperature > 0]
    if drawn:
        tokens = draw(logits[drawn], [states[row].request for row in drawn], [_key(states[row]) for row in drawn])
        for row, token in zip(drawn, tokens, strict=True):
            choices[row].token = token
    if logprobs is not None:
        _tell(choices, logprobs, told, states)
    return choices


def _tell(choices: list[Choice], logprobs: Tensor, told: list[int], states: Sequence[SamplingState]) -> None:
    most = max(states[row].request.logprobs or 0 for row in told)
    values, ids = logprobs.topk(most) if most else (logprobs[:, :0], logprobs[:, :0].long())
    for at, row in enumerate(told):
        wanted = states[row].request.logprobs or 0
        choices[row].logprob = float(logprobs[at, choices[row].token])
        choices[row].top_logprobs = tuple(zip(ids[at, :wanted].tolist(), values[at, :wanted].tolist(), strict=True))


def draw(logits: Tensor, requests: Sequence[GenerationRequest], keys: Sequence[tuple[int, int]]) -> list[int]:
    """Draw a token for each row, whose temperatures are positive.

    Args:
        logits: `[rows, vocabulary]`.
        requests: temperature, top_k, top_p and min_p of each row; top_k comes first, and top_p counts what it leaves.
        keys: each row's seed and position in its answer.
    """
    temperatures = torch.tensor([request.temperature for request in requests], device=logits.device)
    probabilities = (logits / temperatures[:, None]).softmax(-1)
    filtered = [_filters(request) for request in requests]
    tokens = [0] * len(requests)
    plain = [row for row, is_filtered in enumerate(filtered) if not is_filtered]
    for row in plain:
        tokens[row] = _pick(probabilities[row].double().cpu().numpy(), keys[row])
    rest = [row for row, is_filtered in enumerate(filtered) if is_filtered]
    if rest:
        values, ids = (found.cpu() for found in probabilities[rest].topk(min(_CANDIDATES, logits.shape[-1])))
        for at, row in enumerate(rest):
            kept = _num_kept(values[at], requests[row])
            best, order = values[at], ids[at]
            if kept == len(best) < logits.shape[-1]:
                best, order = (found.cpu() for found in probabilities[row].sort(descending=True))
                kept = _num_kept(best, requests[row])
            # Among all tokens again: which noise is whose must not depend on their order.
            weights = np.zeros(logits.shape[-1])
            weights[order[:kept].numpy()] = best[:kept].double().numpy()
            tokens[row] = _pick(weights, keys[row])
    return tokens


def _filters(request: GenerationRequest) -> bool:
    return request.top_p < 1 or request.top_k > 0 or request.min_p > 0


def _num_kept(ordered: Tensor, request: GenerationRequest) -> int:
    """How many of the probabilities, likeliest first, the request's filters leave; all of them may mean more."""
    kept = len(ordered)
    if request.top_k:
        kept = min(kept, request.top_k)
    if request.top_p < 1:
        sums = ordered.double().cumsum(0)
        whole = float(sums[kept - 1]) if request.top_k else 1.0
        kept = min(kept, int((sums - ordered < request.top_p * whole).sum()))
    if request.min_p:
        kept = min(kept, int((ordered >= request.min_p * ordered[0]).sum()))
    return max(1, kept)


def _pick(weights: "np.ndarray[tuple[int], np.dtype[np.float64]]", key: tuple[int, int]) -> int:
    """A token with a probability in proportion to its weight, `[n]`: a race of groups, then one inside the winner."""
    table = np.zeros((-(-len(weights) // _GROUP), _GROUP))
    table.flat[: len(weights)] = weights
    digest = hashlib.sha256(f"{key[0]}:{key[1]}".encode()).digest()
    noise = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big"))).standard_exponential(
        _GROUP + len(table)
    )
    group = int((table.sum(1) / noise[_GROUP:]).argmax())
    return group * _GROUP + int((table[group] / noise[:_GROUP]).argmax())


def _key(state: SamplingState) -> tuple[int, int]:
    return state.seed, state.num_generated


def sample(logits: Tensor, request: GenerationRequest, position: int) -> int:
    """One row's token: `[vocabulary]`, at a position of the answer; for temperature and the filters alone."""
    if request.temperature <= 0:
        return int(logits.argmax())
    return draw(logits[None], [request], [(request.seed or 0, position)])[0]
