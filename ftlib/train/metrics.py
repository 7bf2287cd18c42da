"""`metrics.jsonl` of a run, written by rank 0, and the one log line of a step."""

import json
from pathlib import Path
from typing import Any

from ftlib.core.logging import format_duration
from ftlib.core.storage import write_text
from ftlib.train.layout import METRICS


class MetricsWriter:
    """Appends records of training steps and validations; a resumed run drops those after its checkpoint."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.path = folder / METRICS
        kept = [record for record in read_metrics(folder) if record["step"] <= resume_step]
        write_text(str(self.path), "".join(json.dumps(record) + "\n" for record in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it is on disk when this returns."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole records of a run; a line that a crash cut short is left out."""
    path = folder / METRICS
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def step_line(record: dict[str, Any], total_steps: int, seconds_left: float) -> str:
    """`step 12/60 loss 1.2345 …, about 3m10s left`."""
    epsilon = f" epsilon {record['epsilon']:.3f}" if "epsilon" in record else ""
    return (
        f"step {record['step']}/{total_steps} loss {record['loss']:.4f} lr {record['lr']:.2e} "
        f"grad {record['grad_norm']:.3f} {record['tokens_per_s']:.0f} tok/s {record['memory_gb']:.1f} GB{epsilon}, "
        f"about {format_duration(seconds_left)} left"
    )
