"""Configuration of `jobs.sweep`: a search over a training configuration."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ftlib.config.base import Config, JobConfig, OutputConfig, without_secret
from ftlib.config.train import TrainConfig
from ftlib.config.values import Private


class FloatRange(Config):
    """A real-valued parameter."""

    type: Literal["float"]
    """Kind of range."""

    low: float
    """Smallest value."""

    high: float
    """Largest value."""

    log: bool = False
    """Sample on a logarithmic scale."""

    @model_validator(mode="after")
    def _ordered(self) -> "FloatRange":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low} must be below high {self.high}, and above 0 on a log scale")
        return self


class IntRange(Config):
    """A whole-number parameter."""

    type: Literal["int"]
    """Kind of range."""

    low: int
    """Smallest value."""

    high: int
    """Largest value."""

    log: bool = False
    """Sample on a logarithmic scale."""

    @model_validator(mode="after")
    def _ordered(self) -> "IntRange":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low} must be below high {self.high}, and above 0 on a log scale")
        return self


class Choices(Config):
    """A parameter that takes one of given values."""

    type: Literal["categorical"]
    """Kind of range."""

    choices: Annotated[list[Any], Field(min_length=1)]
    """The values."""


Range = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]


class PrunerConfig(Config):
    """Early stopping of poor trials: successive halving (ASHA) on optimiser steps."""

    kind: Literal["asha", "median", "none"] = "asha"
    """Rule by which a trial is stopped: the worse share at each rung, worse than the median, or never."""

    min_steps: Annotated[int, Field(ge=1)] = 10
    """No trial stops before this many optimiser steps. Where `train.eval_every_steps` is not set, trials are validated at this interval."""

    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """ASHA keeps one in this many at each rung."""


class SearchConfig(Config):
    """How the space is searched."""

    num_trials: Annotated[int, Field(ge=1)] = 8
    """Trials in all, those found in the storage included."""

    max_concurrent_trials: Annotated[int, Field(ge=1)] = 1
    """Trials that run at the same time; each takes the training configuration's workers."""

    storage: Annotated[str, Private(), AfterValidator(without_secret("FTLIB_DB_PASSWORD_FILE"))] | None = None
    """Optuna database URL without a password (`postgresql+psycopg://…`); default: `study.db` (SQLite) in the sweep's folder. The password comes from `FTLIB_DB_PASSWORD_FILE`."""

    study_name: str | None = None
    """Name in the storage; default: derived from the configuration."""

    metric: Literal["val_loss"] = "val_loss"
    """Metric that is minimised."""

    pruner: PrunerConfig = PrunerConfig()
    """Early stopping."""

    seed_trials: list[dict[str, Any]] = []
    """Parameter sets tried first."""


class SweepConfig(JobConfig):
    """`jobs.sweep`."""

    train: TrainConfig
    """A training configuration: what each trial starts from; its output.path is the folder of the trials' runs."""

    space: Annotated[dict[str, Range], Field(min_length=1)]
    """Key path of the training configuration → range."""

    search: SearchConfig = SearchConfig()
    """Search."""

    output: OutputConfig
    """Folder of the sweep."""

    @field_validator("space", mode="before")
    @classmethod
    def _flatten(cls, space: object) -> object:
        """Accept nested keys too: an override `space.method.rank=…` arrives as `{method: {rank: …}}`."""
        if not isinstance(space, dict):
            return space
        flat: dict[str, Any] = {}
        for key, value in space.items():
            if isinstance(value, dict) and value and all(isinstance(child, dict) for child in value.values()):
                flat |= {f"{key}.{inner}": child for inner, child in value.items()}
            else:
                flat[key] = value
        return flat if flat.keys() == space.keys() else cls._flatten(flat)

    @field_validator("train")
    @classmethod
    def _trains(cls, train: TrainConfig) -> TrainConfig:
        if not train.writes_output:
            raise ValueError("dry_run, inspect and advise are about one run: python -m jobs.train, without a sweep")
        if train.privacy is not None:
            raise ValueError(
                "privacy holds for one run: every trial would spend a budget of its own, and the choice among them by "
                "validation loss more. Find the settings on records that may be seen, then python -m jobs.train"
            )
        return train

    @field_validator("space")
    @classmethod
    def _keys_exist(cls, space: dict[str, Any]) -> dict[str, Any]:
        for key in space:
            model: Any = TrainConfig
            for part in key.split("."):
                fields = getattr(model, "model_fields", {})
                if part not in fields:
                    raise ValueError(f"{key} is not a key of the training configuration")
                model = fields[part].annotation
        return space
