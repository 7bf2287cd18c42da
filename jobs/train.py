"""`python -m jobs.train`: a prepared dataset to an adapter or a tuned model."""

from typing import Any

from ftlib.config.train import TrainConfig
from ftlib.runtime.job import job_main


def run(config: TrainConfig) -> dict[str, Any]:
    """Train on a Ray cluster, or only plan or show; returns the job's result."""
    if config.dry_run:
        from ftlib.train.plan import dry_run

        return {"manifest": None, "plan": dry_run(config)}
    if config.advise:
        from ftlib.train.advice import advise

        return {"manifest": None, "advice": advise(config)}
    if config.inspect:
        from ftlib.train.inspection import inspect_samples

        return {"manifest": None, "summary": inspect_samples(config)}
    from ftlib.runtime.cluster import connect
    from ftlib.train.driver import run_training
    from ftlib.train.preflight import check_run

    check_run(config)  # before a cluster is started for it
    with connect(config.cluster):
        result = run_training(config)
    return {
        "manifest": result.manifest,
        "run_id": result.run_id,
        "path": result.path,
        "val_loss": result.val_loss,
        "metrics": result.metrics,
    }


if __name__ == "__main__":
    job_main("train", TrainConfig, run)
