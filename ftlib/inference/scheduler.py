"""Which tokens are computed next and what becomes of them: slots, batches and draws of the embedded engine.

No threads and no queues: `EmbeddedEngine` brings requests and takes events away.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from ftlib.inference.detokenize import Detokenizer, StopStrings
from ftlib.inference.prefixes import Prefixes
from ftlib.inference.protocol import EngineStats, FinishReason, GenerationRequest, TokenEvent
from ftlib.inference.sampling import Choice, SamplingState, choose
from ftlib.inference.slots import Segment
from ftlib.inference.stepper import Stepper

Batch = list[tuple["Active", int]]
"""Requests of a step, sorted by adapter, with how many of their tokens are computed."""


@dataclass(eq=False)
class Active:
    """A request in the engine."""

    request: GenerationRequest
    emit: Callable[[TokenEvent], None]
    tokens: list[int]
    """Prompt and answer."""

    sampling: SamplingState
    detokenizer: Detokenizer
    stops: StopStrings
    slot: int = -1
    num_done: int = 0
    """Tokens whose states are in the slot."""

    num_cached: int = 0
    cancelled: bool = False
    hidden_sum: Tensor | None = field(default=None, repr=False)
    """Embeddings: the sum of the states so far."""

    embedded: Future[list[float]] | None = None

    def add_hidden(self, states: Tensor) -> None:
        """States of tokens, `[tokens, width]`; with the last of them the embedding is there."""
        total = states.sum(0)
        self.hidden_sum = total if self.hidden_sum is None else self.hidden_sum + total
        if self.num_done == len(self.tokens) and self.embedded is not None:
            mean = self.hidden_sum / self.num_done
            self.embedded.set_result((mean / mean.norm().clamp(min=1e-12)).tolist())

    @property
    def answer(self) -> list[int]:
        """Tokens generated so far, those of an earlier engine too."""
        return self.tokens[len(self.request.prompt) :]


class Scheduler:
    """The requests that have a slot. Not thread-safe but for reading `active` and `stats`."""

    def __init__(self, stepper: Stepper, prefill_tokens: int, reuse_prefixes: bool) -> None:
        self.active: list[Active] = []
        self.stats = EngineStats()
        """Counters of tokens; gauges are the engine's."""
        self._stepper, self._prefill_tokens = stepper, prefill_tokens
        self._prefixes = Prefixes(stepper.slots.num_slots, stepper.slots.capacity, reuse_prefixes)

    def admit(self, active: Active) -> None:
        """Give a request a slot, with the states that an earlier one left there or has now."""
        request = active.request
        # An embedding needs the states of all its tokens computed.
        usable = len(active.tokens) - 1 if active.embedded is None else 0
        found = self._prefixes.take(active.tokens, (request.adapter, request.salt), usable)
        active.slot, active.num_done = found.slot, found.length
        self.active.append(active)
        if found.copy_from is not None:
            self._stepper.slots.copy_prefix(found.copy_from, found.slot, found.length)
        active.num_cached = min(found.length, len(request.prompt))
        self.stats.prefix_cache_queries_total += len(request.prompt)
        self.stats.prefix_cache_hits_total += active.num_cached

    def leave(self, active: Active) -> None:
        """Take its slot away."""
        self.active.remove(active)
        self._prefixes.release(active.slot)

    def forget(self, adapter: str) -> None:
        """An adapter is unloaded."""
        self._prefixes.forget(adapter)

    def next_batch(self) -> Batch:
        """The next token of every answer, and chunks of prompts."""
        answering = any(len(active.tokens) == active.num_done + 1 for active in self.active)
        budget = self._prefill_tokens * (1 if answering else 4)
        batch = []
        for active in self.active:
            left = len(active.tokens) - active.num_done
            if left > 1:
                left = min(left, budget)
                budget -= left
            if left:
                batch.append((active, left))
        return sorted(batch, key=lambda pair: self._stepper.bank.index(pair[0].request.adapter))

    def step(self, batch: Batch) -> list[tuple[Active, TokenEvent]]:
        """Compute a batch; returns the events of those who got a token or, for an embedding, are done."""
        segments, ids = [], []
        for active, count in batch:
            index = self._stepper.bank.index(active.request.adapter)
            segments.append(Segment(active.slot, active.num_done, count, index))
            ids += active.tokens[active.num_done : active.num_done + count]
        embeds = any(active.embedded for active, _ in batch)
        chosen_for = [
            at for at, (active, count) in enumerate(batch)
            if active.num_done + count == len(active.tokens) and active.embedded is None
        ]  # fmt: skip
        logits, hidden = self._stepper.step(segments, ids, chosen_for, embeds)
        events: list[tuple[Active, TokenEvent]] = []
        first = 0
        for active, count in batch:
            self._prefixes.extend(active.slot, active.num_done, ids[first : first + count])
            self.stats.prompt_tokens_total += max(0, min(count, len(active.request.prompt) - active.num_done))
            active.num_done += count
            if active.embedded is not None and hidden is not None:
                active.add_hidden(hidden[first : first + count])
                if active.num_done == len(active.tokens):
                    events.append((active, TokenEvent(None, "", "stop")))
            first += count
        takers = [batch[at][0] for at in chosen_for]
        if takers:
            choices = choose(logits, [active.sampling for active in takers], [active.answer for active in takers])
            events += [(active, self._take(active, choice)) for active, choice in zip(takers, choices, strict=True)]
        return events

    def _take(self, active: Active, choice: Choice) -> TokenEvent:
        """A request got its next token."""
        request, token, sampling = active.request, choice.token, active.sampling
        cached = active.num_cached if sampling.num_generated == len(request.generated) else 0
        active.tokens.append(token)
        sampling.add(token)
        self.stats.generation_tokens_total += 1
        ends = token in self._stepper.stop_ids and not request.ignore_eos
        text = "" if ends else active.stops.push(active.detokenizer.push(token))
        if sampling.matcher is not None and not ends:
            sampling.matcher.accept([token])
            ends = sampling.matcher.complete
        reason: FinishReason | None = None
        if ends or active.stops.stopped:
            reason = "stop"
        elif sampling.num_generated >= request.max_new_tokens:
            reason = "length"
        if reason is not None and not active.stops.stopped:
            text += active.stops.push(active.detokenizer.flush()) + active.stops.flush()
        return TokenEvent(token, text, reason, None, choice.logprob, choice.top_logprobs, cached)
