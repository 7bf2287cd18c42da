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
from tests.ray_local.test_prepare import contents, corpus, kept, messy, write_jsonl

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


def cut_finely(monkeypatch):
    """As many rows would be: several ranges of row keys, and nothing done in one task because there is little of it."""
    monkeypatch.setattr("ftlib.data.flow._ROWS_PER_PARTITION", 20)
    monkeypatch.setattr("ftlib.data.flow.ROWS_PER_SAMPLE", 20)
    monkeypatch.setattr("ftlib.data.split_tasks.ROWS_AT_ONCE", 0)
    monkeypatch.setattr("ftlib.data.connect.EDGES_AT_ONCE", 0)


@pytest.mark.parametrize("options", ["plain", "all"])
def test_ranges_and_partitions_change_no_byte(ray_local, tmp_path, monkeypatch, options):
    monkeypatch.setattr("ftlib.registry.manifest.code_version", lambda: "code")
    rows = messy(random.Random(4)) + corpus(random.Random(5), 25)
    config = {}
    if options == "all":
        for number, row in enumerate(row for row in rows if isinstance(row, dict)):
            row["metadata"] = {"date": f"20{10 + number % 15}-03-0{1 + number % 9}", "team": f"t{number % 31}"}
            row.setdefault("label", f"l{number % 3}")
        known = write_jsonl(tmp_path / "known.jsonl", [{"text": rows[-1]["text"]}, {"text": rows[-5]["text"]}])
        config = {
            "dedup": {"action": "weight", "against": [str(known)]},
            "filter": {"max_age_days": 4500, "date_field": "date", "reference_date": "2024-03-01"},
            "split": {"by_time": "date", "group_column": "team", "test_fraction": 0.2},
            "decontaminate": {"paths": [str(known)], "against_test": True, "ngram": 8},
            "mix": {"balance": "inverse_frequency", "weights": {"l1": 3}},
        }
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    coarse = run(path, tmp_path / "coarse", 1000, **config)
    assert coarse["counts"]["num_out"] > 50
    cut_finely(monkeypatch)
    for out, execution in (
        ("fine", {"num_partitions": 5, "num_workers": 1, "rows_per_block": 3}),
        ("finer", {"num_partitions": 3, "num_workers": 2, "rows_per_block": 17}),
    ):
        run(path, tmp_path / out, 1000, execution=execution, **config)
        assert contents(tmp_path / out) == contents(tmp_path / "coarse")
