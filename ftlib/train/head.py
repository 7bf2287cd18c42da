"""The loss inside the output layer, so that the logits of a batch never exist at once.

Logits are what fills memory: 2,048 positions of a vocabulary of 49,152 are 400 MB in float32, and a plain loss keeps
three such arrays. Here the output layer itself takes the targets: it makes the logits of a few positions, their loss
and their gradient with respect to its input, and forgets them. The idea is that of fused linear cross-entropy (Hsu et
al. 2024, "Liger Kernel"), in plain PyTorch. For a frozen layer the backward pass costs no matrix product: what follows
weighs the loss of token t by one number, so its gradient is a row that was computed forward, times that number.

The layer's `forward` is replaced on the instance, so hooks (DeepSpeed ZeRO-3 gathers weights there), wrappers (PEFT,
DDP) and names of parameters stay as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

CHUNK_BYTES = 32 << 20
"""Of float32 logits made at once on a CPU, whose caches small pieces suit."""
GPU_CHUNK_BYTES = 512 << 20
"""On a GPU: about a thousand rows of the largest vocabularies, since matrix products of fewer leave most of it idle."""
_MIN_CHUNK = 16
_GPU_TILE = 128
# Options by which models change the logits after the output layer: for them the loss stays outside.
_CHANGES_LOGITS = (
    "final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Targets:
    """What the K positions that pass through the output layer should predict."""

    ids: torch.Tensor
    """int64[B, K]."""
    weights: torch.Tensor | None
    """float32[B, K] for the weighted sum of all losses; None for the loss of each token."""
    smoothing: float = 0.0
    """Share of the target that is spread evenly over the vocabulary (label smoothing)."""


class LossHead:
    """A model's output layer that can answer with the loss instead of logits."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self._layer = layer
        self._plain = layer.forward
        self._targets: Targets | None = None
        layer.forward = self._forward  # type: ignore[method-assign, assignment]

    @contextmanager
    def expecting(self, targets: Targets) -> Iterator[None]:
        """Within, the model's `logits` are the weighted sum (a scalar) or float32[B, K] losses of the targets."""
        self._targets = targets
        try:
            yield
        finally:
            self._targets = None

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._targets is None:
            return self._plain(hidden)
        targets, rows = self._targets, hidden.flatten(0, -2)
        weights = None if targets.weights is None else targets.weights.flatten()
        losses: torch.Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
            rows, self._layer.weight, targets.ids.flatten(), weights, targets.smoothing
        )
        return losses if weights is not None else losses.view(targets.ids.shape)


def find_loss_head(model: Any) -> LossHead | None:
    """Put the loss into a causal model's output layer; None where it is no plain linear layer or not the last word."""
    layer: Any = model.get_output_embeddings()
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    changed = any(getattr(config, name, None) not in {None, 1} for name in _CHANGES_LOGITS)
    plain = type(layer) is torch.nn.Linear and layer.bias is None
    return LossHead(layer) if plain and not changed else None


def plain_loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """The same from logits B × K × V."""
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.ids.flatten(), reduction="none", label_smoothing=targets.smoothing
    )
    return losses.view(targets.ids.shape) if targets.weights is None else (losses * targets.weights.flatten()).sum()


class _ChunkedLoss(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T`, n rows; with `weights` their weighted sum, else n losses."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        smoothing: float,
    ) -> torch.Tensor:
        learns_hidden, learns_weight = ctx.needs_input_grad[:2]
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if learns_hidden else None
        # The gradient of the layer itself needs the losses' weights: known for a sum, else only in the backward pass.
        now = learns_weight and weights is not None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if now else None
        lowered = weight.to(hidden.dtype)
        for rows in _chunks(len(hidden), weight):
            chunk = _Chunk(hidden[rows], lowered, targets[rows], smoothing)
            losses[rows] = chunk.losses
            if grad_hidden is not None:
                grad_hidden[rows] = chunk.hidden_gradient()
            if grad_weight is not None and weights is not None:
                chunk.add_weight_gradient(grad_weight, weights[rows])
            del chunk  # before the next is made
        if weights is not None and grad_hidden is not None:
            grad_hidden *= weights[:, None].to(grad_hidden.dtype)
        ctx.summed, ctx.smoothing = weights is not None, smoothing
        ctx.later = learns_weight and weights is None
        ctx.save_for_backward(grad_hidden, grad_weight, *((hidden, weight, targets) if ctx.later else ()))
        return losses if weights is None else torch.dot(losses, weights)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """`outer`: a scalar for the sum, else float32[n]."""
        grad_hidden, grad_weight, *saved = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden * (outer if ctx.summed else outer[:, None]).to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight * outer
        if ctx.later:
            hidden, weight, targets = saved
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
            lowered = weight.to(hidden.dtype)
            for rows in _chunks(len(hidden), weight):
                chunk = _Chunk(hidden[rows], lowered, targets[rows], ctx.smoothing)
                chunk.add_weight_gradient(grad_weight, outer[rows])
                del chunk
        return grad_hidden, grad_weight, None, None, None


class _Chunk:
    """A few rows: their losses, and gradients from the exponentials that the losses needed."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float) -> None:
        self._hidden, self._targets, self._smoothing = hidden, targets, smoothing
        self._weight = weight
        logits = functional.linear(hidden, weight).float()
        picked = logits.gather(1, targets[:, None])[:, 0]
        mean = logits.mean(1) if smoothing else picked
        highest = logits.amax(1, keepdim=True)
        self._exp = logits.sub_(highest).exp_()
        self._sum = self._exp.sum(1, keepdim=True)
        log_sum = (self._sum.log() + highest)[:, 0]
        self.losses = log_sum - (1 - smoothing) * picked - smoothing * mean

    def hidden_gradient(self) -> torch.Tensor:
        """Of each row's loss with respect to its input: softmax less target, times the layer."""
        dtype = self._weight.dtype
        result = (self._exp.to(dtype) @ self._weight).float() / self._sum
        result -= (1 - self._smoothing) * self._weight[self._targets]
        if self._smoothing:
            result -= self._smoothing * self._weight.float().mean(0)
        return result.to(self._hidden.dtype)

    def add_weight_gradient(self, total: torch.Tensor, weights: torch.Tensor) -> None:
        """Add the gradient of Σ weight × loss with respect to the layer, V × H."""
        hidden = self._hidden
        scaled = self._exp * (weights[:, None] / self._sum)
        if self._smoothing:
            scaled -= self._smoothing / scaled.shape[1] * weights[:, None]
        total += scaled.to(hidden.dtype).T @ hidden
        total.index_add_(0, self._targets, hidden.float() * weights[:, None], alpha=self._smoothing - 1)


def _chunks(num_rows: int, weight: torch.Tensor) -> Iterator[slice]:
    on_gpu = weight.device.type == "cuda"
    size = max(_MIN_CHUNK, (GPU_CHUNK_BYTES if on_gpu else CHUNK_BYTES) // (4 * weight.shape[0]))
    if on_gpu:
        size = -(-size // _GPU_TILE) * _GPU_TILE  # whole tiles of the matrix units
    return (slice(first, first + size) for first in range(0, num_rows, size))
