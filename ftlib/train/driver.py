"""The driver of a run: checks, tokenises, starts Ray Train workers around `ftlib.train.loop`, writes the manifest.

Ray Train gives placement, the process group and restarts after a lost worker; checkpoints and metrics are the loop's
own files in the run's folder, from which restarted workers go on.
"""

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.config.train import TrainConfig
from ftlib.core.errors import DivergedError, UserError
from ftlib.core.fingerprints import fingerprint, tree_sha256
from ftlib.core.logging import get_logger
from ftlib.core.storage import join, local_path, write_json
from ftlib.registry.manifest import MANIFEST, build_manifest, finished, hash_files, work_key, write_manifest
from ftlib.runtime.cluster import in_own_cluster
from ftlib.train.budget import PrivacySettings, plan_privacy
from ftlib.train.continued import adopt_adapter
from ftlib.train.export import with_exports
from ftlib.train.layout import ADAPTER, CHECKPOINTS, CONFIG, METRICS, MODEL, RAY, TOKENIZER, TOKENS
from ftlib.train.preflight import RunInputs, check_resources, check_run
from ftlib.train.report import RunFacts, write_report

if TYPE_CHECKING:
    from ftlib.data.tokenize import TokenizeSettings

logger = get_logger(__name__)

OnEval = Callable[[int, dict[str, float]], bool]
KIND = "run"
_CHANGES_NO_RESULT = {"cluster", "output", "scaling", "dry_run", "inspect", "advise", "advice", "track", "export"}


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    run_id: str
    path: str
    """The run's folder."""
    manifest: str
    val_loss: float | None
    """Of the best checkpoint."""
    metrics: dict[str, float]
    """Of the last validation."""
    stopped_early: bool


def run_training(config: TrainConfig, on_eval: OnEval | None = None) -> TrainResult:
    """Train, or return at once what an equal, finished run gave; an unfinished one of the same name goes on.

    Args:
        config: a training configuration; Ray must be connected.
        on_eval: called on rank 0 after each validation with the step and its metrics; True stops the run. It is
            pickled into a worker, so it must reach what it needs from there.

    Raises:
        UserError: the configuration does not fit the data or the model.
        DivergedError: loss or gradient became infinite or not a number.
    """
    started = time.time()
    if config.privacy is not None and on_eval is not None:
        raise UserError(
            "privacy: a run cannot be stopped by its validation loss; the choice would tell about the records"
        )
    config = adopt_adapter(config)
    inputs = check_run(config)
    key, resume_key = run_keys(config, inputs)
    run_id = config.output.run_id or f"run-{key}"
    run_dir = local_path(join(config.output.path, run_id))
    if (found := finished(str(run_dir), key)) and not (found["stopped_early"] and on_eval is None):
        logger.info("run %s is finished already: %s", run_id, run_dir)
        return _finish(config, inputs, run_dir, found)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / MANIFEST).unlink(missing_ok=True)
    write_json(str(run_dir / CONFIG), config.resolved())
    check_resources(config)
    work = _packed_work(config, inputs, run_dir, resume_key)
    outcome: dict[str, Any] = {"status": "failed"}
    try:
        outcome = _fit(config, work, on_eval)
    finally:
        write_report(run_dir, _facts(config, inputs, work, outcome))
    if outcome["status"] == "diverged":
        values = ", ".join(f"{name} {value}" for name, value in outcome["metrics"].items() if name != "step")
        raise DivergedError(
            f"training diverged at step {outcome['step']} ({values}; rows {', '.join(outcome['rows'])}): lower "
            f"optim.learning_rate ({config.optim.learning_rate:g}) or raise optim.warmup_fraction. "
            f"The last good checkpoint stays in {run_dir / CHECKPOINTS}; records: {run_dir / METRICS}"
        )
    return _finish(config, inputs, run_dir, _manifest(config, inputs, work, outcome, key=key, started=started))


def run_keys(config: TrainConfig, inputs: RunInputs) -> tuple[str, str]:
    """Key of the finished work (data, model, settings, code, libraries), and of what a checkpoint may be resumed by.

    The number of workers changes no result, so it is in neither; how the model is spread is in the first only.
    """
    settings = config.model_dump(mode="json", exclude=_CHANGES_NO_RESULT)
    sources = {"data": inputs.data_key, "model": inputs.model_fingerprint}
    settings["data"].pop("path")
    settings["data"].pop("replay")
    settings["train"].pop("check_memory")
    if inputs.replay:
        sources["replay"] = f"{inputs.replay.data_key}:{inputs.replay.fraction}"
    if settings["method"].pop("adapter"):
        sources["adapter"] = str(inputs.adapter_sha256)
    resumable = {name: value for name, value in settings.items() if name != "parallel"}
    return work_key(KIND, settings, sources), fingerprint([resumable, sources])


def token_settings(config: TrainConfig, tokenizer: Path) -> "TokenizeSettings":
    """How the training split becomes sequences, with the tokenizer of a folder."""
    from ftlib.data.tokenize import TokenizeSettings

    return TokenizeSettings(
        tokenizer_folder=str(tokenizer),
        max_seq_len=config.train.max_seq_len,
        packing=config.data.packing,
        max_unsupervised=config.data.max_unsupervised,
        objective=config.objective.kind,
        truncation=config.data.truncation,
        weighting=config.data.weighting,
        class_weights=tuple(sorted(config.data.class_weights.items())),
        units=config.privacy is not None,
    )


def _packed_work(config: TrainConfig, inputs: RunInputs, run_dir: Path, resume_key: str) -> dict[str, Any]:
    """Tokenise both splits; returns what every worker gets."""
    from ftlib.data.pack import PackedSplit
    from ftlib.data.tokenize import tokenize_split
    from ftlib.models.vocabulary import save_grown_tokenizer
    from ftlib.train.schedule import num_steps

    cache = local_path(join(config.output.path, TOKENS))
    tokenizer = inputs.model_folder
    if config.method.new_tokens:
        tokenizer = save_grown_tokenizer(inputs.model_folder, config.method.new_tokens, run_dir / TOKENIZER)
    weighted = token_settings(config, tokenizer)
    # Weights of classes act in training alone: in validation they would bend the score.
    common = replace(weighted, weighting="loss", class_weights=(), units=False)
    limited = replace(common, max_rows=config.train.max_eval_samples)
    folders: dict[str, str | None] = {"val": None, "replay": None}
    for split, files in inputs.files.items():
        identity = {"data": inputs.data_key, "split": split}
        folders[split] = str(tokenize_split(files, identity, cache, weighted if split == "train" else limited))
    if replay := inputs.replay:
        identity = {"data": replay.data_key, "split": "train"}
        folders["replay"] = str(tokenize_split(replay.files, identity, cache, common))
    data, share = PackedSplit(str(folders["train"])), replay.fraction if replay else 0.0
    units = _privacy_units(config, data)
    num_samples = len(data) if units is None else units
    steps = num_steps(
        num_samples, config.train.global_batch_size, config.train.num_epochs, config.train.max_steps, share
    )
    privacy = None if units is None else _plan_privacy(config, units, steps)
    return {
        "config": config.resolved(),
        "run_dir": str(run_dir),
        "folders": folders,
        "replay_share": share,
        "tokenizer": str(tokenizer),
        "total_steps": steps,
        "resume_key": resume_key,
        "privacy": None if privacy is None else asdict(privacy),
        "counts": data.info | {"num_steps": steps},
    }


def _privacy_units(config: TrainConfig, data: Any) -> int | None:
    """Number of privacy units in the training split; None when training is not private."""
    from ftlib.train.units import PrivacyUnits

    if config.privacy is None:
        return None
    return len(PrivacyUnits(data, config.privacy.unit, config.privacy.max_records_per_subject))


def _plan_privacy(config: TrainConfig, num_units: int, steps: int) -> PrivacySettings:
    privacy = config.privacy
    assert privacy is not None
    planned = plan_privacy(
        privacy.epsilon,
        privacy.delta,
        num_units=num_units,
        batch_size=config.train.global_batch_size,
        steps=steps,
        accountant=privacy.accountant,
        max_grad_norm=privacy.max_grad_norm,
        unit=privacy.unit,
        max_records=privacy.max_records_per_subject,
        seed=privacy.seed,
    )
    logger.info(
        "private training of %d %ss: epsilon %g at delta %.2g over %d steps needs a noise multiplier of %.3f at "
        "sampling rate %.3g", num_units, privacy.unit, privacy.epsilon, planned.delta, steps,
        planned.noise_multiplier, planned.sample_rate,
    )  # fmt: skip
    return planned


def _fit(config: TrainConfig, work: dict[str, Any], on_eval: OnEval | None) -> dict[str, Any]:
    """Run the workers to the end; returns rank 0's outcome."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from ftlib.train.worker import train_worker

    # Each helper is a process to start, and one that wakes a hundred times a second. No Ray datasets go to the workers.
    # The cleaner outlives a lost driver: a job's own cluster does not, and has no dashboard that could answer it.
    unneeded = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if in_own_cluster() else set())

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [item for item in super()._create_default_callbacks() if type(item).__name__ not in unneeded]

    scaling = config.scaling
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1} if scaling.use_gpu else {})
    # Ray Train restores a run of the same name by itself; ours resume from their own checkpoints.
    storage = local_path(join(config.output.path, RAY))
    trainer = Trainer(
        train_worker,
        train_loop_config={"work": work, "on_eval": on_eval},
        scaling_config=ScalingConfig(
            num_workers=(scaling.min_workers, scaling.num_workers) if scaling.min_workers else scaling.num_workers,
            use_gpu=scaling.use_gpu,
            resources_per_worker=resources,
            accelerator_type=scaling.accelerator_type,
        ),
        run_config=RunConfig(
            name=f"{Path(work['run_dir']).name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=scaling.max_failures),
        ),
        torch_config=TorchConfig(backend="nccl" if scaling.use_gpu else "gloo"),
    )
    outcome: dict[str, Any] | None = trainer.fit().return_value
    if outcome is None:
        raise RuntimeError("the training workers ended without an outcome")
    if outcome["status"] == "error":
        raise UserError(outcome["message"])
    return outcome


def _facts(config: TrainConfig, inputs: RunInputs, work: dict[str, Any], outcome: dict[str, Any]) -> RunFacts:
    return RunFacts(
        run_id=Path(work["run_dir"]).name,
        status=outcome["status"],
        config=config.resolved(),
        counts=work["counts"],
        base_fingerprint=inputs.model_fingerprint,
        best=outcome.get("best"),
        last=outcome.get("metrics") if outcome["status"] == "diverged" else None,
    )


def _manifest(
    config: TrainConfig, inputs: RunInputs, work: dict[str, Any], outcome: dict[str, Any], *, key: str, started: float
) -> dict[str, Any]:
    from ftlib.models.fingerprint import chat_template_hash
    from ftlib.models.load import load_tokenizer

    run_dir = Path(work["run_dir"])
    result = ADAPTER if (run_dir / ADAPTER).exists() else MODEL
    contents = hash_files(run_dir / result)
    return build_manifest(
        KIND,
        key,
        config.resolved(),
        inputs={"data": inputs.data_key, "model": inputs.model_fingerprint},
        counts=work["counts"],
        files={f"{result}/{name}": digest for name, digest in contents.items()},
        parents=[join(config.data.path, MANIFEST)],
        started=started,
        base={
            "source": config.model.source,
            "revision": config.model.revision,
            "fingerprint": inputs.model_fingerprint,
            "chat_template": chat_template_hash(load_tokenizer(run_dir / result)),
        },
        run_id=run_dir.name,
        result=result,
        result_sha256=tree_sha256(contents),
        dataset={"path": config.data.path, "key": inputs.data_key},
        tokens=work["folders"],
        val_loss=outcome["val_loss"],
        metrics=outcome["metrics"],
        best=outcome["best"],
        num_steps=outcome["step"],
        stopped_early=outcome["status"] == "stopped",
        early_stopping=outcome["status"] == "early_stopped",
        privacy=PrivacySettings(**work["privacy"]).report(outcome["step"]) if work["privacy"] else None,
    )


def _finish(config: TrainConfig, inputs: RunInputs, run_dir: Path, manifest: dict[str, Any]) -> TrainResult:
    """Export what is wanted and not there yet, and write the manifest that says so."""
    if not (run_dir / MANIFEST).exists():
        write_manifest(str(run_dir), manifest)  # the result stands even if an export fails
    exported = with_exports(run_dir, manifest, inputs.model_folder, config.export.formats)
    if exported is not manifest:
        write_manifest(str(run_dir), exported)
    return _result(run_dir.name, run_dir, exported)


def _result(run_id: str, run_dir: Path, manifest: dict[str, Any]) -> TrainResult:
    return TrainResult(
        run_id=run_id,
        path=str(run_dir),
        manifest=str(run_dir / MANIFEST),
        val_loss=manifest["val_loss"],
        metrics=manifest["metrics"],
        stopped_early=manifest["stopped_early"],
    )
