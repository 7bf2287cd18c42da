"""Root-mean-square norms in one call each."""

from typing import Any

import torch
from torch import Tensor, nn

_PROBE_ROWS = 64


@torch.inference_mode()
def fuse_norms(model: nn.Module) -> int:
    """Replace a model's own norms by PyTorch's where those give the same; returns how many were replaced.

    transformers computes a norm in eight calls, PyTorch in one that takes half the time (16 tokens of 576, CPU). In
    float32 the same means the same bits. In less precision transformers rounds before it multiplies by the weight and
    PyTorch after: there it may differ by two units in the last place.
    """
    count = 0
    for owner in list(model.modules()):
        for name, norm in list(owner.named_children()):
            fused = _fused(norm)
            if fused is not None and _same(norm, fused):
                setattr(owner, name, fused)
                count += 1
    return count


def _fused(norm: Any) -> nn.RMSNorm | None:
    """PyTorch's norm with the same weight, if it looks like one."""
    weight = getattr(norm, "weight", None)
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not type(norm).__name__.endswith("RMSNorm") or isinstance(norm, nn.RMSNorm):
        return None
    if not isinstance(weight, Tensor) or weight.dim() != 1 or not isinstance(epsilon, float):
        return None
    fused = nn.RMSNorm(len(weight), eps=epsilon, device="meta")
    fused.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return fused


def _same(norm: nn.Module, fused: nn.RMSNorm) -> bool:
    weight = fused.weight
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-3, 3, _PROBE_ROWS)[:, None]
    probe = (torch.randn(_PROBE_ROWS, len(weight), generator=generator) * scales).to(weight)
    tolerance = 0.0 if weight.dtype == torch.float32 else 2 * torch.finfo(weight.dtype).eps
    return torch.allclose(norm(probe), fused(probe), rtol=tolerance, atol=0)
