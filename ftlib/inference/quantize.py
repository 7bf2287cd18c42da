"""Linear layers laid out for inference on a CPU: packed in float32, or in INT8.

INT8: weights by output channel, activations by tensor as they come.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn


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
        self._packed = torch.ops.quantized.linear_prepack(quantised, linear.bias)

    @property
    def weight(self) -> Tensor:
        """What it computes with, as float32."""
        return torch.ops.quantized.linear_unpack(self._packed)[0].dequantize()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]`."""
        # Seven bits of activations: on CPUs without VNNI sums of two products of eight bits would overflow 16.
        return torch.ops.quantized.linear_dynamic(x.float(), self._packed, reduce_range=True).to(x.dtype)  # type: ignore[no-any-return]


class PackedLinear(nn.Module):
    """A float32 linear layer whose weights oneDNN has laid out.

    With 4 tokens it takes .5 of the time of the plain one, with 16 .8, with 144 .85; an output layer of 49,152 rows and
    16 tokens .55. Layers below `SMALLEST` gain nothing.
    """

    SMALLEST = 1 << 19
    """Weights."""

    def __init__(self, linear: nn.Linear, kept: Tensor | None = None) -> None:
        """`kept`: the weights, where they stay beside because an embedding has them too."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias, self._kept = linear.bias, kept
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    @property
    def weight(self) -> Tensor:
        """As they were."""
        return self._kept if self._kept is not None else self._packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]`."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


def pack_linears(model: Any) -> None:
    """Lay out large float32 linear layers anew, on a CPU with oneDNN."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    shared: Any = model.get_input_embeddings().weight
    for owner, name, linear in _linears(model):
        weight = linear.weight
        if weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.numel() >= PackedLinear.SMALLEST:
            setattr(owner, name, PackedLinear(linear, weight if weight is shared else None))


def quantize_linears(model: Any) -> None:
    """Replace all linear layers, the output layer too; embeddings tied to it stay as they are."""
    for owner, name, linear in _linears(model):
        setattr(owner, name, Int8Linear(linear))


def _linears(model: Any) -> list[tuple[nn.Module, str, nn.Linear]]:
    return [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) is nn.Linear
    ]
