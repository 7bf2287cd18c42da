"""`python -m jobs.sweep`: a search over a training configuration; the best run is the winner."""

from typing import Any

from ftlib.config.sweep import SweepConfig
from ftlib.runtime.job import job_main


def run(config: SweepConfig) -> dict[str, Any]:
    """Run the trials on the cluster and return the winner."""
    from ftlib.runtime.cluster import connect
    from ftlib.sweep.run import run_sweep

    with connect(config.cluster):
        return run_sweep(config)


if __name__ == "__main__":
    job_main("sweep", SweepConfig, run)
