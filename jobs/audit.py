"""`python -m jobs.audit`: what is in a set of records and what is wrong with it, as a report; nothing is changed."""

from typing import Any

from ftlib.config.audit import AuditConfig
from ftlib.runtime.job import job_main


def run(config: AuditConfig) -> dict[str, Any]:
    """Audit; exit code 3 when the quality score is below `audit.min_quality`."""
    from ftlib.data.audit import audit

    return audit(config)


if __name__ == "__main__":
    job_main("audit", AuditConfig, run)
