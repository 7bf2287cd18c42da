"""Erasure beyond datasets: endpoints' uploads and batches, review exports, with the commands that delete them."""

import io
import json
import shlex
import subprocess
from pathlib import Path

import pytest

from ftlib.config.erase import EraseConfig
from ftlib.config.loader import load_config
from ftlib.data.erase import erase
from ftlib.registry.manifest import build_manifest, write_manifest
from serve_apps.batches import BatchRef, BatchStore, Journal, Lease
from tests.prepared_case import KEY, row, write_case

PERSON = "K-1017"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_KEY", KEY.decode())
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))


@pytest.fixture
def dataset(tmp_path):
    held = {"stage": "review", "reason": "label_conflict"}
    rows = [
        row("1", 0, "train", PERSON, words="one"),
        row("2", 10, "dropped", PERSON, words="two", **held),
        row("3", 20, "dropped", "K-2", words="three", **held),
        row("4", 30, "test", "K-2", words="four"),
    ]
    return write_case(tmp_path / "data" / "set", rows)


def run(*paths, **more):
    words = [f"{key}={value}" for key, value in more.items()]
    paths = json.dumps([str(path) for path in paths])
    return erase(load_config(EraseConfig, None, [f"subject={PERSON}", *words, f"search.paths={paths}"]))


def request(custom_id, text="hello", **body):
    return {"custom_id": custom_id, "body": {"messages": [{"role": "user", "content": text}], **body}}


def lines(*rows):
    return io.BytesIO("".join(json.dumps(item) + "\n" for item in rows).encode())


def fill_state(state):
    """Uploads and batches of two tenants; returns the ids of those that hold the person."""
    store = BatchStore(state)
    add = store.files.add
    mine = add("t1", lines(request("a"), request("b", user=PERSON), request("c")), "rows")["id"]
    said = add("t2", lines(request("a", f"ticket of {PERSON}, please")), "rows")["id"]
    add("t2", lines(request("K-10171"), request("b", user="K-10170", text=f"x{PERSON}")), "rows")
    number = add("t1", lines(request("b", metadata={"customer": f" {PERSON} "})), "rows")["id"]
    broken = add("t1", io.BytesIO(b"\xff\xfe nothing"), "scan.pdf")["id"]
    done = store.create("t1", mine, "/v1/chat/completions", None)["id"]
    answers = state / "answers"
    answers.write_text(json.dumps({"custom_id": "b", "response": {}}) + "\n")
    output = store.files.adopt("t1", answers, "file-" + "0" * 32, "out")["id"]
    value = store.get("t1", done) | {"status": "completed", "output_file_id": output}
    store.save(BatchRef("t1", done), value)
    store.done(BatchRef("t1", done))
    running = store.create("t2", said, "/v1/chat/completions", None)["id"]
    folder = store.folder(BatchRef("t2", running))
    journal = Journal(folder, Lease.take(folder, 5).number)
    journal.append(0, True, {"custom_id": "a", "response": {}})
    journal.close()
    store.files.delete("t2", said)
    return {"files": {mine, number, output}, "batches": {running}, "broken": broken, "store": store}


def test_uploads_answers_and_batches_of_endpoints_are_found_with_their_commands(dataset, tmp_path):
    state = tmp_path / "home" / "deployments" / "app" / "state"
    expected = fill_state(state)
    manifest = build_manifest("deployment", "k", {"state_dir": None}, inputs={"base": {"source": "m"}, "adapters": []})
    write_manifest(str(tmp_path / "home" / "deployments" / "app"), manifest)
    elsewhere = fill_state(tmp_path / "other state")
    result = run(dataset, **{"search.state_dirs": f"[{tmp_path}/other state]"})
    found = result["endpoint_files"]
    for one in (expected, elsewhere):
        held = [item for item in found if item["id"] in one["files"] | one["batches"]]
        assert {item["id"] for item in held if item["kind"] == "file"} == one["files"]
        assert {item["id"] for item in held if item["kind"] == "batch"} == one["batches"]
        assert [item["reason"] for item in result["not_searched"] if one["broken"] in item["path"]] == [
            "line 1 is no JSON"
        ]
    assert len(found) == 8 and {item["by"] for item in found} == {"field", "text", "answer"}
    assert {item["num_rows"] for item in found if item["kind"] == "file"} == {1}
    assert {item["path"] for item in found} <= set(result["must"]["delete"])
    assert PERSON not in json.dumps(result) and PERSON not in (Path(result["path"]) / "erasure.json").read_text()

    assert all(item["command"] in result["commands"] for item in found)
    for item in found:
        subprocess.run(item["command"], shell=True, check=True)
    left = run(dataset, **{"search.state_dirs": f"[{tmp_path}/other state]"})
    assert left["endpoint_files"] == []
    assert len(expected["store"].files.all("t2")) == 1 and expected["store"].pending() == []


def test_a_state_folder_that_is_no_folder_or_not_there_holds_nothing(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "nowhere"):
        assert run(dataset, **{"search.state_dirs": f"[{tmp_path}/{name}]"})["endpoint_files"] == []
    assert (
        run(dataset, **{"search.state_dirs": "['s3://bucket/state']"})["not_searched"][0]["path"] == "s3://bucket/state"
    )


def test_review_exports_are_found_wherever_they_lie(dataset, tmp_path):
    tasks = [json.loads(line) for line in (dataset / "review.jsonl").read_text().splitlines()]
    theirs = [task for task in tasks if task["data"]["id"] == "2"]
    others = [task for task in tasks if task["data"]["id"] != "2"]
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "copy.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (folder / "export.json").write_text(json.dumps([task | {"annotations": []} for task in tasks]))
    (folder / "others.json").write_text(json.dumps(others))
    (folder / "decisions.jsonl").write_text('{"id": "2", "decision": "accept"}\n{"id": "3", "decision": "accept"}\n')
    (folder / "unlike.jsonl").write_text('{"id": "2", "text": "no review"}\n')
    (folder / "broken.json").write_text('[{"id": "1", "decision": ')
    (folder / "binary.json").write_bytes(b"\x00\xff")
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(theirs))
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["timing"]["config"] = {"review": {"decisions": str(outside)}}
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    result = run(dataset, folder)
    names = ["copy.jsonl", "decisions.jsonl", "export.json"]
    expected = [{"path": str(folder / name), "num_rows": 1} for name in names]
    assert result["reviews"] == sorted(
        [*expected, {"path": str(outside), "num_rows": 1}], key=lambda item: item["path"]
    )
    assert result["not_searched"] == [{"path": str(folder / "broken.json"), "reason": "is no JSON"}]
    assert {item["path"] for item in result["reviews"]} <= set(result["must"]["erase_at_source"])


def test_a_dry_run_lists_all_that_would_be_deleted(dataset, tmp_path):
    cache = tmp_path / "data" / ".tokens" / "x"
    cache.mkdir(parents=True)
    (cache / "split.json").write_text("{}")
    (cache / "inputs.json").write_text(json.dumps({"data": json.loads((dataset / "manifest.json").read_text())["key"]}))
    planned = run(tmp_path / "data", dry_run="true", delete_old="true")
    assert planned["would_delete"] == [str(cache), str(dataset)] and dataset.exists()
    listed = run(tmp_path / "data", dry_run="true")
    assert listed["would_delete"] == [] and listed["must"]["delete"] == [str(dataset), str(cache)]
    assert listed["commands"] == [f"rm -rf -- {dataset}", f"rm -rf -- {cache}"]
    done = run(tmp_path / "data", delete_old="true")
    assert done["deleted"] == planned["would_delete"]
    assert [entry["new_path"] for entry in planned["datasets"]] == [entry["new_path"] for entry in done["datasets"]]
    assert planned["num_rows"] == done["num_rows"] and planned["near"] == done["near"]


def test_commands_quote_their_paths(tmp_path):
    rows = [row("1", 0, "train", PERSON, words="one")]
    folder = write_case(tmp_path / "it's; a $(set)", rows)
    (command,) = run(folder)["commands"]
    assert shlex.split(command)[-1] == str(folder)
    subprocess.run(command, shell=True, check=True)
    assert not folder.exists()
