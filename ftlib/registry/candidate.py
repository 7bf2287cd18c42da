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
class Run:
    """A finished run, as far as the registry is concerned."""

    path: str
    run_id: str
    result: str
    """Folder of the result below `path`: `adapter` or `model`."""
    sha256: str
    """Of the result's folder when the run ended (`ftlib.core.fingerprints.folder_sha256`)."""
    base_source: str
    base_fingerprint: str
    chat_template: str | None
    """Hash of the chat template it was trained with."""
    dataset: str | None
    """Fingerprint of the data it was trained on."""
    val_loss: float | None


@dataclass(frozen=True)
class Candidate:
    """A finished run and the evaluation that speaks for it."""

    run: Run
    evaluation_path: str
    evaluation: dict[str, Any]
    metrics: dict[str, Any]
    gates: list[dict[str, Any]]


def read_run(path: str) -> Run:
    """A run's folder, or a sweep's for its winner. Raises UserError when it is neither or unfinished."""
    manifest = read_manifest(path)
    if manifest.get("kind") == "sweep":
        path = read_json(join(path, BEST))["run_path"]
        manifest = read_manifest(path, "run")
    if manifest.get("kind") != "run":
        raise UserError(f"{path}: holds a {manifest.get('kind')}; run.path needs the folder of a run or a sweep")
    base = manifest["base"]
    return Run(
        path=path,
        run_id=manifest["run_id"],
        result=manifest["result"],
        sha256=manifest["result_sha256"],
        base_source=base["source"],
        base_fingerprint=base["fingerprint"],
        chat_template=base["chat_template"],
        dataset=manifest["dataset"]["key"],
        val_loss=manifest["val_loss"],
    )


def load_candidate(run_path: str, evaluation_path: str) -> Candidate:
    """Read a run (or a sweep's winner) and its evaluation; raises UserError where one is missing or unfinished."""
    evaluation = read_manifest(evaluation_path, "evaluation")
    gates = join(evaluation_path, GATES)
    return Candidate(
        run=read_run(run_path),
        evaluation_path=evaluation_path,
        evaluation=evaluation,
        metrics=read_json(join(evaluation_path, METRICS)),
        gates=read_json(gates) if exists(gates) else [],
    )
