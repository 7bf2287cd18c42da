"""`python -m jobs.deploy`: a base and its tuned models behind an OpenAI-compatible endpoint on Ray Serve."""

from typing import Any

from ftlib.config.deploy import DeployConfig
from ftlib.core.logging import get_logger
from ftlib.runtime.job import job_main

logger = get_logger("ftlib.jobs.deploy")


def run(config: DeployConfig) -> dict[str, Any]:
    """Deploy. On an existing cluster the endpoint outlives this job; on one of its own it serves until interrupted."""
    from ftlib.runtime.cluster import connect
    from serve_apps.deploy import deploy, keep_serving

    with connect(config.cluster) as cluster:
        result = deploy(config)
        if cluster.owned:
            logger.warning(
                "%s runs on a cluster that this job started, so it serves until this job ends (Ctrl-C); "
                "give cluster.address to leave it running",
                result["url"],
            )
            keep_serving()
        return result


if __name__ == "__main__":
    job_main("deploy", DeployConfig, run)
