"""Configuration of `jobs.pipeline`: all jobs in one, each fed with the results of those before it."""

from typing import Annotated, Any

from ftlib.config.base import JobConfig, OutputConfig
from ftlib.config.deploy import DeployConfig
from ftlib.config.evaluate import EvaluateConfig
from ftlib.config.prepare import PrepareConfig
from ftlib.config.promote import PromoteConfig
from ftlib.config.sweep import SweepConfig
from ftlib.config.values import Sections


class PipelineConfig(JobConfig):
    """`jobs.pipeline`. Paths between the steps are filled in below `output.path`."""

    output: OutputConfig
    """Folder under which every step writes: `data/`, `runs/`, `sweep/`, `eval/`, `registry/`."""

    prepare: Annotated[dict[str, Any], Sections(PrepareConfig)]
    """Configuration of `jobs.prepare`, without `output.path`."""

    sweep: Annotated[dict[str, Any], Sections(SweepConfig)]
    """Configuration of `jobs.sweep`, without `train.data.path`, `train.output.path` and `output.path`."""

    evaluate: Annotated[dict[str, Any], Sections(EvaluateConfig)]
    """Configuration of `jobs.evaluate`, without `model.adapter`, `data.path` and `output.path`."""

    promote: Annotated[dict[str, Any], Sections(PromoteConfig)] = {}
    """Configuration of `jobs.promote`, without its paths."""

    deploy: Annotated[dict[str, Any] | None, Sections(DeployConfig)] = None
    """Configuration of `jobs.deploy`; left out: nothing is served."""


def stage_configs(config: PipelineConfig) -> dict[str, dict[str, Any]]:
    """The plain configuration of each stage with the paths between them filled in, in the order they run.

    What a stage sets itself wins: a registry elsewhere, for example. The cluster is the pipeline's.
    """
    folder = config.output.path.rstrip("/")
    data, sweep, evaluation = f"{folder}/data", f"{folder}/sweep", f"{folder}/eval"
    registry = {"registry": {"uri": f"{folder}/registry"}}
    between: dict[str, dict[str, Any]] = {
        "prepare": {"output": {"path": data}},
        "sweep": {
            "train": {"data": {"path": data}, "output": {"path": f"{folder}/runs"}},
            "output": {"path": sweep},
        },
        "evaluate": {"model": {"adapter": sweep}, "data": {"path": data}, "output": {"path": evaluation}},
        "promote": {"run": {"path": sweep}, "evaluation": {"path": evaluation}, **registry},
        "deploy": registry,
    }
    shared = {"cluster": config.cluster.resolved(), "seed": config.seed}
    return {
        name: _merge({**shared, **filled}, values)
        for name, filled in between.items()
        if (values := getattr(config, name)) is not None
    }


def _merge(base: dict[str, Any], wins: dict[str, Any]) -> dict[str, Any]:
    """`wins` laid over `base`, section by section."""
    merged = dict(base)
    for key, value in wins.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return merged
