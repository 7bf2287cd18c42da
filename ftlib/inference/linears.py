"""Linear layers laid out for inference on a CPU: packed for kernels of ours or oneDNN's, or in INT8; neighbours in one
product.

INT8: weights by output channel, activations by token as they come.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ftlib.inference.native import COLUMNS, LANES, Kernels, PackedProduct, kernels_for
from ftlib.models.load import cpu_has_bfloat16

Siblings = list[tuple[nn.Module, list[str]]]
"""Modules, and names of their linear children that read one and the same input."""


class Int8Linear(nn.Module):
    """A linear layer whose products run in INT8 (PyTorch's `quantized.linear_dynamic`)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            # A deprecation without a successor that is as fast: torch is pinned.
            warnings.simplefilter("ignore", UserWarning)
            quantised = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantised, None)
        # Without VNNI sums of two products of eight bits overflow 16, so activations get seven.
        self._reduce_range = not torch.cpu._is_vnni_supported()

    @property
    def weight(self) -> Tensor:
        """What it computes with, as float32."""
        return torch.ops.quantized.linear_unpack(self._packed)[0].dequantize()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]`."""
        values = x.float()
        if x.numel() == self.in_features:
            y = self._multiply(values)
        else:
            # PyTorch finds one scale for all tokens, and the first token of a text is often a hundred times the others.
            largest = values.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
            y = self._multiply(values / largest).mul_(largest)
        return (y if self.bias is None else y.add_(self.bias)).to(x.dtype)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self._packed, reduce_range=self._reduce_range)  # type: ignore[no-any-return]


class NativeInt8Linear(nn.Module):
    """The same with the kernel of `native`: a token takes half the time, 128 tokens two thirds (SmolLM2-135M)."""

    def __init__(self, linear: nn.Linear, kernels: Kernels) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias, self._kernels = linear.bias, kernels
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        rounded = (weight / scales[:, None]).round()
        gap = -len(weight) % COLUMNS
        self._packed = _in_blocks(rounded.to(torch.int8))
        self._scales, self._shifts = pad(scales, (0, gap)), pad(128 * rounded.sum(1), (0, gap))

    @classmethod
    def fits(cls, linear: nn.Linear, kernels: Kernels) -> bool:
        """Whether the kernel takes such a layer."""
        return kernels.has_int8 and linear.in_features % LANES == 0

    @property
    def weight(self) -> Tensor:
        """What it computes with, as float32."""
        rounded = _out_of_blocks(self._packed, self.out_features).float()
        return rounded * self._scales[: self.out_features, None]

    def packed(self) -> PackedProduct:
        """Where the kernel finds it; valid for as long as the layer lives."""
        scales, shifts = self._scales.data_ptr(), self._shifts.data_ptr()
        return PackedProduct(self.in_features, self.out_features, self._packed.data_ptr(), scales, shifts)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]`."""
        y = self._kernels.int8_linear(x.contiguous(), self._packed, self._scales, self._shifts, self.out_features)
        return y if self.bias is None else y.add_(self.bias)


class NativeLinear(nn.Module):
    """A bfloat16 layer with the kernel of `native`."""

    def __init__(self, linear: nn.Linear, kernels: Kernels, kept: Tensor | None = None) -> None:
        """`kept`: the weights, where they stay beside because an embedding has them too."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias, self._kernels, self._kept = linear.bias, kernels, kept
        self._packed = _in_blocks(linear.weight.detach())

    @classmethod
    def fits(cls, linear: nn.Linear, kernels: Kernels) -> bool:
        """Whether the kernel takes such a layer."""
        return kernels.has_bfloat16 and linear.in_features % LANES == 0

    @property
    def weight(self) -> Tensor:
        """As they were."""
        return self._kept if self._kept is not None else _out_of_blocks(self._packed, self.out_features)

    def packed(self) -> PackedProduct:
        """Where the kernel finds it; valid for as long as the layer lives."""
        return PackedProduct(self.in_features, self.out_features, self._packed.data_ptr(), None, None)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]`."""
        y = self._kernels.bfloat16_linear(x.contiguous(), self._packed, self.out_features)
        return y if self.bias is None else y.add_(self.bias)


def _in_blocks(weight: Tensor) -> Tensor:
    """`[out, in]` → `[blocks, in / n, COLUMNS, n]`, n values to four bytes, as the kernels read it."""
    together = 4 // weight.element_size()
    blocks = pad(weight, (0, 0, 0, -len(weight) % COLUMNS)).view(-1, COLUMNS, weight.shape[1] // together, together)
    return blocks.transpose(1, 2).contiguous()


def _out_of_blocks(packed: Tensor, columns: int) -> Tensor:
    """The `[out, in]` that was packed."""
    return packed.transpose(1, 2).reshape(len(packed) * COLUMNS, -1)[:columns]


class PackedLinear(nn.Module):
    """A linear layer whose weights oneDNN has laid out.

    bfloat16, all layers of SmolLM2-135M: with 16 tokens .6 of the time of plain ones, with 128 .9. float32: with 4
    tokens .5, with 16 .8, with 144 .85; layers of fewer weights than `SMALLEST_FLOAT32` gain nothing.
    """

    SMALLEST_FLOAT32 = 1 << 19

    def __init__(self, linear: nn.Linear, kept: Tensor | None = None) -> None:
        """`kept`: the weights, where they stay beside because an embedding has them too."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias, self._kept = linear.bias, kept
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    @classmethod
    def gains(cls, linear: nn.Linear) -> bool:
        """Whether packing pays."""
        weight = linear.weight
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        if weight.dtype == torch.bfloat16:
            return cpu_has_bfloat16()
        return weight.dtype == torch.float32 and weight.numel() >= cls.SMALLEST_FLOAT32

    @property
    def weight(self) -> Tensor:
        """As they were."""
        return self._kept if self._kept is not None else self._packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]`."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


class SharedProduct:
    """One product for several layers that read the same input: computed for the first of them, kept for the others."""

    def __init__(self, layer: Any, sizes: Sequence[int]) -> None:
        self.layer, self.sizes = layer, list(sizes)
        self._input: Tensor | None = None
        self._outputs: list[Tensor | None] = []

    def part(self, x: Tensor, index: int) -> Tensor:
        """Output of one of the layers, a view that its caller may write to."""
        if x is not self._input or self._outputs[index] is None:
            self._input, self._outputs = x, list(self.layer(x).split(self.sizes, -1))
        output = self._outputs[index]
        self._outputs[index] = None
        if not any(kept is not None for kept in self._outputs):
            self._input = None
        assert output is not None
        return output


class SharedLinear(nn.Module):
    """One of the layers of a SharedProduct."""

    def __init__(self, shared: SharedProduct, index: int) -> None:
        super().__init__()
        self.shared, self.index = shared, index
        self.in_features, self.out_features = shared.layer.in_features, shared.sizes[index]

    @property
    def weight(self) -> Tensor:
        """Its own."""
        return self.shared.layer.weight.split(self.shared.sizes)[self.index]  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor | None:
        """Its own."""
        bias = self.shared.layer.bias
        return None if bias is None else bias.split(self.shared.sizes)[self.index]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]`."""
        return self.shared.part(x, self.index)


@contextmanager
def finding_siblings(model: nn.Module) -> Iterator[Siblings]:
    """Watch forward passes of the block: afterwards the list names the layers that read the same input."""
    found: dict[tuple[int, int], tuple[nn.Module, list[str]]] = {}
    inputs = []  # held, so that no two have one id
    siblings: Siblings = []

    def watch(owner: nn.Module, name: str, linear: nn.Linear) -> Any:
        def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs.append(arguments[0])
            names = found.setdefault((id(owner), id(arguments[0])), (owner, []))[1]
            if name not in names:
                names.append(name)

        return linear.register_forward_pre_hook(note)

    hooks = [watch(*place) for place in _linears(model)]
    try:
        yield siblings
    finally:
        for hook in hooks:
            hook.remove()
    siblings += [group for group in found.values() if len(group[1]) > 1]


def lay_out_linears(model: Any, siblings: Siblings, int8: bool) -> None:
    """Replace linear layers by those for inference on a CPU; embeddings tied to the output layer stay as they are."""
    if not int8 and next(model.parameters()).device.type != "cpu":
        return
    for owner, names in siblings:
        _join(owner, names, int8)
    shared: Any = model.get_input_embeddings().weight
    for owner, name, linear in _linears(model):
        if int8 or PackedLinear.gains(linear):
            setattr(owner, name, _laid_out(linear, int8, linear.weight if linear.weight is shared else None))


def _join(owner: nn.Module, names: Sequence[str], int8: bool) -> None:
    """Give siblings one product, if they have one dtype and either all a bias or none."""
    layers: list[Any] = [owner.get_submodule(name) for name in names]
    if len({(layer.weight.dtype, layer.bias is None) for layer in layers}) > 1:
        return
    sizes = [layer.out_features for layer in layers]
    joined: Any = nn.Linear(layers[0].in_features, sum(sizes), device="meta")
    joined.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
    joined.bias = None
    if layers[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=False)
    if not int8 and not PackedLinear.gains(joined):
        return
    shared = SharedProduct(_laid_out(joined, int8), sizes)
    for index, name in enumerate(names):
        setattr(owner, name, SharedLinear(shared, index))


def _laid_out(linear: nn.Linear, int8: bool, kept: Tensor | None = None) -> nn.Module:
    """The layer for inference; `kept` as the classes have it."""
    kernels = kernels_for(linear.weight.dtype)
    if int8:
        if kernels is not None and NativeInt8Linear.fits(linear, kernels):
            return NativeInt8Linear(linear, kernels)
        return Int8Linear(linear)
    if kernels is not None and NativeLinear.fits(linear, kernels):
        return NativeLinear(linear, kernels, kept)
    return PackedLinear(linear, kept)


def _linears(model: Any) -> list[tuple[nn.Module, str, nn.Linear]]:
    return [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]
