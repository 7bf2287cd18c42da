"""Erasure and review with real prepared data: found everywhere, gone from the new version; answers come back."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ftlib.config.erase import EraseConfig
from ftlib.config.loader import validate
from ftlib.config.prepare import PrepareConfig
from ftlib.core.errors import UserError
from ftlib.data.erase import erase
from ftlib.data.lineage import trace
from ftlib.data.prepare import prepare
from ftlib.data.prepared import open_prepared
from ftlib.registry.manifest import build_manifest, write_manifest
from tests.prepared_case import everything_in

PERSON = "K-1017"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_KEY", "0123456789abcdef")
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("ftlib.registry.manifest.code_version", lambda: "code")


def run(path, output, rows=None, **sections):
    if rows is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "input": {"paths": [str(path)]},
        "output": {"path": str(output), "num_files": 2},
        "pii": {"profile": "none"},
        "execution": {"num_partitions": 2, "num_workers": 1},
        **sections,
    }
    return prepare(validate(PrepareConfig, values))


def kept_rows(path):
    """All rows of the three splits, in the order of the files."""
    dataset = open_prepared(str(path))
    return [row for split in ("train", "val", "test") for row in dataset.table(split).to_pylist()]


def words(rng, who, count=12):
    """Words that only one person uses."""
    return " ".join(who + "".join(rng.choices("bcdfghjklmnp", k=6)) for _ in range(count))


def rows_of(rng, who, subject, count):
    """Kept rows, a copy, a near copy, a contradiction, a short row and a broken one of one subject."""

    def ask(n, **more):
        return {"id": f"{who}-{n}", "input": words(rng, who), "output": words(rng, who, 4), "subject": subject, **more}

    kept = [ask(n) for n in range(count)]
    near = {**kept[0], "id": f"{who}-near", "input": f"{who}once {kept[0]['input']}"}
    clash = ask("clash")
    return [
        *kept,
        {**kept[0], "id": f"{who}-copy"},
        near,
        clash,
        {**clash, "id": f"{who}-clash2", "output": words(rng, who, 5)},
        ask("short", input=f"{who}a", output=f"{who}b") | {"input": f"{who}a", "output": ""},
        {"id": f"{who}-tiny", "input": f"{who}t", "output": "x", "subject": subject},
    ]


def test_a_subject_is_found_everywhere_and_gone_from_the_new_versions(ray_local, tmp_path):
    folders = []
    for number in range(3):
        rng = random.Random(number)
        rows = rows_of(rng, "secret", PERSON, 3) + rows_of(rng, "other", "K-2", 8) + rows_of(rng, "third", None, 6)
        rng.shuffle(rows)
        folders.append(tmp_path / "data" / f"set{number}")
        run(tmp_path / "raw" / f"{number}.jsonl", folders[-1], rows, quarantine={"keep_raw": True})
        assert "secret" in everything_in(folders[-1])
    clean = tmp_path / "data" / "clean"
    run(tmp_path / "raw" / "clean.jsonl", clean, rows_of(random.Random(9), "other", "K-2", 8))
    for name, data in (("one", folders[0]), ("two", folders[1]), ("clean", clean)):
        manifest = build_manifest(
            "run", name, {}, parents=[str(data / "manifest.json")], result_sha256=name * 8,
            dataset={"path": str(data), "key": open_prepared(str(data)).training_key},
        )  # fmt: skip
        write_manifest(str(tmp_path / "runs" / name), manifest)
    served = {"base": {"source": "m"}, "adapters": [{"name": "t", "path": "/elsewhere", "sha256": "two" * 8}]}
    app = tmp_path / "home" / "deployments" / "app"
    write_manifest(str(app), build_manifest("deployment", "d", {}, inputs=served))

    search = {"paths": [str(tmp_path / "data"), str(tmp_path / "runs")]}
    result = erase(validate(EraseConfig, {"subject": PERSON, "search": search}))
    assert [entry["path"] for entry in result["datasets"]] == [str(folder) for folder in folders]
    assert all(entry["num_rows"] == 9 for entry in result["datasets"])
    assert result["runs"] == [str(tmp_path / "runs" / name) for name in ("one", "two")]
    assert [item["app"] for item in result["deployments"]] == ["app"]
    assert result["must"]["erase_at_source"] == [str(tmp_path / "raw" / f"{n}.jsonl") for n in range(3)]
    for entry, old in zip(result["datasets"], folders, strict=True):
        assert set(entry["places"]) >= {"dropped", "quarantine"}
        new = open_prepared(entry["new_path"])
        assert "secret" not in everything_in(Path(entry["new_path"]))
        before, after = open_prepared(str(old)).manifest["counts"], new.manifest["counts"]
        assert before["num_in"] - after["num_in"] == 9
        assert after["num_in"] == after["num_out"] + after["num_dropped"] + after["num_quarantined"]
        assert kept_rows(entry["new_path"]) == [row for row in kept_rows(old) if "secret" not in str(row)]
        assert new.manifest["files"].keys() == open_prepared(str(old)).manifest["files"].keys()
    assert "secret" not in everything_in(Path(result["path"]))


def test_every_row_can_be_traced_to_its_place_in_the_input(ray_local, tmp_path):
    rows = rows_of(random.Random(1), "ann", "A", 6)
    path, out = tmp_path / "raw.jsonl", tmp_path / "out"
    run(path, out, rows)
    raw = path.read_bytes()
    lineage = pq.read_table(out / "lineage.parquet").to_pylist()
    assert len(lineage) == len(rows)
    for row in lineage:
        said = json.loads(raw[row["position"] :].split(b"\n", 1)[0])
        assert row["place"] == "quarantine" or said["id"] == row["id"]
        fate = trace(str(out), row["id"])["rows"][0]
        assert fate["place"] == row["place"] and fate["subject"] is not None
    assert trace(str(out), "ann-copy")["rows"][0]["keeper_id"] == "ann-0"
    assert {row["id"] for row in trace(str(out), "ann-0")["duplicates"]} == {"ann-copy", "ann-near"}
    (broken,) = (row for row in lineage if row["place"] == "quarantine")
    assert trace(str(out), broken["id"])["rows"][0]["error"] == "empty_answer"


def questions(rng):
    """Ten questions with two answers each, and enough rows that nobody contradicts."""
    rows = []
    for n in range(10):
        asked = words(rng, "ask")
        rows += [
            {"id": f"q{n}{side}", "input": asked, "output": words(rng, "say", 6), "label": f"label{side}"}
            for side in "ab"
        ]
    return rows + [{"id": f"g{n}", "input": words(rng, "ask"), "output": words(rng, "say", 6)} for n in range(20)]


def decide(task, number):
    """As an annotator would: accept, edit the answer, edit the label, reject in turn; a Label Studio export."""
    regions, (answer, label) = [], (region["value"]["text"][0] for region in task["predictions"][0]["result"])
    verdict = ("accept", "edit", "edit", "reject")[number % 4]
    answer = "ask bob@example.com or nobody at all" if number % 4 == 1 else answer
    label = "relabelled" if number % 4 == 2 else label
    regions.append({"from_name": "decision", "to_name": "record", "type": "choices", "value": {"choices": [verdict]}})
    for name, text in (("answer", answer), ("label", label)):
        regions.append({"from_name": name, "to_name": "record", "type": "textarea", "value": {"text": [text]}})
    return {"id": 1000 + number, **task, "annotations": [{"result": regions, "was_cancelled": False}]}


def test_twenty_decisions_come_back_as_decided(ray_local, tmp_path):
    rows = questions(random.Random(2))
    path, out = tmp_path / "raw.jsonl", tmp_path / "out"
    pii = {"profile": "fast", "ner_model": "none", "residual_sample": 0}
    first = run(path, out, rows, pii=pii, filter={"min_tokens": 10})
    tasks = [json.loads(line) for line in (out / "review.jsonl").read_text().splitlines()]
    assert first["counts"]["dropped"] == {"review/label_conflict": 20} and len(tasks) == 20
    export = tmp_path / "export.json"
    export.write_text(json.dumps([decide(task, number) for number, task in enumerate(tasks)]))
    review = {"decisions": str(export)}
    second = run(path, out, pii=pii, review=review, filter={"min_tokens": 10})
    assert second["counts"]["dropped"] == {"review/rejected": 5}
    assert second["counts"]["num_out"] == first["counts"]["num_out"] + 15
    assert (out / "review.jsonl").read_text() == ""
    kept = {row["id"]: row for row in kept_rows(out)}
    raw = {row["id"]: row for row in rows}
    for number, task in enumerate(tasks):
        id_ = task["data"]["id"]
        if number % 4 == 3:
            assert id_ not in kept and trace(str(out), id_)["rows"][0]["reason"] == "rejected"
            continue
        answer, label = kept[id_]["messages"][-1]["content"], kept[id_]["label"]
        if number % 4 == 1:
            assert answer.startswith("ask [REDACTED_") and "bob@" not in answer
        else:
            assert answer == raw[id_]["output"]
        assert label == ("relabelled" if number % 4 == 2 else raw[id_]["label"])
    splits = {row["id"]: row["place"] for row in pq.read_table(out / "lineage.parquet").to_pylist()}
    for n in range(10):  # both answers to a question are on one side
        places = {splits[f"q{n}{side}"] for side in "ab"} - {"dropped"}
        assert len(places) <= 1
    manifest = open_prepared(str(out)).manifest
    assert [item["source"] for item in manifest["inputs"]] == ["raw.jsonl", "review.decisions"]
    assert run(path, out, pii=pii, review=review, filter={"min_tokens": 10})["reused"] is True

    export.write_text('{"id": "q0a", "decision": "accept"}\n{"id": "g1", "decision": "reject"}\n')
    with pytest.raises(UserError, match=r"1 ids are not among the rows held for review: g1"):
        run(path, out, pii=pii, review=review)
    export.write_text('{"id": "q0a", "decision": "accept"}\n')
    third = run(path, out, pii=pii, review=review)
    assert third["counts"]["dropped"] == {"review/label_conflict": 19} and third["reused"] is False
