"""What a sweep leaves behind: `trials.parquet`, `best.json`, `report.html`, and `manifest.json` put last.

`trials.parquet`, one row a trial: number int64, state string (COMPLETE, PRUNED, FAIL, DUPLICATE), value float64 (the
metric; of a pruned trial its last intermediate one), params string (JSON, key path → value), run_id string, run_path
string, steps list<struct<step int64, value float64>> (validations on the way), duration_s float64, error string.
"""

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

from ftlib.config.sweep import SweepConfig
from ftlib.core.fingerprints import canonical_json
from ftlib.core.storage import exists, join, write_bytes
from ftlib.registry.manifest import MANIFEST, build_manifest, write_manifest
from ftlib.sweep.report import render
from ftlib.sweep.study import best_trial, trial_row

if TYPE_CHECKING:
    from optuna import Study

TRIALS = "trials.parquet"
BEST = "best.json"
REPORT = "report.html"


def write_results(config: SweepConfig, study: "Study", *, key: str, inputs: Any, started: float) -> str:
    """Write every file of the sweep's folder; returns the manifest's path. The study has a completed trial."""
    folder = config.output.path
    trials = sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)
    rows = [trial_row(trial, config.space) for trial in trials if trial.state.is_finished()]
    winner = best_trial(trials)
    assert winner is not None
    row = trial_row(winner, config.space)
    best = {
        "run_id": row["run_id"],
        "run_path": row["run_path"],
        "params": row["params"],
        "value": row["value"],
        "metric": config.search.metric,
        "trial": row["number"],
    }
    counts: dict[str, int] = {}
    for item in rows:
        counts[item["state"].lower()] = counts.get(item["state"].lower(), 0) + 1
    contents = {
        TRIALS: _parquet(rows),
        BEST: (json.dumps(best, indent=2) + "\n").encode(),
        REPORT: render(rows, best, config).encode(),
    }
    for name, content in contents.items():
        write_bytes(join(folder, name), content)
    runs = [join(item["run_path"], MANIFEST) for item in rows if item["state"] == "COMPLETE"]
    manifest = build_manifest(
        "sweep",
        key,
        config.resolved(),
        inputs=inputs,
        counts={"trials": len(rows), **counts},
        parents=[join(config.train.data.path, MANIFEST), *(path for path in runs if exists(path))],
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        started=started,
        best=best,
        study={"name": study.study_name, "storage": config.search.storage or "study.db"},
    )
    return write_manifest(folder, manifest)


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("number", pa.int64()),
            ("state", pa.string()),
            ("value", pa.float64()),
            ("params", pa.string()),
            ("run_id", pa.string()),
            ("run_path", pa.string()),
            ("steps", pa.list_(pa.struct([("step", pa.int64()), ("value", pa.float64())]))),
            ("duration_s", pa.float64()),
            ("error", pa.string()),
        ]
    )
    table = pa.Table.from_pylist([row | {"params": canonical_json(row["params"])} for row in rows], schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
