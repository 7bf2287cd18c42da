"""Differentially private training: its keys, and what it refuses to be combined with."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ftlib.config.base import Config

if TYPE_CHECKING:
    from ftlib.config.train import TrainConfig


class PrivacyConfig(Config):
    """DP-SGD: what the result tells about any one unit of the training split is bounded by (epsilon, delta)."""

    epsilon: Annotated[float, Field(gt=0)]
    """Privacy budget of the whole run; the noise is derived from it."""

    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability with which the bound may fail. Default: 1 / (10 × number of units), below 1/N^1.1 for any N under 10^10."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient of every unit is clipped to this norm; `optim.max_grad_norm` does not apply."""

    unit: Literal["record", "subject"] = "record"
    """What is protected: one record, or all records of one data subject together (then every row needs a `subject`)."""

    max_records_per_subject: Annotated[int, Field(ge=1)] | None = None
    """With unit `subject`: at most this many records of a subject are trained on, those with the smallest hash of id. Default: all."""

    accountant: Literal["prv", "rdp"] = "prv"
    """How the budget is counted: privacy random variables (tight), or Rényi divergence (looser, cheaper)."""

    seed: int | None = None
    """Seed of sampling and noise, to repeat a run exactly. Whoever knows it can take the noise off again, so the guarantee holds only while it is secret. Default: a random key that is deleted when the run ends."""

    @model_validator(mode="after")
    def _subject_limit(self) -> "PrivacyConfig":
        if self.max_records_per_subject is not None and self.unit != "subject":
            raise ValueError("max_records_per_subject needs unit: subject")
        return self


def conflicts(config: "TrainConfig") -> list[str]:
    """What in a training configuration breaks private training, each with its reason; empty without `privacy`."""
    if config.privacy is None:
        return []
    found = {
        f"method.kind {config.method.kind} (only LoRA's matrices have gradients per unit here): use lora": (
            config.method.kind != "lora"
        ),
        "parallel.strategy deepspeed (it sums gradients before they can be clipped per unit): use ddp": (
            config.parallel.strategy != "ddp"
        ),
        "data.packing true (a sequence would mix units): use false": config.data.packing,
        f"objective.kind {config.objective.kind} (its losses compare records): use sft": config.objective.kind != "sft",
        "objective.label_smoothing (not implemented here): use 0": config.objective.label_smoothing > 0,
        "data.weighting, data.class_weights or data.replay (what a record weighs would depend on others): leave them": (
            config.data.weighting != "loss" or bool(config.data.class_weights) or config.data.replay is not None
        ),
        "method.init eva (it looks at the records without noise): use another": config.method.init == "eva",
        "train.early_stopping_patience (when to stop would tell about the records): leave it": (
            config.train.early_stopping_patience is not None
        ),
        "train.precision float16 (its loss scale would have to skip steps that the budget paid for): use bfloat16": (
            config.train.precision == "float16"
        ),
        "train.compile true (a compiled layer runs no hooks inside): use false": config.train.compile,
        "train.activation_checkpointing true (gradients per unit are taken by hooks that see each layer twice): "
        "use false": config.train.activation_checkpointing,
    }
    return [reason for reason, applies in found.items() if applies]
