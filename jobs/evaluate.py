"""`python -m jobs.evaluate`: a model and its base scored on the same held-out rows, with intervals and gates."""

from typing import Any

from ftlib.config.evaluate import EvaluateConfig
from ftlib.runtime.job import job_main


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate; exit code 3 when `enforce_gates` is set and a gate said no."""
    from ftlib.evaluate.run import evaluate
    from ftlib.runtime.cluster import connect

    with connect(config.cluster):
        return evaluate(config)


if __name__ == "__main__":
    job_main("evaluate", EvaluateConfig, run)
