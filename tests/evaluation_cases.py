"""A small prepared dataset written by hand, so that evaluation is tested without the data plane."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ftlib.data.schema import RECORD
from ftlib.registry.manifest import build_manifest, hash_files, write_manifest

PATTERN = r"category=(?P<category>\w+) priority=(?P<priority>\w+)"
_CATEGORIES = ("billing", "shipping", "account")


def _record(split: str, i: int) -> dict:
    category = _CATEGORIES[i % 3]
    messages = [
        {"role": "system", "content": "Triage the ticket."},
        {"role": "user", "content": f"Ticket {i} about {category}." + " It is late." * (i % 5)},
        {"role": "assistant", "content": f"category={category} priority=p{i % 2}"},
    ]
    return {
        "id": f"{split}-{i:03d}", "source": "hand", "messages": messages, "text": None, "rejected": None,
        "label": category, "weight": 1.0, "subject": None, "metadata": "{}",
    }  # fmt: skip


def write_prepared(folder: Path, num_test: int = 12) -> Path:
    """A finished prepared dataset of `num_test` test rows and a few others."""
    counts = {"train": 9, "val": 3, "test": num_test}
    for split, num_rows in counts.items():
        (folder / split).mkdir(parents=True)
        table = pa.Table.from_pylist([_record(split, i) for i in range(num_rows)], schema=RECORD)
        pq.write_table(table, folder / split / "part-0000.parquet")
    manifest = build_manifest(
        "prepared", f"by-hand-{num_test}", {}, counts={"splits": counts}, files=hash_files(folder)
    )
    write_manifest(str(folder), manifest)
    (folder / "_SUCCESS").touch()
    return folder
