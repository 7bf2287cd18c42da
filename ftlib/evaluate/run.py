"""The evaluation of a model on a held-out split: generate, score, judge, report.

In: an `EvaluateConfig`. Out, at `output.path`: `results.parquet` (one row for each system, task and question),
`metrics.json` (name → value, interval, n), `gates.json`, `report.html` and `manifest.json`, which appear whole or not
at all. The same evaluation is found again by its key. Greedy decoding and seeded resamples: a second run gives the same
figures.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftlib.config.evaluate import EvaluateConfig
from ftlib.core.errors import GateError, UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.core.logging import get_logger
from ftlib.core.storage import (
    atomic_dir,
    exists,
    filesystem,
    is_uri,
    join,
    local_path,
    read_json,
    write_json,
    write_text,
)
from ftlib.data.prepared import PreparedDataset, open_prepared
from ftlib.data.records import read_records_file
from ftlib.evaluate.gates import gates_of, judge
from ftlib.evaluate.generate import TOO_LONG, GenerationPlan, SystemSpec, answer_all, make_batches
from ftlib.evaluate.report import build_report
from ftlib.evaluate.tasks import (
    BASELINE,
    CANDIDATE,
    COLUMNS,
    Answer,
    EvalRow,
    baseline_question,
    choose_examples,
    compute_metrics,
    measured_metrics,
    require_rows,
    rows_from_records,
    sample_rows,
    task_of,
)
from ftlib.registry.manifest import (
    MANIFEST,
    build_manifest,
    finished,
    hash_files,
    work_key,
    write_manifest,
)
from ftlib.text.metrics import exact_match, format_compliance

logger = get_logger(__name__)

KIND = "evaluation"
_BATCHES_PER_WORKER = 4  # starting an actor takes as long as some batches
_WORK_FACTOR = 4  # bfloat16 files in fp32, and as much again for states and activations
RESULTS, METRICS, GATES, REPORT = "results.parquet", "metrics.json", "gates.json", "report.html"
_ENOUGH_TRAIN_ROWS = 2_000  # to draw a few examples from; a training split may have millions


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate, or find the finished evaluation. Needs a Ray connection.

    Returns:
        `manifest` (path), `metrics` (name → value), `gates_passed`, `found`.

    Raises:
        UserError: dataset, model or adapter missing or unfit; a gate on an unknown metric; `output.path` taken.
        GateError: a gate failed and `enforce_gates` is set.
    """
    started = time.time()
    gates = gates_of(config, measured_metrics(config))
    prepared = open_prepared(config.data.path)
    model = describe_model(config)
    _refuse_foreign_output(config.output.path)
    resolved = config.resolved()
    deciding = {
        name: resolved[name] for name in ("data", "tasks", "baseline", "gates", "seed", "batch_size", "use_gpu")
    }
    inputs = {"dataset": prepared.manifest["key"], **{k: v for k, v in model.items() if k.endswith(("256", "print"))}}
    key = work_key(KIND, {**deciding, "precision": config.model.precision}, inputs)
    if manifest := finished(config.output.path, key):
        logger.info("%s holds this evaluation already", config.output.path)
        return _result(config, manifest, read_json(join(config.output.path, METRICS)), found=True)

    rows, examples = load_rows(config, prepared)
    answers = _answer(config, model, rows, examples)
    metrics = compute_metrics(config, rows, answers)
    verdicts = judge(gates, metrics)
    manifest = build_manifest(
        KIND,
        key,
        resolved,
        inputs=inputs,
        counts={
            "num_rows": len(rows),
            "num_too_long": {name: sum(a.finish_reason == TOO_LONG for a in found) for name, found in answers.items()},
        },
        parents=[join(config.data.path, MANIFEST)],
        started=started,
        model=model,
        examples=[example.id for example in examples],
        gates_passed=all(verdict["passed"] for verdict in verdicts),
    )
    title = {
        "model": config.model.source,
        "adapter": config.model.adapter or "none",
        "dataset": f"{config.data.path}, split {config.data.split}, {len(rows)} rows",
        "baseline": f"the base prompted with {len(examples)} examples" if BASELINE in answers else "none",
    }
    page = build_report(title, metrics, verdicts, rows, answers)
    table = results_table(config, rows, answers)
    figures = {name: metric.as_json() for name, metric in metrics.items()}
    _write(config.output.path, manifest=manifest, metrics=figures, verdicts=verdicts, page=page, table=table)
    return _result(config, manifest, figures, found=False)


def describe_model(config: EvaluateConfig) -> dict[str, Any]:
    """What is scored, by content: `source`, `base_fingerprint`, and for a tuned model its folder and sha256."""
    from ftlib.models.adapt import check_adapter, find_adapter
    from ftlib.models.fingerprint import model_fingerprint
    from ftlib.models.source import check_model_folder, resolve_source

    base = resolve_source(config.model.source)
    model: dict[str, Any] = {"source": config.model.source, "base_fingerprint": model_fingerprint(base)}
    if config.model.adapter is None:
        return model
    path = config.model.adapter
    if exists(join(path, "best.json")):
        path = read_json(join(path, "best.json"))["run_path"]
    if exists(join(path, "model", "config.json")):  # a run that trained all weights
        whole = check_model_folder(local_path(join(path, "model")).absolute())
        return model | {"result": str(whole), "result_sha256": folder_sha256(whole)}
    folder = find_adapter(path).absolute()
    check_adapter(folder, base)
    return model | {"adapter": str(folder), "adapter_sha256": folder_sha256(folder)}


def load_rows(config: EvaluateConfig, prepared: PreparedDataset) -> tuple[list[EvalRow], list[EvalRow]]:
    """The rows to score, in the order of ids, and the baseline's examples."""
    records = prepared.table(config.data.split).select(COLUMNS).to_pylist()
    found = rows_from_records(records, texts=task_of(config, "answer") is None)
    if len(found) < len(records):
        logger.info("%d of %d rows have no answer to compare with", len(records) - len(found), len(records))
    rows = sample_rows(found, config.data.max_rows, config.seed)
    require_rows(rows, config.data.path, config.data.split)
    examples: list[EvalRow] = []
    if config.baseline.enabled and config.baseline.num_examples:
        scored = {row.id for row in rows}
        candidates = [row for row in rows_from_records(_train_head(prepared)) if row.id not in scored]
        examples = choose_examples(candidates, config.baseline.num_examples, config.seed)
    return sorted(rows, key=lambda row: row.id), examples


def _train_head(prepared: PreparedDataset) -> list[dict[str, Any]]:
    """The first files of the training split: rows lie in files by hash of id, so this is a sample of it."""
    records: list[dict[str, Any]] = []
    for file in prepared.files("train"):
        fs, inner = filesystem(file)
        records += read_records_file(inner, fs, COLUMNS).to_pylist()
        if len(records) >= _ENOUGH_TRAIN_ROWS:
            break
    return records


def _answer(
    config: EvaluateConfig, model: Mapping[str, Any], rows: Sequence[EvalRow], examples: Sequence[EvalRow]
) -> dict[str, list[Answer]]:
    source = config.model.source
    systems = [SystemSpec(CANDIDATE, model.get("result") or source, model.get("adapter"))]
    batches = make_batches(CANDIDATE, rows, [row.question for row in rows], config.batch_size)
    if config.baseline.enabled:
        systems.append(SystemSpec(BASELINE, source))
        questions = [baseline_question(row, examples, config.baseline) for row in rows]
        batches += make_batches(BASELINE, rows, questions, config.batch_size)
    found = answer_all(make_plan(config, tuple(systems), len(batches)), batches, len(rows) * len(systems))
    return {system.name: [found[system.name][row.id] for row in rows] for system in systems}


def make_plan(config: EvaluateConfig, systems: tuple[SystemSpec, ...], num_batches: int) -> GenerationPlan:
    """Share the cluster's CPUs among the actors.

    An actor reserves one CPU, or half of one where there is but one for it, and computes with all of its share: the
    rest of the share stays free for Ray Data's own tasks, without which a small cluster would stall.
    """
    import ray

    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 1))
    gpus = int(resources.get("GPU", 0))
    if config.use_gpu and gpus == 0:
        raise UserError("use_gpu is true but the Ray cluster has no GPU; set use_gpu=false")
    num_workers = config.num_workers or (gpus if config.use_gpu else _cpu_workers(cpus, resources, systems))
    if config.num_workers is None:
        num_workers = min(num_workers, max(1, num_batches // _BATCHES_PER_WORKER))
    share = max(1, cpus // num_workers)
    answer = task_of(config, "answer")
    return GenerationPlan(
        systems=systems,
        precision=config.model.precision,
        max_new_tokens=answer.max_new_tokens if answer else 0,
        score=task_of(config, "perplexity") is not None,
        num_workers=num_workers,
        threads=share,
        reserved_cpus=1.0 if share > 1 else 0.5,
        use_gpu=config.use_gpu,
    )


def _cpu_workers(cpus: int, resources: Mapping[str, float], systems: Sequence[SystemSpec]) -> int:
    """One actor for each CPU, as far as memory holds the weights (in fp32, with room to work) for each.

    Actors of one thread wait for nobody; two threads meet at the end of every operator, so each waits whenever the
    other loses its core. Seen on two overloaded cores, not as a controlled comparison (load and rows differed): about 4
    answers a minute from one actor of two threads, 47 and 74 from two actors of one.
    """
    from ftlib.models.source import resolve_source

    folders = {resolve_source(system.source) for system in systems}
    weights_bytes = sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))
    fitting = int(resources.get("memory", 1 << 60) // max(1, _WORK_FACTOR * weights_bytes))
    return max(1, min(cpus, fitting))


def results_table(config: EvaluateConfig, rows: Sequence[EvalRow], answers: Mapping[str, Sequence[Answer]]) -> Any:
    """One row for each system, task and question: what was answered and how it scored."""
    import pyarrow as pa

    scores_type = pa.struct([(name, pa.float64()) for name in _SCORES])
    schema = pa.schema(
        [
            (name, pa.string())
            for name in ("id", "system", "task", "prompt_hash", "answer", "reference", "finish_reason")
        ]
        + [("scores", scores_type)]
    )
    references = [row.reference for row in rows]
    records = []
    for system, found in answers.items():
        texts = [answer.text for answer in found]
        for task in config.tasks:
            if task.kind == "answer":
                scores: dict[str, Sequence[float]] = {"exact_match": exact_match(texts, references).tolist()}
                if task.pattern is not None:
                    scores["format_compliance"] = format_compliance(texts, task.pattern).tolist()
                per_row: list[dict[str, float | None]]
                per_row = [{name: values[i] for name, values in scores.items()} for i in range(len(rows))]
            else:
                per_row = [{"log_prob": a.log_prob, "num_tokens": float(a.num_tokens)} for a in found]
            for row, answer, score in zip(rows, found, per_row, strict=True):
                records.append(
                    {
                        "id": row.id,
                        "system": system,
                        "task": task.kind,
                        "prompt_hash": answer.prompt_hash,
                        "answer": answer.text if task.kind == "answer" else None,
                        "reference": row.reference,
                        "finish_reason": answer.finish_reason if task.kind == "answer" else None,
                        "scores": score,
                    }
                )
    return pa.Table.from_pylist(records, schema=schema)


_SCORES = ("exact_match", "format_compliance", "log_prob", "num_tokens")


def _write(
    path: str,
    *,
    manifest: dict[str, Any],
    metrics: Mapping[str, Any],
    verdicts: Sequence[Mapping[str, Any]],
    page: str,
    table: Any,
) -> None:
    """Put the folder in place: locally by renaming, on an object store with the manifest last."""
    import pyarrow.parquet as pq

    def fill(folder: Path) -> None:
        pq.write_table(table, folder / RESULTS)
        write_json(str(folder / METRICS), metrics)
        write_json(str(folder / GATES), verdicts)
        write_text(str(folder / REPORT), page)
        manifest["files"] = hash_files(folder)

    if not is_uri(path):
        with atomic_dir(path) as folder:
            fill(folder)
            write_manifest(str(folder), manifest)
        return
    with TemporaryDirectory() as scratch:
        fill(Path(scratch))
        fs, inner = filesystem(path)
        for name in manifest["files"]:
            fs.put_file(os.path.join(scratch, name), f"{inner.rstrip('/')}/{name}")
    write_manifest(path, manifest)


def _refuse_foreign_output(path: str) -> None:
    """An earlier evaluation may be replaced; a folder with anything else in it may not."""
    if is_uri(path) or not local_path(path).exists():
        return
    folder = local_path(path)
    manifest = folder / MANIFEST
    if not folder.is_dir() or (any(folder.iterdir()) and not manifest.exists()):
        raise UserError(f"output.path={path} exists and is not an evaluation; give another folder")
    if manifest.exists() and (kind := read_json(str(manifest)).get("kind")) != KIND:
        raise UserError(f"output.path={path} holds a {kind}; give another folder")


def _result(config: EvaluateConfig, manifest: dict[str, Any], metrics: dict[str, Any], found: bool) -> dict[str, Any]:
    result = {
        "manifest": join(config.output.path, MANIFEST),
        "metrics": {name: round(entry["value"], 4) for name, entry in metrics.items()},
        "gates_passed": manifest["gates_passed"],
        "report": join(config.output.path, REPORT),
        "found": found,
    }
    for line in summary_lines(metrics):
        logger.info("%s", line)
    if config.enforce_gates and not manifest["gates_passed"]:
        raise GateError(f"a gate failed; see {join(config.output.path, GATES)}", result)
    return result


def summary_lines(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line a metric: candidate, baseline and gain, with intervals."""
    lines = []
    for name in metrics:
        if name.startswith("baseline_") or name.endswith("_gain"):
            continue
        parts = [f"{name}: {_shown(metrics[name])}"]
        for label, other in (("baseline", f"baseline_{name}"), ("gain", f"{name}_gain")):
            if other in metrics:
                parts.append(f"{label} {_shown(metrics[other])}")
        lines.append(", ".join(parts))
    return lines


def _shown(entry: Mapping[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['value']:.3f} [{low:.3f}, {high:.3f}]"
