"""`python -m jobs.pipeline`: prepare, sweep, evaluate, promote and deploy in one job, each fed by the one before."""

from collections.abc import Callable
from typing import Any

from ftlib.config.deploy import DeployConfig
from ftlib.config.evaluate import EvaluateConfig
from ftlib.config.loader import absolute_paths, refuse_relative_paths, validate
from ftlib.config.pipeline import PipelineConfig, stage_configs
from ftlib.config.prepare import PrepareConfig
from ftlib.config.promote import PromoteConfig
from ftlib.config.sweep import SweepConfig
from ftlib.core.errors import GateError
from ftlib.core.logging import get_logger
from ftlib.runtime.job import in_ray_job, job_main

logger = get_logger(__name__)
Job = Callable[[Any], dict[str, Any]]
CLASSES = {
    "prepare": PrepareConfig,
    "sweep": SweepConfig,
    "evaluate": EvaluateConfig,
    "promote": PromoteConfig,
    "deploy": DeployConfig,
}


def run(config: PipelineConfig) -> dict[str, Any]:
    """Run the stages in order on one connection; a gate that says no ends the pipeline before anything is served.

    Every stage's configuration is checked before the first one starts.
    """
    from ftlib.runtime.cluster import connect

    stages = [(name, _checked(CLASSES[name], values)) for name, values in stage_configs(config).items()]
    results: dict[str, Any] = {}
    with connect(config.cluster) as cluster:
        for number, (name, stage) in enumerate(stages, 1):
            logger.info("pipeline %d/%d: %s", number, len(stages), name)
            try:
                results[name] = _job(name)(stage)
            except GateError as error:
                raise GateError(str(error), {"stages": results, "stopped_at": name, **error.result}) from error
        endpoint = results.get("deploy", {}).get("url")
        if cluster.owned and endpoint:
            from serve_apps.deploy import keep_serving

            logger.warning("%s is served until this job ends (Ctrl-C): its cluster is this job's own", endpoint)
            keep_serving()
    return {"manifest": results["promote"]["manifest"], "stages": results, "endpoint": endpoint}


def _checked(cls: Any, values: dict[str, Any]) -> Any:
    stage = validate(cls, values)
    if in_ray_job():
        refuse_relative_paths(stage)
        return stage
    return absolute_paths(stage)


def _job(name: str) -> Job:
    from jobs import deploy, evaluate, prepare, promote, sweep

    jobs: dict[str, Job] = {
        "prepare": prepare.run,
        "sweep": sweep.run,
        "evaluate": evaluate.run,
        "promote": promote.run,
        "deploy": deploy.run,
    }
    return jobs[name]


if __name__ == "__main__":
    job_main("pipeline", PipelineConfig, run)
