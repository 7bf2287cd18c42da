"""Erasure on data written by hand: what is found, what is gone, what must follow, and what a mistake says."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ftlib.config.erase import EraseConfig
from ftlib.config.loader import validate
from ftlib.core.errors import UserError
from ftlib.data.erase import erase
from ftlib.data.lineage import trace
from ftlib.data.prepared import open_prepared
from ftlib.registry.derived import Origins, affected_versions, roll_backs
from ftlib.registry.manifest import build_manifest, write_manifest
from ftlib.registry.search import Found
from ftlib.runtime.job import job_main
from jobs.erase import run as job
from tests.prepared_case import KEY, everything_in, hashed, row, write_case


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_KEY", KEY.decode())
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))


def said(who, n):
    """Words of one person that nobody else says."""
    return f"{who}word{n} {who}story{n} told"


def rows_of(who, start=0):
    """A row of every fate."""
    review = {"stage": "review", "reason": "label_conflict"}
    fates = [
        ("train", {"findings": ["PERSON"]}),
        ("val", {}),
        ("test", {"findings": ["URL", "URL"]}),
        ("dropped", {"stage": "filter", "reason": "too_short", "findings": ["PERSON"]}),
        ("dropped", review),
        ("quarantine", {"error": "empty_answer", "raw": f"{{subject: {who}}}".encode()}),
    ]
    return [
        row(f"{who}{n}", start + n, place, who, words=said(who, n), **more) for n, (place, more) in enumerate(fates)
    ]


def rows_of_both():
    near = {"stage": "dedup", "reason": "near_duplicate", "score": 0.9}
    return [
        *rows_of("ann"),
        *rows_of("bob", 100),
        row("shared", 200, "train", "ann", words=said("ann", 200), findings=["PERSON"] * 3),
        row("shared", 201, "train", "bob", words=said("bob", 201), findings=["URL"]),
        row("copy", 210, "train", None, words=said("ann", 210)),
        row("left", 211, "dropped", "ann", keeper_id="copy", **near),
        row("bobs", 220, "train", "bob", words=said("bob", 220)),
        row("left2", 221, "dropped", "ann", keeper_id="bobs", **near),
        row("left3", 222, "dropped", None, keeper_id="ann0", **near),
        row("cut", 230, "quarantine", None, error="bad_json", raw=b'{"subject": "ann", "text": "annword'),
        row("cut2", 231, "quarantine", None, error="bad_json", raw=b'{"text": "joanna said'),
    ]


@pytest.fixture
def dataset(tmp_path):
    return write_case(tmp_path / "data" / "tickets", rows_of_both())


def run(*paths, **values):
    return erase(validate(EraseConfig, {"search": {"paths": [str(path) for path in paths]}, **values}))


def test_a_person_is_gone_from_every_file_of_the_new_version(dataset):
    before = open_prepared(str(dataset))
    result = run(dataset.parent, subject="ann")
    (entry,) = result["datasets"]
    new = Path(entry["new_path"])
    text = everything_in(new)
    assert "annword" not in text and "annstory" not in text
    # the old one does hold what is looked for, also inside compressed files
    assert "annword210" in everything_in(dataset) and "annword" in str(pq.read_table(dataset / "train").to_pylist())
    ids = pq.read_table(new / "lineage.parquet")["id"].to_pylist()
    assert sorted(ids) == sorted([*(f"bob{n}" for n in range(6)), "shared", "bobs", "left3", "cut2"])
    kept = [row for split in ("train", "val", "test") for row in open_prepared(str(new)).table(split).to_pylist()]
    assert sorted(row["text"] for row in kept) == sorted(said("bob", n) for n in (0, 1, 2, 201, 220))
    assert [f["entity"] for f in trace(str(new), "shared")["rows"][0]["findings"]] == ["URL"]
    assert trace(str(new), "left3")["rows"][0]["keeper_id"] is None
    assert [json.loads(x)["data"]["id"] for x in (new / "review.jsonl").read_text().splitlines()] == ["bob4"]
    quarantined = pq.read_table(new / "quarantine.parquet").to_pylist()
    assert [(row["position"], row["error"]) for row in quarantined] == [(105, "empty_answer"), (231, "bad_json")]

    manifest = open_prepared(str(new)).manifest
    assert manifest["parents"] == [str(dataset / "manifest.json")] and manifest["key"] != before.manifest["key"]
    assert manifest["erasure"]["subjects"] == [hashed("ann")]
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((new / name).read_bytes()).hexdigest() == digest
    counts = manifest["counts"]
    assert counts["splits"] == {"train": 3, "val": 1, "test": 1}
    assert counts["num_in"] == 10 == counts["num_out"] + counts["num_dropped"] + counts["num_quarantined"]
    assert entry["num_rows"] == 11 and entry["places"] == {
        "train": 3,
        "val": 1,
        "test": 1,
        "dropped": 4,
        "quarantine": 2,
    }
    assert {p.name for p in new.iterdir()} == {p.name for p in dataset.iterdir()}


def test_a_person_is_gone_from_tables_in_several_parts(dataset, tmp_path):
    """The same rows are found and gone whether a table is one file or a folder of parts."""
    parted = write_case(tmp_path / "parted" / "tickets", rows_of_both(), num_parts=3)
    one, many = (Path(run(path, subject="ann")["datasets"][0]["new_path"]) for path in (dataset, parted))
    for name in ("lineage.parquet", "dropped.parquet", "redactions.parquet", "quarantine.parquet"):
        assert sorted(path.name for path in (many / name).iterdir()) == [
            f"part-{part:05d}.parquet" for part in range(3)
        ]
        left, expected = (pq.read_table(path / name).to_pylist() for path in (many, one))
        assert sorted(map(str, left)) == sorted(map(str, expected))
    assert open_prepared(str(many)).manifest["counts"] == open_prepared(str(one)).manifest["counts"]
    for id_ in ("shared", "bob0", "left3", "cut2", "bob4"):
        assert trace(str(many), id_) == trace(str(one), id_)


def test_files_without_the_person_stay_byte_for_byte(dataset):
    before = open_prepared(str(dataset)).manifest["files"]
    new = open_prepared(run(dataset, subject="bob")["datasets"][0]["new_path"]).manifest["files"]
    untouched = [name for name in before if before[name] == new[name]]
    tables = {name: pq.read_table(dataset / name)["subject"].to_pylist() for name in before if "part-" in name}
    assert untouched == [name for name, subjects in tables.items() if hashed("bob") not in subjects]
    assert 0 < len(untouched) < len(tables)


def test_ids_are_erased_as_given_and_hashed(dataset, tmp_path):
    result = run(dataset, ids=["shared", "ann0"])
    assert result["num_rows"] == 3
    new = Path(result["datasets"][0]["new_path"])
    assert not {"shared", "ann0"} & set(pq.read_table(new / "lineage.parquet")["id"].to_pylist())
    assert "shared" not in (new / "manifest.json").read_text() + everything_in(Path(result["path"]))
    keys = tmp_path / "keys.txt"
    keys.write_text("ann\n\nbob\n")
    both = run(dataset, subjects_file=str(keys), output={"path": str(tmp_path / "out")})
    assert both["num_rows"] == 19
    left = pq.read_table(Path(both["datasets"][0]["new_path"]) / "lineage.parquet")["id"].to_pylist()
    assert left == ["cut2", "left3"]
    assert Path(both["datasets"][0]["new_path"]).parent == tmp_path / "out" == Path(both["path"]).parent


def test_again_is_found_and_writes_nothing(dataset):
    first = run(dataset.parent, subject="ann")
    files = {path: path.stat().st_mtime_ns for path in dataset.parent.rglob("*") if path.is_file()}
    second = run(dataset.parent, subject="ann")
    assert (first["reused"], second["reused"]) == (False, True)
    assert {**first, "reused": True} == second
    assert files == {path: path.stat().st_mtime_ns for path in dataset.parent.rglob("*") if path.is_file()}


def test_a_dry_run_lists_and_writes_nothing(dataset):
    files = sorted(dataset.parent.rglob("*"))
    result = run(dataset, subject="ann", dry_run=True)
    assert result["manifest"] is None and result["num_rows"] == 11
    assert result["datasets"][0]["path"] == str(dataset) and result["must"]["delete"] == [str(dataset)]
    assert sorted(dataset.parent.rglob("*")) == files


def write_result(folder, kind, **extra):
    parents = [str(path / "manifest.json") for path in extra.pop("parents", [])]
    write_manifest(str(folder), build_manifest(kind, f"key of {folder.name}", {}, parents=parents, **extra))
    return folder


def world(tmp_path, dataset):
    """Results of all kinds, of this dataset and of another."""
    other = write_case(tmp_path / "data" / "other", rows_of("cid"))
    runs, evals = tmp_path / "runs", tmp_path / "evals"
    of_data = {"dataset": {"path": str(dataset), "key": open_prepared(str(dataset)).training_key}}
    of_other = {"dataset": {"path": str(other), "key": open_prepared(str(other)).training_key}}
    mine = write_result(runs / "mine", "run", parents=[dataset], result_sha256="a" * 64, **of_data)
    moved = {"dataset": {**of_data["dataset"], "path": "/where/it/was"}}
    by_key = write_result(runs / "by-key", "run", result_sha256="b" * 64, **moved)
    theirs = write_result(runs / "theirs", "run", parents=[other], result_sha256="c" * 64, **of_other)
    sweep = write_result(tmp_path / "sweeps" / "s", "sweep", parents=[other, mine])
    judged = write_result(evals / "mine", "evaluation", parents=[other], model={"adapter_sha256": "b" * 64})
    seen = write_result(evals / "seen", "evaluation", inputs={"dataset": f"key of {dataset.name}"})
    write_result(evals / "theirs", "evaluation", parents=[other], model={"adapter_sha256": "c" * 64})
    (runs / "killed").mkdir()
    (runs / "killed" / "config.json").write_text(json.dumps({"data": {"path": str(dataset)}}))
    for name, inputs in (("t1", of_data), ("t2", of_other), ("t3", None)):
        cache = runs / ".tokens" / name
        cache.mkdir(parents=True)
        (cache / "split.json").write_text("{}")
        if inputs:
            (cache / "inputs.json").write_text(json.dumps({"data": inputs["dataset"]["key"], "split": "train"}))
    apps = tmp_path / "home" / "deployments"
    serve = {"path": str(mine / "adapter"), "sha256": "none"}, {"path": "/copied", "sha256": "b" * 64}
    write_result(apps / "by-path", "deployment", inputs={"base": {"source": "m"}, "adapters": [serve[0]]}, url="u1")
    write_result(apps / "by-hash", "deployment", inputs={"base": {"source": "m"}, "adapters": [serve[1]]})
    write_result(apps / "whole", "deployment", inputs={"base": {"source": str(mine / "model")}, "adapters": []})
    theirs_served = {"path": str(theirs / "adapter"), "sha256": "c" * 64}
    write_result(apps / "theirs", "deployment", inputs={"base": {"source": "m"}, "adapters": [theirs_served]})
    for name in (".tickets.0123abcd.tmp", ".tickets.unfinished"):
        leftover = tmp_path / "data" / name / "1" / "rows.parquet"
        leftover.parent.mkdir(parents=True)
        leftover.write_text("")
    refused = write_case(tmp_path / "data" / "refused", rows_of("ann"))
    (refused / "_SUCCESS").unlink()
    return {"runs": [by_key, mine], "sweeps": [sweep], "evaluations": [judged, seen]}


def test_what_follows_from_the_data_is_listed_and_nothing_else(dataset, tmp_path):
    expected = world(tmp_path, dataset)
    result = run(tmp_path, subject="ann")
    for name, folders in expected.items():
        assert result[name] == [str(folder) for folder in folders], name
    assert [item["app"] for item in result["deployments"]] == ["by-hash", "by-path", "whole"]
    assert result["unfinished_runs"] == [str(tmp_path / "runs" / "killed")]
    caches = [str(tmp_path / "runs" / ".tokens" / name) for name in ("t1", "t3")]
    assert result["token_caches"] == caches
    names = (".tickets.0123abcd.tmp", ".tickets.unfinished", "refused")
    assert result["leftovers"] == [str(tmp_path / "data" / name) for name in names]
    must = result["must"]
    assert must["retrain"] == result["runs"] and must["sweep_again"] == result["sweeps"]
    assert must["evaluate_again"] == result["evaluations"] and len(must["undeploy"]) == 3
    seen = str(expected["evaluations"][1])
    assert must["delete"] == [str(dataset), *caches, seen, *result["unfinished_runs"], *result["leftovers"]]


def test_old_versions_are_deleted_on_request_and_the_runs_stay_listed(dataset, tmp_path):
    world(tmp_path, dataset)
    first = run(tmp_path, subject="ann", delete_old=True)
    assert not dataset.exists() and not (tmp_path / "runs" / ".tokens" / "t1").exists()
    assert (tmp_path / "runs" / ".tokens" / "t2").exists()
    assert str(dataset) in first["deleted"] and str(dataset) not in first["must"]["delete"]
    again = run(tmp_path, subject="ann")
    assert again["datasets"] == first["datasets"] and again["num_rows"] == first["num_rows"]
    assert again["must"]["retrain"] == first["must"]["retrain"] and again["token_caches"] == []


def test_the_proof_holds_nothing_of_the_person(dataset):
    result = run(dataset, subject="ann")
    folder = Path(result["path"])
    proof = json.loads((folder / "erasure.json").read_text())
    assert proof["subjects"] == [hashed("ann")] and proof["num_rows"] == 11 and proof["time"]
    (entry,) = proof["datasets"]
    for path, digest in (("path", "manifest_sha256"), ("new_path", "new_manifest_sha256")):
        content = (Path(entry[path]) / "manifest.json").read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry[digest]
    assert '"ann' not in everything_in(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == "erasure" and manifest["parents"] == [str(dataset / "manifest.json")]


def test_mistakes_are_told_in_one_message(dataset, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="none of 1 prepared datasets") as caught:
        run(dataset, subject="zoe")
    assert "zoe" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no prepared dataset"):
        run(tmp_path / "empty", subject="ann")
    with pytest.raises(UserError, match="no such folder"):
        run(tmp_path / "nowhere", subject="ann")
    with pytest.raises(UserError, match="say whose records"):
        run(dataset)
    monkeypatch.setenv("FTLIB_KEY", "another key of 16 bytes")
    with pytest.raises(UserError, match="prepared under another key"):
        run(dataset, subject="ann")
    monkeypatch.delenv("FTLIB_KEY")
    with pytest.raises(UserError, match="no redaction key"):
        run(dataset, subject="ann")
    assert not (tmp_path / "home" / "redaction.key").exists()


@pytest.mark.parametrize(("subject", "code"), [("ann", 0), ("zoe", 2)])
def test_the_job_ends_with_its_proof_or_one_message(dataset, capsys, subject, code):
    with pytest.raises(SystemExit) as caught:
        job_main("erase", EraseConfig, job, [f"subject={subject}", f"search.paths=[{dataset}]"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert caught.value.code == code
    if code:
        assert result["manifest"] is None and "none of 1 prepared datasets" in result["message"]
    else:
        written = json.loads((Path(result["manifest"]).parent / "result.json").read_text())
        assert written == result and result["must"] == {"delete": [str(dataset)]}
        assert "ann" not in json.dumps(result).replace(str(dataset.parent), "")


def test_versions_of_a_run_are_found_and_the_way_back_named():
    def version(number, sha256, aliases=(), **more):
        unknown = {"run_path": None, "dataset": None}
        return {"name": "m", "version": number, "sha256": sha256, "aliases": list(aliases), **unknown, **more}

    runs = [Found("/runs/one", {"kind": "run", "result_sha256": "a"}, "")]
    origins = Origins(frozenset(), frozenset({"data"}))
    versions = [
        version(1, "x"),
        version(2, "a", ["old"]),
        version(3, "y", run_path="/runs/one"),
        version(4, "z", ["champion"], dataset="data"),
    ]
    affected = affected_versions(versions, runs, origins)
    assert [item["version"] for item in affected] == [2, 3, 4]
    moves = [(move["alias"], move["from"], move["to"]) for move in roll_backs(versions, affected)]
    assert moves == [("old", 2, 1), ("champion", 4, 1)]
    assert roll_backs(versions[1:], affected)[0]["to"] is None
