"""A prepared dataset written by hand, for tests of what comes after `jobs.prepare`."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ftlib.data.schema import RECORD
from ftlib.registry.manifest import build_manifest, hash_files, write_manifest
from tests.training_cases import conversations


def write_prepared(folder: Path, **splits: list[dict]) -> Path:
    """Write canonical records under `folder`, two files a split, with manifest and `_SUCCESS`."""
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        rows = [{"source": "test", "metadata": "{}"} | row for row in splits.get(split, [])]
        for part in range(2):
            table = pa.Table.from_pylist(rows[part::2], schema=RECORD)
            pq.write_table(table, folder / split / f"part-{part:05d}.parquet")
    counts = {"splits": {split: len(splits.get(split, [])) for split in ("train", "val", "test")}}
    write_manifest(str(folder), build_manifest("prepared", "hand", {}, counts=counts, files=hash_files(folder)))
    (folder / "_SUCCESS").write_text("")
    return folder


def small_prepared(folder: Path) -> Path:
    """Forty conversations to train on, nine to validate."""
    return write_prepared(folder, train=conversations(40), val=conversations(9, seed=1))
