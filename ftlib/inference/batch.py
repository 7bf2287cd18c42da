"""Batch generation and scoring for evaluation: many prompts at once, everything shared computed once.

`BatchEngine` runs a batch in three parts: prefill, score, generate. The longest common prefix of a batch's prompts (the
system prompt, few-shot examples) is computed as one row and copied to all, and kept for the next batch. A reference
answer is scored on the same prompt states that generation then goes on from, and where greedy decoding agrees with it,
generation starts behind the agreement (speculative decoding with the reference as the draft: the same tokens, fewer
steps). Callers should sort prompts by length: gaps cost as much as tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftlib.inference.protocol import FinishReason, GenerationRequest
from ftlib.inference.rows import Rows, common_prefix, left_padded
from ftlib.inference.runner import ModelRunner
from ftlib.inference.sampling import sample

_MIN_PREFIX_TOKENS = 16  # below, a shared prefix saves less than its own forward pass costs
_LOGIT_ROWS = 1024  # logits of at most this many tokens at once: 200 MB with a vocabulary of 50,000 in fp32


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer: its tokens without the end token, its text, and why it ended."""

    tokens: tuple[int, ...]
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Scored:
    """A given answer's log-probability (natural, summed over its tokens) given the prompt."""

    log_prob: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class _ScoredRows:
    """`num_agreed` `[R]`: leading answer tokens that greedy decoding gives too; the logits `[R, V]` after them."""

    scores: list[Scored]
    num_agreed: Tensor
    next_logits: Tensor


class BatchEngine:
    """Batches over a ModelRunner; not thread-safe."""

    def __init__(self, runner: ModelRunner, share_prefix: bool = True) -> None:
        self._runner = runner
        self._share_prefix = share_prefix
        self._prefix: tuple[str | None, list[int], Rows] | None = None

    def generate_batch(self, requests: Sequence[GenerationRequest]) -> list[Generated]:
        """Answers to prompts, in order. All requests must name the same adapter."""
        return self.run(requests, None)[0]

    def score_batch(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], adapter: str | None = None
    ) -> list[Scored]:
        """Log-probabilities of given answers, in order; each prompt and answer has at least one token."""
        requests = [GenerationRequest(str(i), tuple(prompt), 0, adapter=adapter) for i, prompt in enumerate(prompts)]
        return self.run(requests, answers)[1]

    @torch.inference_mode()
    def run(
        self, requests: Sequence[GenerationRequest], answers: Sequence[Sequence[int]] | None
    ) -> tuple[list[Generated], list[Scored]]:
        """Generate an answer to each request and score a given one on the way.

        Raises ValueError for an empty prompt, a prompt and answer beyond the model's positions, or mixed adapters.
        """
        if not requests:
            return [], []
        self._check(requests, answers)
        self._runner.use(requests[0].adapter)
        rows, logits = self._prefill([request.prompt for request in requests], requests[0].adapter)
        prompt_columns = rows.num_columns
        if answers is None:
            return self._generate(rows, logits, requests, [[] for _ in requests]), []
        limits = [request.max_new_tokens - 1 if request.temperature == 0 else 0 for request in requests]
        scored = self._score(rows, logits, answers, limits)
        rows.rollback(prompt_columns, scored.num_agreed)
        drafts = [list(answer[:agreed]) for answer, agreed in zip(answers, scored.num_agreed.tolist(), strict=True)]
        return self._generate(rows, scored.next_logits, requests, drafts), scored.scores

    def _check(self, requests: Sequence[GenerationRequest], answers: Sequence[Sequence[int]] | None) -> None:
        if len({request.adapter for request in requests}) > 1:
            raise ValueError("a batch needs one adapter")
        for index, request in enumerate(requests):
            longest = max(request.max_new_tokens, len(answers[index]) if answers is not None else 0)
            if not request.prompt or len(request.prompt) + longest > self._runner.max_positions:
                raise ValueError(
                    f"request {request.request_id}: {len(request.prompt)} prompt tokens and {longest} new ones; "
                    f"the model has {self._runner.max_positions} positions"
                )

    def _prefill(self, prompts: Sequence[Sequence[int]], adapter: str | None) -> tuple[Rows, Tensor]:
        """The prompts' states, and the logits `[R, vocabulary]` after them."""
        shared = min(common_prefix(prompts), min(len(prompt) for prompt in prompts) - 1)
        if not self._share_prefix or len(prompts) == 1 or shared < _MIN_PREFIX_TOKENS:
            shared, rows = 0, Rows(len(prompts), self._runner.device)
        else:
            prefix = self._prefix_states(list(prompts[0][:shared]), adapter)
            rows = prefix.expanded(len(prompts), shared)
        ids, valid = left_padded([prompt[shared:] for prompt in prompts], self._runner.device)
        return rows, rows.forward(self._runner.model, ids, valid)[:, -1].float()

    def _prefix_states(self, tokens: list[int], adapter: str | None) -> Rows:
        """One row that holds at least `tokens`; the last batch's is extended or reused as far as it agrees."""
        known: list[int] = []
        rows = Rows(1, self._runner.device)
        if self._prefix is not None and self._prefix[0] == adapter:
            _, known, rows = self._prefix
            agree = common_prefix([known, tokens])
            if agree == len(tokens):
                return rows
            known = known[:agree]
            rows.rollback(agree)
        ids = torch.tensor([tokens[len(known) :]], device=self._runner.device)
        rows.forward(self._runner.model, ids)
        self._prefix = (adapter, tokens, rows)
        return rows

    def _score(
        self, rows: Rows, logits: Tensor, answers: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> "_ScoredRows":
        """Teacher-forced log-probabilities; short answers have their gap on the right, where nothing looks at it.

        On the way it counts the answer's leading tokens that greedy decoding would have chosen too (at most `limits`,
        and not the last one): generation may go on behind them, which saves most steps of a model that is mostly right.
        """
        if any(len(answer) == 0 for answer in answers):
            raise ValueError("an answer without tokens cannot be scored")
        ids, valid = _right_padded(answers, rows.mask.device)
        most = torch.tensor([min(len(a) - 1, n) for a, n in zip(answers, limits, strict=True)], device=ids.device)
        stops = torch.tensor(sorted(self._runner.stop_ids), device=ids.device)
        draft = ids.masked_fill(torch.isin(ids, stops), -1)  # an end token ends the agreement
        next_logits, agreed = logits.clone(), torch.zeros_like(most)
        agreed += (logits.argmax(-1) == draft[:, 0]) & (most > 0)
        total = _log_prob(logits[:, None], ids[:, :1]).sum(1)
        longest = ids.shape[1]
        step = max(1, _LOGIT_ROWS // len(answers))
        for start in range(0, longest - 1, step):
            end = min(start + step, longest - 1)
            here = rows.forward(self._runner.model, ids[:, start:end], valid[:, start:end], keep=end - start).float()
            total += (_log_prob(here, ids[:, start + 1 : end + 1]) * valid[:, start + 1 : end + 1]).sum(1)
            for column, position in enumerate(range(start + 1, end + 1)):
                so_far = agreed == position
                next_logits[so_far] = here[so_far, column]
                agreed += so_far & (here[:, column].argmax(-1) == draft[:, position]) & (most > position)
        scores = [Scored(float(value), len(answer)) for value, answer in zip(total.tolist(), answers, strict=True)]
        return _ScoredRows(scores, agreed, next_logits)

    def _generate(
        self, rows: Rows, logits: Tensor, requests: Sequence[GenerationRequest], tokens: list[list[int]]
    ) -> list[Generated]:
        """Go on from `tokens`, whose states the rows hold, and the logits `[R, vocabulary]` after them."""
        reasons: list[FinishReason] = ["length"] * len(requests)
        active = [index for index, request in enumerate(requests) if request.max_new_tokens > 0]
        in_cache = list(range(len(requests)))  # request of each row; finished ones stay until it pays to drop them
        while active:
            chosen = self._choose(logits, in_cache, requests, tokens)
            for index in list(active):
                token = chosen[index]
                if token in self._runner.stop_ids:
                    reasons[index] = "stop"
                else:
                    tokens[index].append(token)
                if token in self._runner.stop_ids or len(tokens[index]) >= requests[index].max_new_tokens:
                    active.remove(index)
            if not active:
                break
            # Dropping rows copies the cache, about as much as a step reads: do it when a quarter is done.
            if len(active) <= 0.75 * len(in_cache):
                rows.keep([in_cache.index(index) for index in active])
                in_cache = list(active)
            ids = torch.tensor([[chosen[index]] for index in in_cache], device=self._runner.device)
            logits = rows.forward(self._runner.model, ids)[:, -1].float()
        tokenizer = self._runner.tokenizer_of(requests[0].adapter)
        return [_finished(tokenizer, ids, reason) for ids, reason in zip(tokens, reasons, strict=True)]

    def _choose(
        self, logits: Tensor, in_cache: list[int], requests: Sequence[GenerationRequest], tokens: list[list[int]]
    ) -> dict[int, int]:
        """The next token of each request that is still in the cache."""
        chosen = dict(zip(in_cache, logits.argmax(-1).tolist(), strict=True))
        for row, index in enumerate(in_cache):
            request = requests[index]
            if request.temperature > 0:
                chosen[index] = sample(logits[row], request, len(tokens[index]))
        return chosen


def _finished(tokenizer: Any, tokens: list[int], reason: FinishReason) -> Generated:
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Generated(tuple(tokens), text, reason)


def _right_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids `[R, longest]` with gaps on the right, and where they are valid."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.zeros((len(sequences), longest), dtype=torch.long)
    valid = torch.zeros((len(sequences), longest), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(list(sequence), dtype=torch.long)
        valid[row, : len(sequence)] = True
    return ids.to(device), valid.to(device)


def _log_prob(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of `ids` `[R, A]` under `logits` `[R, A, vocabulary]`."""
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)
