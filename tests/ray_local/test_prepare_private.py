"""Preparation leaves no personal value in any file: values under keys, keys, labels, tool calls, a file's name."""

import json
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ftlib.config.loader import validate
from ftlib.config.prepare import PrepareConfig
from ftlib.data.prepare import prepare
from ftlib.data.prepared import open_prepared
from tests.ray_local.test_prepare import sentence, write_jsonl

CASE = Path(__file__).parents[2] / ".." / "shared" / "cases" / "data" / "05-metadata-without-its-key"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FTLIB_KEY", "0123456789abcdef")


def run(path, out, **sections):
    values = {
        "input": {"paths": [str(path)]},
        "output": {"path": str(out), "num_files": 2},
        "pii": {"profile": "fast", "residual_sample": None, "max_residual": 0.0},
        "execution": {"num_partitions": 2, "num_workers": 1},
    }
    return prepare(validate(PrepareConfig, values | sections))


def shown_by(folder):
    """Text of every file of a dataset, by name."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            parquet = path.suffix == ".parquet"
            yield path.name, str(pq.read_table(path).to_pylist()) if parquet else path.read_text("utf-8")


NAMED = "Petra_Brandstetter_536-22-8741.jsonl"
PRIVATE = ["Brandstetter", "Ranjit", "555-0148", "60-83-71", "Sonne2024x", "8084988", "firma-beispiel", "Petra",
           "536-22-8741", "jane.roe"]  # fmt: skip


def test_no_value_of_structure_label_or_file_name_is_in_any_file_of_a_dataset(ray_local, tmp_path):
    """Security: what stands in a label, a key, a tool's arguments or a file's name is nowhere in the output."""
    private = {
        "customer_name": "Brandstetter", "agent": "Ranjit Brandstetter", "phone": "555-0148", "sort_code": "60-83-71",
        "password": "Sonne2024x", "pin": 4711, "mrn": 8084988, "p@firma-beispiel.de": 3, "by_client": {"Petra Ott": 1},
    }  # fmt: skip
    rng = random.Random(5)
    rows = []
    for i in range(40):
        asked = {"role": "user", "content": f"{sentence(rng)}\n{json.dumps(private)}"}
        messages = [asked, {"role": "assistant", "content": sentence(rng)}]
        label = "Petra Brandstetter" if i % 2 else "billing"
        rows.append({"id": f"r{i}", "messages": messages, "label": label, "metadata": private})
    rows += [{**rows[0], "id": f"x{i}", "label": f"jane.roe{i}@example.com"} for i in range(2)]  # contradict each other
    rows.append({**rows[3], "id": "copy"})
    rows.append(b"{broken jane.roe@example.com")
    source = write_jsonl(tmp_path / "in" / NAMED, rows)
    result = run(source, tmp_path / "out")
    assert result["counts"]["num_out"] > 30
    for name, shown in shown_by(tmp_path / "out"):
        assert [value for value in PRIVATE if value in name + shown] == [], name
    table = open_prepared(str(tmp_path / "out")).table("train").to_pylist()
    labels = {row["label"] for row in table}
    assert len(labels) == 2 and "billing" in labels
    for row in table:
        assert "key_" in row["metadata"] and row["source"].endswith(".jsonl")
        shown = json.loads(row["messages"][0]["content"].split("\n")[1])
        assert shown["pin"] == "[REDACTED_PASSWORD]" and shown == json.loads(row["metadata"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["inputs"][0]["source"].startswith("source_")


def test_the_case_of_metadata_without_its_key(ray_local, tmp_path):
    """All nine values of the case are gone from every file, in both of its forms."""
    if not CASE.is_dir():
        pytest.skip("the shared cases are not here")
    (tmp_path / "in").mkdir()
    for file in CASE.glob("*.jsonl"):
        shutil.copy(file, tmp_path / "in" / file.name)
    run(tmp_path / "in", tmp_path / "out", split={"val_fraction": 0, "test_fraction": 0})
    private = ["Vogelsang", "Ranjit", "555-0132", "24103", "60-83-71", "4417", "Sonne2024x", "4711", "8084988",
               "anna@", "Hannah", "536-22-8741"]  # fmt: skip
    for name, shown in shown_by(tmp_path / "out"):
        hidden = shown.replace(str(tmp_path), "")
        assert [value for value in private if value in hidden and not value.isdigit()] == [], name
    for row in open_prepared(str(tmp_path / "out")).table("train").to_pylist():
        assert [value for value in private if value in row["text"] + row["metadata"]] == []
        assert not row["text"].startswith("{") or json.loads(row["text"])["pin"] == "[REDACTED_PASSWORD]"
