"""`python -m jobs.promote`: a run whose evaluation passed every gate becomes an alias in the model registry."""

from typing import Any

from ftlib.config.promote import PromoteConfig
from ftlib.runtime.job import job_main


def run(config: PromoteConfig) -> dict[str, Any]:
    """Register the run and set the alias; exit code 3 with the reasons when a gate said no."""
    from ftlib.registry.promotion import promote

    return promote(config)


if __name__ == "__main__":
    job_main("promote", PromoteConfig, run)
