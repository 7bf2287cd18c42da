"""Tables of many rows as folders of parts: the same rows in an order that matches, found by lineage and erasure."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ftlib.config.erase import EraseConfig
from ftlib.config.loader import validate
from ftlib.config.prepare import PrepareConfig
from ftlib.data.erase import erase
from ftlib.data.lineage import read_parquet, trace
from ftlib.data.prepare import prepare
from ftlib.data.prepared import open_prepared
from tests.ray_local.test_prepare import kept, messy, write_jsonl

TABLES = ("dropped.parquet", "redactions.parquet", "lineage.parquet", "quarantine.parquet")


@pytest.fixture(autouse=True)
def key(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_KEY", "0123456789abcdef")
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))


def run(path, out, rows_per_file, num_files=1, **sections):
    values = {
        "input": {"paths": [str(path)]},
        "output": {"path": str(out), "num_files": num_files, "rows_per_file": rows_per_file},
        "pii": {"profile": "none", "residual_sample": 0},
        "execution": {"num_partitions": 2, "num_workers": 1},
    }
    return prepare(validate(PrepareConfig, values | sections))


def test_tables_of_many_rows_are_folders_that_read_as_one_table(ray_local, tmp_path):
    rows = [row for row in messy(random.Random(4)) if isinstance(row, dict)]
    for number, row in enumerate(rows):
        row["subject"] = f"s{number % 9}"
        row["input"] = f"{row['input']} mail{number}@example.com" if isinstance(row.get("input"), str) else None
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    config = {"pii": {"profile": "fast", "residual_sample": 0}, "filter": {"label_conflicts": "keep"}}
    run(path, tmp_path / "one", 1000, **config)
    run(path, tmp_path / "many", 10, **config)
    run(path, f"local://{tmp_path}/remote", 10, **config)
    assert kept(tmp_path / "many") == kept(tmp_path / "one")
    for name in TABLES:
        assert (tmp_path / "one" / name).is_file()
        tables = [pq.read_table(tmp_path / out / name).to_pylist() for out in ("one", "many", "remote")]
        assert sorted(map(str, tables[0])) == sorted(map(str, tables[1])) and tables[1] == tables[2]
        assert read_parquet(f"local://{tmp_path}/remote/{name}").to_pylist() == tables[1]
    largest = max(pq.read_metadata(file).num_rows for file in (tmp_path / "many").glob("*/part-*.parquet"))
    assert (tmp_path / "many" / "lineage.parquet").is_dir() and largest < 2 * 10
    files = open_prepared(str(tmp_path / "many")).manifest["files"]
    assert sorted(files) == sorted(
        str(file.relative_to(tmp_path / "many"))
        for file in (tmp_path / "many").rglob("*")
        if file.is_file() and file.name not in ("manifest.json", "_SUCCESS")
    )

    # The n-th dropped row of the lineage is the n-th of the drops, and redactions come in the same order.
    lineage, dropped, redactions = (
        pq.read_table(tmp_path / "many" / name).to_pylist()
        for name in ("lineage.parquet", "dropped.parquet", "redactions.parquet")
    )
    assert [row["id"] for row in lineage if row["place"] == "dropped"] == [row["id"] for row in dropped]
    expected = [row["id"] for row in lineage for _ in range(row["num_redactions"])]
    assert [row["id"] for row in redactions] == expected
    for id_ in {row["id"] for row in lineage}:
        assert trace(str(tmp_path / "many"), id_) == trace(str(tmp_path / "one"), id_)

    new = {}
    for out in ("one", "many"):
        result = erase(validate(EraseConfig, {"search": {"paths": [str(tmp_path / out)]}, "subject": "s3"}))
        new[out] = Path(result["datasets"][0]["new_path"])
    assert kept(new["one"]) == kept(new["many"]) != kept(tmp_path / "one")
    for name in TABLES:
        one, many = (pq.read_table(new[out] / name).to_pylist() for out in ("one", "many"))
        assert sorted(map(str, one)) == sorted(map(str, many))


def test_many_rows_for_review_are_several_files(ray_local, tmp_path):
    rows = [{"id": f"r{n}", "input": "the very same question is asked", "output": f"answer {n}"} for n in range(30)]
    rows += [{"id": "good", "input": "another question that has one answer", "output": "this is the answer"}]
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    run(path, tmp_path / "out", 10)
    files = sorted((tmp_path / "out" / "review.jsonl").iterdir())
    held = [[json.loads(line)["data"]["id"] for line in file.read_text().splitlines()] for file in files]
    assert [file.name for file in files] == [f"part-{part:05d}.jsonl" for part in range(3)]
    assert sorted(id_ for part in held for id_ in part) == sorted(f"r{n}" for n in range(30))
    assert all(part == sorted(part) for part in held)
