"""Key/value states of many requests in fixed slots, and attention over them for one flat row of tokens.

A step computes tokens of many requests as one row: one token of each answer under way, chunks of prompts beside them.
Linear layers then see each token once, without padding. Attention alone tells requests apart, by the `Plan` of the
step: answers attend in blocks over neighbouring slots, chunks one by one.

States lie in `[slots, kv_heads, capacity, head_dim]` a layer, written in place, so nothing is copied as answers grow.
Storage is zeroed but, on a CPU, touched only as it fills.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache

ATTENTION = "ftlib_slots"
_WASTE = 1024  # states that a block of answers may read for nothing; more, and it is split
_SCORE_CHANGES = ("softcap", "s_aux", "position_bias", "head_mask")
_GAP = 2  # idle slots that a block may span


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of one request in a step: they follow `start` states that its slot has already."""

    slot: int
    start: int
    length: int
    adapter: int = 0
    """Index in the adapter bank; 0: none."""

    @property
    def end(self) -> int:
        """States in the slot after the step."""
        return self.start + self.length


@dataclass(slots=True)
class _Block:
    """Answers in neighbouring slots `first` to `first + count`, the longest of `length` states."""

    first: int
    count: int
    length: int
    tokens: Tensor
    """Which tokens of the step they are, int64[n]."""

    rows: Tensor | None
    """Which slots of the block have one, int64[n]; None: all, in order."""

    lengths: Tensor
    """States of each slot of the block, int64[count]; an idle one pretends to have one."""

    masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, window: int, dtype: torch.dtype) -> Tensor:
        """What each slot may look at, `[count, 1, 1, length]`, to be added to scores. `window` 0: everything."""
        if window not in self.masks:
            at = torch.arange(self.length, device=self.lengths.device)
            hidden = at >= self.lengths[:, None]
            if window:
                hidden |= at < self.lengths[:, None] - window
            zeros = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self.masks[window] = zeros.masked_fill_(hidden, -torch.inf)[:, None, None]
        return self.masks[window]


@dataclass(slots=True)
class _Chunk:
    """A part of a prompt: tokens `first` to `first + length` of the step, behind `start` states of `slot`."""

    first: int
    length: int
    slot: int
    start: int
    masks: dict[int, Tensor] = field(default_factory=dict)

    def mask(self, window: int, like: Tensor) -> Tensor:
        """What each token may look at, `[length, start + length]`."""
        if window not in self.masks:
            own = torch.arange(self.start, self.start + self.length, device=like.device)[:, None]
            at = torch.arange(self.start + self.length, device=like.device)
            hidden = at > own
            if window:
                hidden |= at <= own - window
            zeros = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self.masks[window] = zeros.masked_fill_(hidden, -torch.inf)
        return self.masks[window]


class Plan:
    """Where the tokens of a step come from and go to."""

    def __init__(self, segments: Sequence[Segment], capacity: int, device: torch.device) -> None:
        """Lay out a step whose tokens come in the order of `segments`."""
        self.segments = segments
        self.has_adapters = any(segment.adapter for segment in segments)
        lengths = np.fromiter((segment.length for segment in segments), np.int64, len(segments))
        ends = lengths.cumsum()
        first = np.repeat(ends - lengths, lengths)
        starts = np.fromiter((segment.start for segment in segments), np.int64, len(segments))
        slots = np.fromiter((segment.slot for segment in segments), np.int64, len(segments))
        positions = np.arange(ends[-1]) - first + np.repeat(starts, lengths)
        self.num_tokens = int(ends[-1])
        self.positions = torch.from_numpy(positions).to(device)
        """int64[tokens], in their requests."""
        self._slots = torch.from_numpy(np.repeat(slots, lengths)).to(device)
        self._capacity = capacity
        self._places: dict[int, Tensor] = {}
        self.last_tokens = ends - 1
        """Last token of each segment, int64[segments]."""
        self.layout = np.stack([slots, starts, lengths, ends - lengths], axis=1)
        """Slot, states before, tokens and first token of each segment, int64[segments, 4]."""

    @cached_property
    def chunks(self) -> list[_Chunk]:
        """Parts of prompts."""
        return [
            _Chunk(first, segment.length, segment.slot, segment.start)
            for first, segment in zip(self.layout[:, 3].tolist(), self.segments, strict=True)
            if segment.length > 1
        ]

    @cached_property
    def _single(self) -> list[tuple[Segment, int]]:
        firsts = self.layout[:, 3].tolist()
        return [(segment, first) for segment, first in zip(self.segments, firsts, strict=True) if segment.length == 1]

    @cached_property
    def blocks(self) -> list[_Block]:
        """Answers, by neighbouring slots."""
        return [_block(group, self.positions.device) for group in _neighbours(self._single)]

    @cached_property
    def is_one_block(self) -> bool:
        """Whether the tokens are those of the only block, in its order: then nothing is gathered."""
        in_order = [token for _, token in sorted(self._single, key=lambda pair: pair[0].slot)]
        return (
            not self.chunks
            and len(self.blocks) == 1
            and self.blocks[0].rows is None
            and in_order == list(range(self.num_tokens))
        )

    def places(self, num_heads: int) -> Tensor:
        """Where a layer of so many key heads keeps the tokens: rows of head_dim, int64[heads · tokens]."""
        if num_heads not in self._places:
            heads = torch.arange(num_heads, device=self.positions.device)[:, None]
            self._places[num_heads] = ((self._slots * num_heads + heads) * self._capacity + self.positions).flatten()
        return self._places[num_heads]


def _neighbours(single: list[tuple[Segment, int]]) -> list[list[tuple[Segment, int]]]:
    """Split answers into groups of nearby slots that read little for nothing."""
    groups: list[list[tuple[Segment, int]]] = []
    longest = total = 0
    for item in sorted(single, key=lambda pair: pair[0].slot):
        segment = item[0]
        if groups:
            group = groups[-1]
            most = max(longest, segment.end)
            span = segment.slot - group[0][0].slot + 1
            if segment.slot - group[-1][0].slot <= _GAP + 1 and most * span - total - segment.end <= _WASTE:
                group.append(item)
                longest, total = most, total + segment.end
                continue
        groups.append([item])
        longest = total = segment.end
    return groups


def _block(group: list[tuple[Segment, int]], device: torch.device) -> _Block:
    first, last = group[0][0].slot, group[-1][0].slot
    count = last - first + 1
    rows = None
    if count != len(group):
        rows = torch.tensor([segment.slot - first for segment, _ in group], device=device)
    lengths = [1] * count
    for segment, _ in group:
        lengths[segment.slot - first] = segment.end
    tokens = torch.tensor([token for _, token in group], device=device)
    return _Block(first, count, max(lengths), tokens, rows, torch.tensor(lengths, device=device))


class SlotCache(Cache):  # type: ignore[misc]
    """States of all layers; `plan` says which tokens the next forward pass brings."""

    def __init__(self, num_slots: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.num_slots, self.capacity = num_slots, capacity
        self.states: dict[int, tuple[Tensor, Tensor]] = {}
        self.settings: dict[int, tuple[int, float]] = {}
        """Window (0: none) and factor of scores that each layer's attention was called with."""
        self.plan: Plan

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the states of a step, `[1, kv_heads, tokens, head_dim]`; gives them back as they are."""
        if layer_idx not in self.states:
            self.states[layer_idx] = (self._empty(key_states), self._empty(value_states))
        for stored, new in zip(self.states[layer_idx], (key_states, value_states), strict=True):
            stored.flatten(0, 2).index_copy_(0, self.plan.places(new.shape[1]), new[0].flatten(0, 1))
        return key_states, value_states

    def _empty(self, like: Tensor) -> Tensor:
        # Zeros: a weight of nought times an uninitialised NaN would be NaN.
        return like.new_zeros(self.num_slots, like.shape[1], self.capacity, like.shape[3])

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give a slot the first states of another."""
        for stored in (tensor for pair in self.states.values() for tensor in pair):
            stored[target, :, :length] = stored[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0, *args: Any, **kwargs: Any) -> int:
        """Nought: positions are given with every step."""
        return 0


def use_slots(model: Any) -> None:
    """Switch a model's attention to slots; it then needs `slots=SlotCache` in every call."""
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(ATTENTION, attend_slots)
    model.set_attn_implementation(ATTENTION)


def attend_slots(  # noqa: PLR0917 (transformers calls it by position)
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    slots: SlotCache | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention of a step's tokens over the states of their slots.

    Args:
        module: the attention layer.
        query: 1 × heads × tokens × head_dim; `key` and `value` likewise, with kv_heads. They are in the slots already.
        key: see `query`.
        value: see `query`.
        attention_mask: unused: the plan of the step says what each token may see.
        scaling: factor of the scores; default 1/√head_dim.
        sliding_window: how many states back, itself included, a token sees; None: all.
        slots: the states.
        others: what the model passes on besides; what changes scores is refused.

    Returns:
        1 × tokens × heads × head_dim, and no weights.
    """
    if unknown := [name for name in _SCORE_CHANGES if others.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    assert slots is not None
    keys, values = slots.states[module.layer_idx]
    window = sliding_window or 0
    slots.settings[module.layer_idx] = window, query.shape[3] ** -0.5 if scaling is None else scaling
    queries = query[0].transpose(0, 1)
    num_tokens, num_heads, num_kv = len(queries), queries.shape[1], keys.shape[1]
    groups = num_heads // num_kv
    if slots.plan.is_one_block:
        return _attend_block(slots.plan.blocks[0], queries, keys, values, window, scaling)[None], None
    result = query.new_empty(num_tokens, num_heads, values.shape[3])
    for block in slots.plan.blocks:
        mine = queries.index_select(0, block.tokens)
        if block.rows is not None:
            mine = mine.new_zeros(block.count, *mine.shape[1:]).index_copy_(0, block.rows, mine)
        found = _attend_block(block, mine, keys, values, window, scaling)
        result.index_copy_(0, block.tokens, found if block.rows is None else found.index_select(0, block.rows))
    for chunk in slots.plan.chunks:
        mine = queries[chunk.first : chunk.first + chunk.length].transpose(0, 1)[None]
        own_keys, own_values = (
            states[None, chunk.slot, :, : chunk.start + chunk.length].repeat_interleave(groups, dim=1)
            for states in (keys, values)
        )
        causal = chunk.start == 0 and not window
        mask = None if causal else chunk.mask(window, query)
        found = scaled_dot_product_attention(
            mine, own_keys, own_values, attn_mask=mask, is_causal=causal, scale=scaling
        )
        result[chunk.first : chunk.first + chunk.length] = found[0].transpose(0, 1)
    return result[None], None


def _attend_block(  # noqa: PLR0917
    block: _Block, queries: Tensor, keys: Tensor, values: Tensor, window: int, scaling: float | None
) -> Tensor:
    """One query, `[count, heads, head_dim]`, for each slot of a block."""
    span, num_kv = slice(block.first, block.first + block.count), keys.shape[1]
    return scaled_dot_product_attention(
        # Heads that share keys sit side by side as if they were several queries.
        queries.reshape(block.count, num_kv, -1, queries.shape[2]),
        keys[span, :, : block.length],
        values[span, :, : block.length],
        attn_mask=block.mask(window, queries.dtype),
        scale=scaling,
    ).flatten(1, 2)
