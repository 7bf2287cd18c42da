"""Many LoRA adapters on one base, computed side by side in one batch.

Every adapted product keeps the matrices of all adapters stacked, `[adapters, rank, in]` and `[adapters, rank, out]`,
lower ranks filled up with zeros, and adds each token's own product (as Punica does, Chen et al., 2023). Tokens of a
step come sorted by adapter. On a CPU a kernel of `native` goes through them; elsewhere an adapter's many tokens are a
slice, and several adapters with few tokens each are one batched product. Index 0 is no adapter and costs nothing. Where
layers share a product (`linears`), their matrices lie side by side, A above A and B block by block, so that theirs is
one product too.

LoRA, rsLoRA, rank and alpha patterns, DoRA and trained token rows are held; other kinds are refused and can be merged
into the base.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ftlib.core.errors import UserError
from ftlib.core.storage import read_json
from ftlib.inference.linears import SharedLinear
from ftlib.inference.native import LANES, AdapterSizes, Kernels, kernels_for
from ftlib.models.adapt import ADAPTER_CONFIG, ADAPTER_WEIGHTS

_PREFIX = "base_model.model."
_TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"
_FEW = 8  # tokens of one adapter: below, several adapters are one batched product


@dataclass(slots=True)
class AdapterWeights:
    """An adapter read from disk, ready for the bank: by module, in the base's dtype, B scaled."""

    name: str
    a: dict[str, Tensor]
    b: dict[str, Tensor]
    magnitudes: dict[str, Tensor]
    """DoRA's norms of the adapted weights' rows."""

    token_ids: Tensor | None = None
    token_rows: dict[str, Tensor] = field(default_factory=dict)
    """Trained rows of the embeddings, and of the output layer where it has its own."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `first` to `last` of a step belong to the adapter at `index` of the bank."""

    index: int
    first: int
    last: int


class StepPlan:
    """How the adapters of a step are computed, the same in every layer."""

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        self.layout = np.array([(span.index, span.first, span.last) for span in spans], np.int64)
        """int64[spans, 3]."""
        few = [span for span in spans if span.last - span.first <= _FEW]
        together = len(few) > 1 and few[-1].index - few[0].index < 2 * len(few)
        self.alone = [span for span in spans if not together or span.last - span.first > _FEW]
        self.few = few if together else []
        if not self.few:
            return
        self.first, self.count = few[0].index, few[-1].index - few[0].index + 1
        self.width = max(span.last - span.first for span in few)
        tokens = [token for span in few for token in range(span.first, span.last)]
        rows = [(span.index - self.first) * self.width + at for span in few for at in range(span.last - span.first)]
        self.start = few[0].first
        self.is_dense = tokens == list(range(self.start, self.start + len(tokens)))
        """Whether no other tokens lie between them."""
        self.is_even = self.is_dense and rows == list(range(self.count * self.width))
        """Whether they lie as the product needs them, so that nothing is gathered."""
        self.tokens = torch.tensor(tokens, device=device)
        self.rows = torch.tensor(rows, device=device)
        gathered = torch.zeros(self.count * self.width, dtype=torch.long)
        gathered[rows] = torch.tensor(tokens)
        self.gathered = gathered.to(device)
        """The token of each row of the product; rows that nobody needs take the first."""


def read_adapter(name: str, path: Path, dtype: torch.dtype, device: torch.device) -> AdapterWeights:
    """Read a PEFT adapter; touches no model, so it may run beside one.

    Raises UserError for a kind that the bank cannot hold.
    """
    from safetensors.torch import load_file

    config = read_json(str(path / ADAPTER_CONFIG))
    _check_kind(name, config)
    weights = AdapterWeights(name, {}, {}, {})
    for key, tensor in load_file(str(path / ADAPTER_WEIGHTS)).items():
        module, _, part = key.removeprefix(_PREFIX).partition(".lora_")
        if module.endswith(_TOKEN_ROWS):
            weights.token_rows[module.removesuffix(_TOKEN_ROWS)] = tensor.to(device, dtype)
        elif part == "A.weight":
            weights.a[module] = tensor.to(device, dtype)
        elif part == "B.weight":
            weights.b[module] = (tensor.float() * _scaling(config, module)).to(device, dtype)
        elif part.startswith("magnitude_vector"):
            weights.magnitudes[module] = tensor.to(device).float()
        else:
            raise UserError(f"adapter {name}: the engine does not know its weight {key}; {_MERGE}")
    if weights.token_rows:
        ids = config["trainable_token_indices"]
        weights.token_ids = torch.tensor(ids if isinstance(ids, list) else next(iter(ids.values())), device=device)
    return weights


_MERGE = "export it merged (export.merged) and serve that as a model"


def _check_kind(name: str, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UserError(f"adapter {name}: the engine holds LoRA, not {config.get('peft_type')}; {_MERGE}")
    for setting in ("modules_to_save", "target_parameters", "alora_invocation_tokens", "layer_replication"):
        if config.get(setting):
            raise UserError(f"adapter {name}: the engine cannot hold an adapter with {setting}; {_MERGE}")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise UserError(f"adapter {name}: the engine cannot hold an adapter with trained biases; {_MERGE}")


def _scaling(config: dict[str, Any], module: str) -> float:
    rank = _of_pattern(config.get("rank_pattern"), module, config["r"])
    alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _of_pattern(patterns: dict[str, float] | None, module: str, default: float) -> float:
    """As PEFT reads them: the first pattern that matches a whole end of the module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


class LoraBank:
    """The adapters of one model. `put` and `remove` between two steps, but for a `put` that `has_room`."""

    def __init__(self, model: nn.Module, capacity: int) -> None:
        """Take a base model; layers are wrapped as adapters for them come.

        Args:
            model: the base, in the dtype of inference.
            capacity: adapters at first; the bank grows beyond.
        """
        self._model = model
        self.capacity = capacity + 1
        self.like: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
        """A tensor of the dtype and on the device of inference."""
        self.kernels: Kernels | None = kernels_for(self.like.dtype) if self.like.device.type == "cpu" else None
        self.spans: Sequence[Span] = ()
        self.plan: StepPlan | None = None
        self._layers: dict[str, tuple[BankedLinear, int]] = {}
        self._banked: list[BankedLinear] = []
        self._free = list(range(capacity, 0, -1))
        self._indices: dict[str, int] = {}
        self.token_rows = TokenRows(model, self)

    def __contains__(self, name: str) -> bool:
        return name in self._indices

    def prepare(self, spans: Sequence[Span]) -> None:
        """Take the adapters of the step to come, in order, tokens without one left out."""
        self.spans = spans
        self.plan = StepPlan(spans, self.like.device) if spans else None

    def index(self, name: str | None) -> int:
        """Where an adapter is; 0 for None. Raises KeyError."""
        return 0 if name is None else self._indices[name]

    def has_room(self, weights: AdapterWeights) -> bool:
        """Whether `put` only fills what is there: a free place, in layers that are wrapped and ranks that suffice."""
        return (
            bool(self._free)
            and weights.token_ids is None
            and all(
                module in self._layers and self._layers[module][0].rank >= len(a) for module, a in weights.a.items()
            )
        )

    def put(self, weights: AdapterWeights) -> int:
        """Add an adapter; returns its index. Raises UserError when it does not fit the base."""
        self._check(weights)
        if not self._free:
            self._grow()
        index = self._free.pop()
        for module, a in weights.a.items():
            layer, part = self._layer(module)
            layer.put(index, part, a, weights.b[module], weights.magnitudes.get(module))
        if weights.token_ids is not None:
            self.token_rows.put(index, weights)
        self._indices[weights.name] = index
        return index

    def remove(self, name: str) -> None:
        """Forget an adapter; unknown names are ignored."""
        index = self._indices.pop(name, None)
        if index is not None:
            for layer in self._banked:
                layer.clear(index)
            self.token_rows.remove(index)
            self._free.append(index)

    def _check(self, weights: AdapterWeights) -> None:
        head = self._model.get_output_embeddings()  # type: ignore[operator]
        for module, a in weights.a.items():
            try:
                target = self._model.get_submodule(module)
            except AttributeError:
                raise UserError(f"adapter {weights.name}: the base has no module {module}") from None
            linear = target.base if isinstance(target, BankedLinear) else target
            if not hasattr(linear, "in_features") or linear is head:
                raise UserError(
                    f"adapter {weights.name}: {module} is not a linear layer inside the model, and the engine adapts "
                    f"no other; {_MERGE}"
                )
            b = weights.b.get(module)
            if b is None or (a.shape[1], b.shape[0]) != (linear.in_features, linear.out_features):
                raise UserError(
                    f"adapter {weights.name}: an adapter of another base: {module} takes {linear.in_features} values "
                    f"and gives {linear.out_features}, the adapter's differ"
                )

    def _layer(self, module: str) -> tuple["BankedLinear", int]:
        """The wrapped product that a module is part of, and which part."""
        if module not in self._layers:
            parent, _, child = module.rpartition(".")
            owner = self._model.get_submodule(parent)
            linear: Any = getattr(owner, child)
            if isinstance(linear, SharedLinear):
                if not isinstance(linear.shared.layer, BankedLinear):
                    linear.shared.layer = self._wrapped(linear.shared.layer, linear.shared.sizes)
                self._layers[module] = linear.shared.layer, linear.index
            else:
                self._layers[module] = self._wrapped(linear, [linear.out_features]), 0
                setattr(owner, child, self._layers[module][0])
        return self._layers[module]

    def _wrapped(self, linear: Any, sizes: Sequence[int]) -> "BankedLinear":
        self._banked.append(BankedLinear(linear, self, sizes))
        return self._banked[-1]

    def _grow(self) -> None:
        self._free = list(range(2 * self.capacity - 1, self.capacity - 1, -1))
        self.capacity *= 2
        for layer in self._banked:
            layer.resize(self.capacity, layer.rank)


class BankedLinear(nn.Module):
    """A linear layer, or several in one product, with the bank's products on top."""

    def __init__(self, base: Any, bank: LoraBank, sizes: Sequence[int]) -> None:
        """`sizes`: outputs of each layer."""
        super().__init__()
        self.base = base
        ends = [sum(sizes[: part + 1]) for part in range(len(sizes))]
        self._rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.rank = 0
        """Highest of a layer that there is room for."""
        self._bank = (bank,)  # hidden from nn.Module: the bank holds the model
        like = bank.like
        self.in_features, self.out_features = base.in_features, base.out_features
        self.a = like.new_zeros(bank.capacity, 0, self.in_features)
        self.b = like.new_zeros(bank.capacity, 0, self.out_features)
        self._ends = np.array(ends, np.int64)
        self._fits_kernel = bank.kernels is not None and all(size % LANES == 0 for size in (self.in_features, *ends))
        self._kernel_sizes: AdapterSizes
        self._gains: dict[int, Tensor] = {}
        self._has: set[int] = set()

    def resize(self, capacity: int, rank: int) -> None:
        """Make room; what is held stays."""
        a, b, held = self.a, self.b, self.rank
        self.a = a.new_zeros(capacity, len(self._rows) * rank, self.in_features)
        self.b = b.new_zeros(capacity, len(self._rows) * rank, self.out_features)
        for part in range(len(self._rows)):
            for new, old in ((self.a, a), (self.b, b)):
                new[: len(old), part * rank : part * rank + held] = old[:, part * held : (part + 1) * held]
        self.rank = rank
        self._kernel_sizes = AdapterSizes(
            self.in_features, self.out_features, len(self._rows) * rank, len(self._rows), self._ends.ctypes.data
        )

    def put(self, index: int, part: int, a: Tensor, b: Tensor, magnitude: Tensor | None) -> None:
        """Hold an adapter's matrices of one of the layers: A `[rank, in]` and B `[out, rank]`, scaled."""
        if len(a) > self.rank:
            self.resize(len(self.a), len(a))
        rows, columns = self._rows[part], slice(part * self.rank, part * self.rank + len(a))
        self.a[index, columns] = a
        self.b[index, columns, rows] = b.T
        self._has.add(index)
        if magnitude is not None:
            norms = torch.linalg.norm(self.base.weight[rows].float() + b.float() @ a.float(), dim=1)
            gains = self._gains.setdefault(index, b.new_ones(self.out_features))
            gains[rows] = (magnitude / norms).to(b.dtype)

    def clear(self, index: int) -> None:
        """Forget an adapter."""
        self.a[index].zero_()
        self.b[index].zero_()
        self._gains.pop(index, None)
        self._has.discard(index)

    @property
    def weight(self) -> Tensor:
        """The base's."""
        return self.base.weight  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return getattr(self.base, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """`[1, tokens, in]` → `[1, tokens, out]`."""
        y = self.base(x)
        plan = self._bank[0].plan
        if plan is not None:
            self._add(x[0], y[0], plan)
        return y  # type: ignore[no-any-return]

    def _add(self, x: Tensor, y: Tensor, plan: StepPlan) -> None:
        kernels = self._bank[0].kernels
        if kernels is not None and self._fits_kernel and not self._gains:
            kernels.add_adapters(self._kernel_sizes, plan.layout, x.contiguous(), self.a, self.b, y)
            return
        alone = plan.alone
        if plan.few and any(span.index in self._gains for span in plan.few):
            alone = [*alone, *plan.few]
        elif plan.few:
            self._add_few(x, y, plan)
        for span in alone:
            if span.index in self._has:
                self._add_one(x[span.first : span.last], y[span.first : span.last], span.index)

    def _add_few(self, x: Tensor, y: Tensor, plan: StepPlan) -> None:
        held = slice(plan.first, plan.first + plan.count)
        a, b = self.a[held].transpose(1, 2), self.b[held]
        if plan.is_even:
            taken = x[plan.start : plan.start + plan.count * plan.width].view(plan.count, plan.width, -1)
            given = y[plan.start : plan.start + plan.count * plan.width].view(plan.count, plan.width, -1)
            given.baddbmm_(torch.bmm(taken, a), b)
            return
        taken = x.index_select(0, plan.gathered).view(plan.count, plan.width, -1)
        added = torch.bmm(torch.bmm(taken, a), b).flatten(0, 1).index_select(0, plan.rows)
        if plan.is_dense:  # index_add_ takes ten times as long
            y[plan.start : plan.start + len(added)] += added
        else:
            y.index_add_(0, plan.tokens, added)

    def _add_one(self, x: Tensor, y: Tensor, index: int) -> None:
        gain = self._gains.get(index)
        bias = self.bias if gain is not None else None
        if bias is not None:
            y -= bias
        y.addmm_(x @ self.a[index].T, self.b[index])
        if gain is not None:
            y *= gain
        if bias is not None:
            y += bias


class TokenRows:
    """Rows of the vocabulary that adapters trained or added: other requests neither read nor answer with them."""

    def __init__(self, model: Any, bank: LoraBank) -> None:
        self._model, self._bank = model, (bank,)
        self._embeddings, self._head = model.get_input_embeddings(), model.get_output_embeddings()
        self._num_base = int(self._embeddings.weight.shape[0])
        self._held: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._hooks: list[Any] = []
        self.ids: Tensor
        """Of the step's tokens, int64[tokens]."""
        self.kept: Sequence[int] = ()
        """Bank index of each row that the output layer gets."""

    def put(self, index: int, weights: AdapterWeights) -> None:
        """Hold an adapter's rows."""
        assert weights.token_ids is not None
        names = dict(self._model.named_modules())
        read = write = None
        for name, rows in weights.token_rows.items():
            if names.get(name) is self._head:
                write = rows
            else:
                read = rows
        if read is None:
            read = self._embeddings.weight[weights.token_ids]
        # By the configuration: a layer laid out for inference may have its weights in another form.
        tied = self._head is not None and self._model.config.get_text_config().tie_word_embeddings
        if write is None:
            write = read if tied else torch.zeros_like(read)
        self._held[index] = (weights.token_ids, read, write)
        if not self._hooks:
            self._hooks = [
                self._embeddings.register_forward_pre_hook(self._known_ids),
                self._embeddings.register_forward_hook(self._read),
                self._head.register_forward_hook(self._write),
            ]

    def remove(self, index: int) -> None:
        """Forget an adapter's rows."""
        self._held.pop(index, None)
        if not self._held:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def _known_ids(self, module: Any, arguments: tuple[Tensor]) -> tuple[Tensor]:
        return (arguments[0].clamp(max=self._num_base - 1),)

    def _read(self, module: Any, arguments: Any, states: Tensor) -> Tensor:
        for span in self._bank[0].spans:
            if span.index in self._held:
                ids, rows, _ = self._held[span.index]
                mine = self.ids[span.first : span.last]
                at, row = (mine[:, None] == ids).nonzero(as_tuple=True)
                states[0, span.first + at] = rows[row]
        return states

    def _write(self, module: Any, arguments: tuple[Tensor], logits: Tensor) -> Tensor:
        most = max(int(ids.max()) for ids, _, _ in self._held.values()) + 1
        if most > logits.shape[-1]:
            logits = torch.nn.functional.pad(logits, (0, most - logits.shape[-1]), value=-torch.inf)
        hidden = arguments[0]
        for row, index in enumerate(self.kept):
            if index in self._held:
                ids, _, rows = self._held[index]
                logits[0, row, ids] = hidden[0, row] @ rows.T
        return logits
