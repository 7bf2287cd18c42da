"""Rows of a batch and their key/value cache: the one structure behind batch generation, scoring and serving.

`Rows` holds R sequences over C columns. A column is a token position in time; `mask[r, c]` says whether row r has a
token there, so rows of different lengths sit side by side with gaps anywhere. Attention sees only masked-in columns and
rotary positions count a row's own tokens, so gaps change nothing but the order of floating-point sums.

Key/value buffers are allocated ahead and written in place: `transformers`' DynamicCache concatenates, which copies the
whole cache at every step (16 rows × 400 tokens of SmolLM2-135M in fp32: 300 MB a step).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_GROWTH = 64  # columns allocated beyond need


class RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, `[rows, kv_heads, capacity, head_dim]`, of which `length` columns are filled."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make empty buffers of the states' shape."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((*key_states.shape[:2], 0, key_states.shape[3]))
        self.values = value_states.new_empty((*value_states.shape[:2], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new columns; returns views of all filled ones."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self.reserve(end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reserve(self, columns: int) -> None:
        """Make room for `columns` columns in all."""
        if columns > self.keys.shape[2]:
            self.keys = _grown(self.keys, self.length, columns + _GROWTH)
            self.values = _grown(self.values, self.length, columns + _GROWTH)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a query of this length attends over, and their offset."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Filled columns."""
        return self.length

    def get_max_length(self) -> int:
        """No limit."""
        return -1


def _grown(buffer: Tensor, filled: int, capacity: int) -> Tensor:
    larger = buffer.new_empty((*buffer.shape[:2], capacity, buffer.shape[3]))
    larger[:, :, :filled] = buffer[:, :, :filled]
    return larger


class Rows:
    """R sequences in one cache. All operations are in place unless said otherwise."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.cache = Cache(layer_class_to_replicate=RowLayer)
        self.mask = torch.zeros((num_rows, 0), dtype=torch.bool, device=device)

    @property
    def num_rows(self) -> int:
        """R."""
        return int(self.mask.shape[0])

    @property
    def num_columns(self) -> int:
        """C."""
        return int(self.mask.shape[1])

    @property
    def num_tokens(self) -> int:
        """Tokens in the cache, gaps not counted."""
        return int(self.mask.sum())

    def forward(self, model: Any, ids: Tensor, valid: Tensor | None = None, keep: int = 1) -> Tensor:
        """Append tokens and run the model over them.

        Args:
            model: a causal language model of transformers, or a PeftModel.
            ids: `[R, Q]` token ids; any id where `valid` is False.
            valid: `[R, Q]` bool; default: all.
            keep: logits of the last `keep` columns are computed.

        Returns:
            Logits `[R, keep, vocabulary]`.
        """
        valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
        used = self.mask.sum(1, keepdim=True)
        positions = (used + valid.cumsum(1) - 1).clamp(min=0)
        mask = torch.cat([self.mask, valid], 1)
        # Without a gap the model may take its causal fast path.
        attention = None if bool(mask.all()) else mask.long()
        output = model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self.mask = mask
        logits: Tensor = output.logits
        return logits

    def rollback(self, num_columns: int, also: Tensor | None = None) -> None:
        """Forget all columns after the first `num_columns`, but for the next `also[r]` of row r."""
        if also is not None and int(also.max()) > 0:
            start, num_columns = num_columns, num_columns + int(also.max())
            kept = torch.arange(num_columns - start, device=self.mask.device) < also[:, None]
            self.mask = torch.cat([self.mask[:, :start], self.mask[:, start:num_columns] & kept], 1)
        self.mask = self.mask[:, :num_columns]
        for layer in self.cache.layers:
            layer.length = min(layer.length, num_columns)

    def expanded(self, num_rows: int, columns: int) -> "Rows":
        """A new batch of `num_rows` copies of the only row, its first `columns` columns; nothing is shared."""
        copy = Rows(num_rows, self.mask.device)
        copy.mask = self.mask[:, :columns].expand(num_rows, -1).clone()
        copy._take(self, lambda states: states[:, :, :columns].expand(num_rows, -1, -1, -1))
        return copy

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the columns in which none of the kept ones has a token."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.mask.device)
        mask = self.mask[index]
        columns = mask.any(0).nonzero().squeeze(1)
        self.mask = mask[:, columns]
        whole = len(columns) == mask.shape[1]

        def select(states: Tensor) -> Tensor:
            kept = states.index_select(0, index)
            return kept if whole else kept.index_select(2, columns)

        self._take(self, select)

    def join(self, other: "Rows") -> None:
        """Append the rows of another batch; the shorter one gets a gap on the left."""
        columns = max(self.num_columns, other.num_columns)
        gaps = [columns - rows.num_columns for rows in (self, other)]
        masks = [torch.nn.functional.pad(rows.mask, (gap, 0)) for rows, gap in zip((self, other), gaps, strict=True)]
        self.mask = torch.cat(masks)
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            for name in ("keys", "values"):
                parts = [getattr(layer, name)[:, :, : layer.length] for layer in (mine, theirs)]
                padded = [torch.nn.functional.pad(part, (0, 0, gap, 0)) for part, gap in zip(parts, gaps, strict=True)]
                setattr(mine, name, torch.cat(padded))
            mine.length = columns

    def _take(self, source: "Rows", change: Any) -> None:
        """Fill the cache with changed states of another; leaves room for the steps to come."""
        layers = []
        for old in source.cache.layers:
            layer = RowLayer()
            keys, values = change(old.keys[:, :, : old.length]), change(old.values[:, :, : old.length])
            layer.lazy_initialization(keys, values)
            layer.update(keys, values)
            layers.append(layer)
        self.cache = Cache(layers=layers) if layers else Cache(layer_class_to_replicate=RowLayer)


def left_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids `[R, longest]` with gaps on the left, and where they are valid."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.zeros((len(sequences), longest), dtype=torch.long)
    valid = torch.zeros((len(sequences), longest), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, longest - len(sequence) :] = torch.tensor(list(sequence), dtype=torch.long)
        valid[row, longest - len(sequence) :] = True
    return ids.to(device), valid.to(device)


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix."""
    first, last = min(map(list, sequences)), max(map(list, sequences))  # lexicographic extremes bound all others
    for index, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return index
    return min(len(first), len(last))
