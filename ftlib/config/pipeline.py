"""Configuration of `jobs.pipeline`: all jobs in one, each fed with the results of those before it."""

from typing import Any

from ftlib.config.base import JobConfig, OutputConfig


class PipelineConfig(JobConfig):
    """`jobs.pipeline`. Paths between the steps are filled in below `output.path`."""

    output: OutputConfig
    """Folder under which every step writes: `data/`, `runs/`, `sweep/`, `eval/`, `registry/`."""

    prepare: dict[str, Any]
    """Configuration of `jobs.prepare`, without `output.path`."""

    sweep: dict[str, Any]
    """Configuration of `jobs.sweep`, without `train.data.path`, `train.output.path` and `output.path`."""

    evaluate: dict[str, Any]
    """Configuration of `jobs.evaluate`, without `model.adapter`, `data.path` and `output.path`."""

    promote: dict[str, Any] = {}
    """Configuration of `jobs.promote`, without its paths."""

    deploy: dict[str, Any] | None = None
    """Configuration of `jobs.deploy`; left out: nothing is served."""
