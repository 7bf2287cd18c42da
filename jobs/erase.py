"""`python -m jobs.erase`: a person's records out of every prepared dataset, and the list of what must follow."""

from typing import Any

from ftlib.config.erase import EraseConfig
from ftlib.runtime.job import job_main


def run(config: EraseConfig) -> dict[str, Any]:
    """Erase, or list only; needs no Ray cluster. Returns the proof's manifest and the lists."""
    from ftlib.data.erase import erase

    return erase(config)


if __name__ == "__main__":
    job_main("erase", EraseConfig, run)
