"""Configuration of `jobs.promote`: a run that passed its gates becomes an alias in the registry."""

from typing import Annotated

from pydantic import Field

from ftlib.config.base import Config, JobConfig, PathStr, TrackingUri

RegistryName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class RegistryConfig(Config):
    """The MLflow model registry."""

    uri: TrackingUri
    """A folder (SQLite file and artifacts inside), or the URL of an MLflow server."""

    name: RegistryName = "ftlib"
    """Name of the registered model."""


class RunRefConfig(Config):
    """The run to promote."""

    path: PathStr
    """A run's folder, or a sweep's (its winner)."""


class EvaluationRefConfig(Config):
    """The evaluation that speaks for it."""

    path: PathStr
    """An evaluation's folder."""


class PromoteConfig(JobConfig):
    """`jobs.promote`."""

    run: RunRefConfig
    """What is promoted."""

    evaluation: EvaluationRefConfig
    """Its evaluation; every gate must have passed."""

    registry: RegistryConfig
    """Where it is registered."""

    alias: RegistryName = "champion"
    """Alias that is set to the new version."""
