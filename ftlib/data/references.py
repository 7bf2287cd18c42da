"""Files beside the input: a corpus to deduplicate against, benchmarks to keep out of train, replay to record.

They are found and fingerprinted before any work, like the input. The corpus is read by tasks under ranks that follow
the input's, so that its rows have keys of their own; benchmarks are small and are read by the driver.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ftlib.config.prepare import PrepareConfig, ReplayConfig
from ftlib.core.errors import UserError
from ftlib.core.storage import exists, join
from ftlib.data import schema as s
from ftlib.data.inputs import InputFile, find_inputs
from ftlib.data.overlap import NOTHING, Overlap, overlap_of
from ftlib.data.plan import plan_reads
from ftlib.data.read import ReadSettings, read_records
from ftlib.data.rows import ReadTask
from ftlib.data.sign import spoken
from ftlib.registry.manifest import MANIFEST, read_manifest

_ROWS_PER_TABLE = 2048


@dataclass(frozen=True)
class References:
    """What a run needs besides its input."""

    corpus: list[ReadTask] = field(default_factory=list)
    """Tasks of `dedup.against`, with the ranks after the input's."""
    first_row: int = 0
    """Row keys of the corpus begin here."""
    benchmarks: Overlap = NOTHING
    """Hashes of `decontaminate.paths`."""


def find_references(config: PrepareConfig) -> dict[str, list[InputFile]]:
    """The files of every key that names some; raises UserError for what is missing."""
    named = {
        "dedup.against": config.dedup.against,
        "decontaminate.paths": config.decontaminate.paths,
    }
    return {key: _find(key, paths) for key, paths in named.items() if paths}


def describe_replay(replay: ReplayConfig) -> list[dict[str, Any]]:
    """What the manifest records of the replay source: a prepared dataset's key, or its files."""
    if exists(join(replay.path, MANIFEST)):
        return [{"source": replay.path.rstrip("/").rsplit("/", 1)[-1], "key": read_manifest(replay.path)["key"]}]
    return [file.describe() for file in _find("mix.replay.path", [replay.path])]


def load_references(
    config: PrepareConfig, files: dict[str, list[InputFile]], inputs: Sequence[InputFile], key: bytes
) -> References:
    """Plan the corpus's tasks and read the benchmarks."""
    rank = 1 + max(file.rank for file in inputs)
    corpus = [
        replace(task, rank=task.rank + rank)
        for task in _plan("dedup.against", files.get("dedup.against", []), config, key)
    ]
    settings = ReadSettings(config.input, key, _ROWS_PER_TABLE, False)
    benchmarks = NOTHING
    for task in _plan("decontaminate.paths", files.get("decontaminate.paths", []), config, key):
        for table in read_records(task, settings):
            records = [spoken(record) for record in table.to_pylist() if record[s.ERROR] is None]
            benchmarks = benchmarks.merge(overlap_of(records, config.decontaminate.ngram, key))
    return References(corpus, rank << s.ROW_POSITION_BITS, benchmarks)


def _find(key: str, paths: Sequence[str]) -> list[InputFile]:
    try:
        return find_inputs(paths)
    except UserError as error:
        raise _renamed(error, key) from error


def _plan(name: str, files: Sequence[InputFile], config: PrepareConfig, key: bytes) -> list[ReadTask]:
    try:
        return plan_reads(files, config.input, key) if files else []
    except UserError as error:
        raise _renamed(error, name) from error


def _renamed(error: UserError, key: str) -> UserError:
    """The reader's message with the key that named the file."""
    return UserError(str(error).replace("input.paths", key))
