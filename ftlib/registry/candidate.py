"""What may be promoted: a finished run, read together with the evaluation that speaks for it."""

from dataclasses import dataclass
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.storage import exists, join, read_json
from ftlib.registry.manifest import read_manifest

BEST = "best.json"
METRICS = "metrics.json"
GATES = "gates.json"


@dataclass(frozen=True)
class Candidate:
    """A finished run and the evaluation that speaks for it."""

    run_path: str
    run: dict[str, Any]
    evaluation_path: str
    evaluation: dict[str, Any]
    metrics: dict[str, Any]
    gates: list[dict[str, Any]]


def find_run(path: str) -> tuple[str, dict[str, Any]]:
    """The folder and manifest of a run; a sweep's folder stands for its winner. Raises UserError."""
    manifest = read_manifest(path)
    if manifest.get("kind") == "sweep":
        path = read_json(join(path, BEST))["run_path"]
        manifest = read_manifest(path, "run")
    if manifest.get("kind") != "run":
        raise UserError(f"{path}: holds a {manifest.get('kind')}; run.path needs the folder of a run or a sweep")
    return path, manifest


def load_candidate(run_path: str, evaluation_path: str) -> Candidate:
    """Read a run (or a sweep's winner) and its evaluation; raises UserError where one is missing or unfinished."""
    run_path, run = find_run(run_path)
    evaluation = read_manifest(evaluation_path, "evaluation")
    gates = join(evaluation_path, GATES)
    return Candidate(
        run_path=run_path,
        run=run,
        evaluation_path=evaluation_path,
        evaluation=evaluation,
        metrics=read_json(join(evaluation_path, METRICS)),
        gates=read_json(gates) if exists(gates) else [],
    )
