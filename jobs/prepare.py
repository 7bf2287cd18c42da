"""`python -m jobs.prepare`: raw records in, a redacted, deduplicated, split dataset with an audit report out."""

from typing import Any

from ftlib.config.prepare import PrepareConfig
from ftlib.runtime.job import job_main


def run(config: PrepareConfig) -> dict[str, Any]:
    """Prepare the dataset; returns its manifest and counts."""
    from ftlib.data.prepare import prepare

    return prepare(config)


if __name__ == "__main__":
    job_main("prepare", PrepareConfig, run)
