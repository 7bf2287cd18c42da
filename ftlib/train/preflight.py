"""What is checked before anything starts: the data is prepared, the model whole, and both fit the configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.config.train import TrainConfig, TrainReplayConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.core.logging import get_logger
from ftlib.core.storage import exists, join
from ftlib.train.budget import check_installed
from ftlib.train.continued import adopt_adapter
from ftlib.train.export import check_formats

logger = get_logger(__name__)


@dataclass(frozen=True)
class RunInputs:
    """What a run is made from."""

    files: dict[str, list[str]]
    """Parquet files of `train`, and of `val` when it has rows."""
    data_key: str
    """Hash of the files of its splits."""
    model_folder: Path
    model_fingerprint: str
    adapter_sha256: str | None = None
    """Content of the adapter that training goes on from."""
    replay: "Replay | None" = None


@dataclass(frozen=True)
class Replay:
    """General data to mix in."""

    files: list[str]
    data_key: str
    fraction: float


def check_run(config: TrainConfig) -> RunInputs:
    """Find data and model; raises UserError for whatever would fail later. Needs no cluster."""
    from ftlib.data.prepared import open_prepared
    from ftlib.models.fingerprint import model_fingerprint
    from ftlib.models.source import resolve_source

    if config.privacy is not None:
        check_installed()
    prepared = open_prepared(config.data.path)
    counts = {split: prepared.num_rows(split) for split in ("train", "val")}
    if not counts["train"]:
        raise UserError(f"data.path={config.data.path}: its train split is empty")
    folder = resolve_source(config.model.source, config.model.revision)
    config = adopt_adapter(config)
    replay = _find_replay(config)
    files = {split: prepared.files(split) for split, count in counts.items() if count}
    _check_model(config, folder)
    if not has_chat_template(folder):
        splits = [*files.values(), replay.files if replay else []]
        _check_text_alone(config, folder, [file for split in splits for file in split])
    adapter = config.method.adapter
    if config.export.formats:
        check_formats(config.export.formats, folder, folder, whole=config.method.kind == "full")
    _check_memory(config, folder)
    return RunInputs(
        files=files,
        data_key=prepared.training_key,
        model_folder=folder,
        model_fingerprint=model_fingerprint(folder),
        adapter_sha256=folder_sha256(Path(adapter)) if adapter else None,
        replay=replay,
    )


def _find_replay(config: TrainConfig) -> Replay | None:
    """What `data.replay` names, else what preparing the dataset recorded (which private training leaves out)."""
    from ftlib.data.prepared import SUCCESS, open_prepared
    from ftlib.registry.manifest import read_manifest

    replay = config.data.replay
    if replay is None:
        manifest = read_manifest(config.data.path, "prepared")
        recorded = _recorded_replay(manifest.get("config"))
        if not recorded or config.objective.kind != "sft" or config.privacy is not None:
            return None
        # Where it lay is no part of what the dataset is: it stands beside the settings that count.
        path = {**recorded, **_recorded_replay(manifest.get("timing", {}).get("config"))}.get("path")
        if not path or not exists(join(path, SUCCESS)):
            raise UserError(
                f"data.path={config.data.path} recorded mix.replay from {path or 'a place that it does not tell'}, "
                "which is not a prepared dataset: prepare it with jobs.prepare and name the result in data.replay.path"
            )
        replay = TrainReplayConfig(path=path, fraction=recorded["fraction"])
    if config.objective.kind != "sft":
        raise UserError(f"data.replay mixes answers into objective.kind sft only, not {config.objective.kind}")
    prepared = open_prepared(replay.path)
    if not prepared.num_rows("train"):
        raise UserError(f"data.replay.path={replay.path}: its train split is empty")
    return Replay(prepared.files("train"), prepared.training_key, replay.fraction)


def _recorded_replay(config: dict[str, Any] | None) -> dict[str, Any]:
    return ((config or {}).get("mix") or {}).get("replay") or {}


def _check_model(config: TrainConfig, folder: Path) -> None:
    from ftlib.models.adapt import largest_rank
    from ftlib.models.source import read_config

    model = read_config(folder)
    model = model.get("text_config", model)
    longest = model.get("max_position_embeddings")
    if longest and config.train.max_seq_len > longest:
        raise UserError(f"train.max_seq_len {config.train.max_seq_len} is above the model's limit of {longest} tokens")
    if (
        config.method.kind != "full"
        and config.method.adapter is None
        and config.method.rank > (limit := largest_rank(folder))
    ):
        raise UserError(
            f"method.rank {config.method.rank} is above the size of the model's smallest layer; at most {limit}"
        )
    if config.method.new_tokens:
        from ftlib.models.load import load_tokenizer
        from ftlib.models.vocabulary import grow_tokenizer

        grow_tokenizer(load_tokenizer(folder), config.method.new_tokens)
    if config.method.kind == "qlora" and not config.scaling.use_gpu:
        raise UserError("method.kind qlora needs GPUs (scaling.use_gpu true); on CPUs use lora")
    if config.method.kind == "qlora" and config.parallel.strategy == "deepspeed" and config.parallel.zero_stage == 3:
        raise UserError("method.kind qlora does not shard its 4-bit weights: use parallel.zero_stage 1 or 2")


def _check_text_alone(config: TrainConfig, folder: Path, files: list[str]) -> None:
    """Raise UserError unless all records are plain text, which alone needs no chat template."""
    if config.objective.kind == "sft" and all(map(_is_text_alone, files)):
        logger.info("the model has no chat template and needs none: all records are plain text")
        return
    raise UserError(
        f"model folder {folder}: its tokenizer has no chat template, and the records are conversations (plain text "
        "needs none). Take an instruction-tuned model, or put a chat_template.jinja into the folder"
    )


def _is_text_alone(file: str) -> bool:
    """Whether no record of a Parquet file is a conversation: told by its footer where that counts the nulls."""
    import pyarrow.parquet as pq

    from ftlib.core.storage import filesystem
    from ftlib.data.schema import TEXT

    fs, inner = filesystem(file)
    with fs.open(inner, "rb") as opened:
        parquet = pq.ParquetFile(opened)
        leaves = [parquet.metadata.schema.column(i).path for i in range(parquet.metadata.num_columns)]
        column = leaves.index(TEXT)
        groups = [parquet.metadata.row_group(i).column(column) for i in range(parquet.metadata.num_row_groups)]
        if all(group.is_stats_set and group.statistics.has_null_count for group in groups):
            return all(group.statistics.null_count == 0 for group in groups)
        return int(parquet.read([TEXT])[TEXT].null_count) == 0


def _check_memory(config: TrainConfig, folder: Path) -> None:
    """Compare the memory plan with the device; models of a shape that cannot be planned are let pass."""
    from ftlib.models.source import read_config
    from ftlib.train.fit import check_fit
    from ftlib.train.plan import ModelShape

    try:
        shape = ModelShape.from_config(read_config(folder))
    except UserError as error:
        logger.info("memory is not checked: %s", error)
        return
    check_fit(config, shape)


def has_chat_template(folder: Path) -> bool:
    """Whether a model folder brings a chat template, read from its files alone."""
    from ftlib.core.storage import read_json

    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    path = folder / "tokenizer_config.json"
    return path.exists() and bool(read_json(str(path)).get("chat_template"))


def check_resources(config: TrainConfig) -> None:
    """Warn when the connected cluster is too small; not an error, because a cluster may grow."""
    import ray

    scaling, have = config.scaling, ray.cluster_resources()
    for name, needed in (("CPU", scaling.cpus_per_worker), ("GPU", float(scaling.use_gpu))):
        if scaling.num_workers * needed > have.get(name, 0):
            logger.warning(
                "%d workers need %g %ss and the cluster has %g: they wait until it grows",
                scaling.num_workers, scaling.num_workers * needed, name, have.get(name, 0),
            )  # fmt: skip
