"""What a run minimises: the likelihood of answers, or preferences between them (DPO, KTO).

An objective turns a micro-batch into a sum of losses over its samples; the loop divides by the weight of the whole
global batch. Preferences compare the model with the reference that it starts from: its log-likelihoods of all samples
are computed once before the first step and kept in the run's folder, so no second model stays in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ftlib.train.batches import Forward, MicroBatch

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ObjectiveSettings:
    """The objective of a run."""

    kind: str = "sft"
    """`sft`, `dpo` or `kto`."""
    label_smoothing: float = 0.0
    """`sft`: share of each target spread over the vocabulary. `dpo`: share of pairs taken to be the wrong way round."""
    beta: float = 0.1
    """How strongly preferences hold the model to its reference."""
    desirable_weight: float = 1.0
    """`kto`: weight of answers that are desirable."""
    undesirable_weight: float = 1.0
    """`kto`: weight of answers that are not."""

    @property
    def compares(self) -> bool:
        """Whether it needs the reference's log-likelihoods."""
        return self.kind != "sft"


@dataclass(frozen=True)
class Preferences:
    """What is known beforehand of the n samples of a micro-batch of preferences."""

    reference: torch.Tensor
    """float32[n, 2]: the reference's log-likelihoods of each sample's two sequences."""
    weights: torch.Tensor
    """float32[n]."""
    desirable: torch.Tensor
    """bool[n]: of KTO, whether the answer is desirable."""


def dpo_losses(policy: torch.Tensor, reference: torch.Tensor, beta: float, smoothing: float = 0.0) -> torch.Tensor:
    """Direct preference optimisation (Rafailov et al. 2023; smoothing after Mitchell 2023).

    Args:
        policy: float32[n, 2], log-likelihoods of the chosen and the rejected answer under the model.
        reference: the same under the reference.
        beta: strength of the tie to the reference.
        smoothing: share of pairs that are taken to be labelled the wrong way round.

    Returns:
        float32[n].
    """
    ratios = policy - reference
    margin = beta * (ratios[:, 0] - ratios[:, 1])
    return -(1 - smoothing) * functional.logsigmoid(margin) - smoothing * functional.logsigmoid(-margin)


def kto_losses(
    policy: torch.Tensor,
    reference: torch.Tensor,
    desirable: torch.Tensor,
    divergence: float,
    settings: ObjectiveSettings,
) -> torch.Tensor:
    """Kahneman–Tversky optimisation (Ethayarajh et al. 2024).

    Args:
        policy: float32[n], log-likelihoods of the answers under the model.
        reference: the same under the reference.
        desirable: bool[n].
        divergence: estimate of KL(model ‖ reference), at least 0; no gradient.
        settings: beta and the two weights.

    Returns:
        float32[n].
    """
    margin = settings.beta * (policy - reference - divergence)
    gains = torch.sigmoid(torch.where(desirable, margin, -margin))
    factors = torch.where(desirable, settings.desirable_weight, settings.undesirable_weight)
    return factors * (1 - gains)


def batch_loss(
    forward: Forward, batch: MicroBatch, known: Preferences | None, settings: ObjectiveSettings, divergence: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the losses of a micro-batch, and (of preferences) the sums of `METRICS`, float32[2].

    The micro-batch holds chosen and rejected answers by turns for DPO, answers alone for KTO.
    """
    if known is None:
        return forward.loss(batch, settings.label_smoothing), torch.zeros(len(METRICS), device=batch.weights.device)
    num_samples = len(known.weights)
    if settings.kind == "dpo":
        policy = forward.log_likelihoods(batch, 2 * num_samples).view(num_samples, 2)
        losses = dpo_losses(policy, known.reference, settings.beta, settings.label_smoothing)
        ratios = (policy - known.reference).detach()
        margin = settings.beta * (ratios[:, 0] - ratios[:, 1])
    else:
        answers = forward.log_likelihoods(batch, num_samples)
        losses = kto_losses(answers, known.reference[:, 0], known.desirable, divergence, settings)
        ratios = (answers - known.reference[:, 0]).detach()
        margin = settings.beta * torch.where(known.desirable, ratios, -ratios)
    sums = torch.stack([((margin > 0) * known.weights).sum(), (margin * known.weights).sum()])
    return (losses * known.weights).sum(), sums


METRICS = ("reward_accuracy", "reward_margin")
"""Share of samples that the model ranks (KTO: rewards) the right way, and by how much; weighted means."""


def divergence_sum(forward: Forward, batch: MicroBatch, known: Preferences) -> torch.Tensor:
    """Scalar sum over a micro-batch of log-ratios of KTO's foreign answers, all it holds; call without gradients."""
    ratios = forward.log_likelihoods(batch, len(known.weights)) - known.reference[:, 1]
    return ratios.sum()


def reference_likelihoods(
    path: Path, key: str, compute: Callable[[], Floats], broadcast: Callable[[Any], Any], *, writer: bool
) -> Floats:
    """The reference's log-likelihoods of a split, float64[p, 2], from a run's file or computed now by all ranks.

    Args:
        path: the file.
        key: what the values belong to; those of another key are computed anew.
        compute: gives all values on every rank.
        broadcast: the strategy's, so that all ranks agree on whether to compute.
        writer: whether this rank writes the file.
    """
    found: Floats | None = None
    if writer and path.exists():
        with np.load(path) as file:
            found = file["values"] if str(file["key"]) == key else None
    found = broadcast(found)
    if found is not None:
        return found
    values = compute()
    if writer:
        partial = path.with_name(f".{path.name}")
        np.savez(partial, values=values, key=key)
        partial.rename(path)
    return values
