"""One person under twelve spellings and storage types: found and gone from every place, nobody else's rows touched."""

import csv
import decimal
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftlib.config.erase import EraseConfig
from ftlib.config.loader import load_config, validate
from ftlib.config.prepare import PrepareConfig
from ftlib.data.erase import erase
from ftlib.data.prepare import prepare
from ftlib.data.prepared import open_prepared
from tests.prepared_case import everything_in

PERSON, OTHER = 4711, 4712
DICTIONARY = pa.dictionary(pa.int8(), pa.string())
FILES = [  # (file, Arrow type of the subject column or None, how the key stands there)
    ("int.jsonl", None, int),
    ("float.jsonl", None, float),
    ("blanks.jsonl", None, lambda key: f" {key}\t"),
    ("point.jsonl", None, lambda key: f"{key}.0"),
    ("text.csv", None, str),
    ("blanks.csv", None, lambda key: f"  {key} "),
    ("point.csv", None, lambda key: f"{key}.00"),
    ("int.parquet", pa.int64(), int),
    ("float.parquet", pa.float64(), float),
    ("text.parquet", pa.string(), str),
    ("dictionary.parquet", DICTIONARY, str),
    ("decimal.parquet", pa.decimal128(10, 2), decimal.Decimal),
]
TYPED = ["4711", "4711.0", " 4711", "4711 ", "4711.00", "\t4711"]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_KEY", "0123456789abcdef")
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))


def words(rng, who, count=12):
    """Words that only one person uses."""
    return " ".join(who + "".join(rng.choices("bcdfghjklmnp", k=7)) for _ in range(count))


def rows_of(rng, who, key):
    """Rows that are kept, copied, contradicted, too short, broken, and one with personal data."""
    kept = [{"input": words(rng, who), "output": words(rng, who, 5), "subject": key} for _ in range(3)]
    clash = {"input": words(rng, who), "output": words(rng, who, 5), "subject": key}
    return [
        *kept,
        {**kept[0]},
        clash,
        {**clash, "output": words(rng, who, 6)},
        {"input": f"{who}a", "output": f"{who}b", "subject": key},
        {"input": words(rng, who), "output": "", "subject": key},
        {"input": f"{words(rng, who)} write to {who}@example.com", "output": words(rng, who, 5), "subject": key},
    ]


def write(path, kind, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        columns = {name: pa.array([row[name] for row in rows]) for name in ("input", "output")}
        pq.write_table(pa.table({**columns, "subject": pa.array([row["subject"] for row in rows], kind)}), path)


@pytest.fixture(scope="module")
def prepared(ray_local, tmp_path_factory):
    """Twelve files of two people and of nobody, prepared with raw bytes kept."""
    folder, rng = tmp_path_factory.mktemp("matrix"), random.Random(3)
    (folder / "raw").mkdir()
    for name, kind, form in FILES:
        rows = [
            *rows_of(rng, "secret", form(PERSON)),
            *rows_of(rng, "other", form(OTHER)),
            *rows_of(rng, "nobody", None),
        ]
        rng.shuffle(rows)
        write(folder / "raw" / name, kind, rows)
    values = {
        "input": {"paths": [str(folder / "raw")]},
        "output": {"path": str(folder / "data"), "num_files": 2},
        "pii": {"profile": "fast", "residual_sample": 0},
        "quarantine": {"keep_raw": True},
        "filter": {"min_tokens": 6},
        "execution": {"num_partitions": 2, "num_workers": 1},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTLIB_KEY", "0123456789abcdef")
        patch.setenv("FTLIB_HOME", str(folder / "home"))
        prepare(validate(PrepareConfig, values))
    return folder


def rows_in(path):
    dataset = open_prepared(str(path))
    return {split: dataset.table(split).to_pylist() for split in ("train", "val", "test")}


def lines_without(path, name, who):
    """The rows of a table that are not the person's, as they stand."""
    lineage = pq.read_table(path / "lineage.parquet").to_pylist()
    theirs = {(row["source"], row["position"]) for row in lineage if row["subject"] in who}
    ids = {row["id"] for row in lineage if row["subject"] in who}
    return [
        row
        for row in pq.read_table(path / name).to_pylist()
        if (row["id"] not in ids if "id" in row else (row["source"], row["position"]) not in theirs)
    ]


def test_one_person_is_on_one_side_of_the_split(prepared):
    lineage = pq.read_table(prepared / "data" / "lineage.parquet").to_pylist()
    counts = {}
    for row in lineage:
        if row["subject"]:
            counts.setdefault(row["subject"], []).append(row)
    assert sorted(len(rows) for rows in counts.values()) == [9 * len(FILES)] * 2
    for rows in counts.values():
        assert len({row["place"] for row in rows} & {"train", "val", "test"}) == 1
        assert {row["place"] for row in rows} >= {"dropped", "quarantine"}


@pytest.mark.parametrize("typed", TYPED)
def test_found_and_gone_everywhere_and_nobody_else_touched(prepared, tmp_path, typed):
    old = prepared / "data"
    words_ = [f"subject={typed}", f"search.paths=[{old}]", f"output.path={tmp_path}"]
    result = erase(load_config(EraseConfig, None, words_))
    (entry,) = result["datasets"]
    assert entry["num_rows"] == 9 * len(FILES) and result["near"] == []
    new = tmp_path / entry["new_path"]
    assert "secret" in everything_in(old) and "secret" not in everything_in(new)
    assert "other" in everything_in(new) and "nobody" in everything_in(new)
    assert "secret" not in everything_in(tmp_path / result["path"])
    before = rows_in(old)
    assert rows_in(new) == {
        split: [row for row in rows if "secret" not in json.dumps(row)] for split, rows in before.items()
    }
    who = set(result["subjects"])
    for name in ("redactions.parquet", "quarantine.parquet", "lineage.parquet"):
        assert pq.read_table(new / name).to_pylist() == lines_without(old, name, who)
    kept = [row | {"keeper_id": None} for row in lines_without(old, "dropped.parquet", who)]
    assert [row | {"keeper_id": None} for row in pq.read_table(new / "dropped.parquet").to_pylist()] == kept
    reviews = [line for line in (old / "review.jsonl").read_text().splitlines() if "secret" not in line]
    assert (new / "review.jsonl").read_text().splitlines() == reviews and reviews
