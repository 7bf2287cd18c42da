"""Every job with bad input: one message, exit code 2, no traceback, nothing written. In-process, without Ray."""

import json
import logging
import sqlite3

import pytest

from ftlib.runtime.job import job_main
from ftlib.runtime.submit import config_class
from tests.prepared_case import KEY, row, write_case

HOSTILE = "a\n12:00:00 I ftlib: all is well\x1b[31m\u202e.jsonl"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_KEY", KEY.decode())
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


@pytest.fixture
def world(tmp_path):
    """Files and folders of every wrong kind."""
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.jsonl").write_text('{"text": "one two three"}\n')
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "garbage.parquet").write_bytes(b"PAR1 garbage PAR1")
    (tmp_path / "garbage.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "unknown.jsonl").write_text('{"a": 1}\n')
    (tmp_path / HOSTILE).write_text('{"a": 1}\n')
    (tmp_path / "columns.csv").write_text(
        ",".join(f"column{'x' * 500}{n}" for n in range(300)) + "\n" + "1," * 299 + "1\n"
    )
    for name, content in {"list": "[]", "number": "3", "broken": "{", "null": "null", "other": '{"kind": "x"}'}.items():
        folder = tmp_path / f"manifest-{name}"
        folder.mkdir()
        (folder / "manifest.json").write_text(content)
        (folder / "_SUCCESS").write_text("")
    write_case(tmp_path / "set", [row("1", 0, "train", "ann", words="one two")])
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    sqlite3.connect(tmp_path / "db.sqlite").close()
    return tmp_path


def run(job, words, capsys, monkeypatch):
    """Exit code, result and log of a job in this process."""
    import importlib

    monkeypatch.setattr(logging.getLogger("ftlib"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("ftlib"), "propagate", False)
    with pytest.raises(SystemExit) as caught:
        job_main(job, config_class(job), importlib.import_module(f"jobs.{job}").run, words)
    said = capsys.readouterr()
    return caught.value.code, json.loads(said.out.splitlines()[-1]), said.err


PREPARE = ["output.path={w}/out"]
GOOD = [*PREPARE, "input.paths=[{w}/good.jsonl]"]
SQL = [*PREPARE, "input.sql=SELECT * FROM t ORDER BY id"]
TRAIN = ["model.source=embedded:smollm2-135m", "output.path={w}/runs"]
EVALUATE = ["model.source=m", "output.path={w}/e"]
ERASE = ["subject=ann"]
PROMOTE = ["registry.uri={w}/reg", "evaluation.path={w}/e"]
CASES = [
    ("prepare", [*PREPARE, "input.paths=[{w}/nowhere]"], "nowhere"),
    ("prepare", [*PREPARE, "input.paths=[{w}/empty]"], "empty"),
    ("prepare", [*PREPARE, "input.paths=['']"], "input.paths.0"),
    ("prepare", [*PREPARE, "input.paths={w}/good.jsonl"], "input.paths: Input should be a valid list"),
    ("prepare", [*PREPARE, "input.paths=[{w}/folder.jsonl]"], "folder.jsonl"),
    ("prepare", [*PREPARE, "input.paths=[{w}/garbage.parquet]"], "garbage.parquet"),
    ("prepare", [*PREPARE, "input.paths=[{w}/unknown.jsonl]"], "unknown.jsonl"),
    ("prepare", [*PREPARE, "input.paths=[{w}/columns.csv]"], "columns.csv"),
    ("prepare", [*PREPARE, "input.paths=[{w}/binary.jsonl]"], "binary.jsonl"),
    ("prepare", [*PREPARE, "input.paths=[{w}/garbage.jsonl.gz]"], "garbage.jsonl.gz"),
    ("prepare", [*PREPARE, "input.paths=[{w}/loop]"], "loop"),
    ("prepare", [*PREPARE, "input.paths=['nosuch://x/y']"], "nosuch://x/y"),
    ("prepare", [*GOOD, "input.shape=template"], "template"),
    ("prepare", [*GOOD, "input.template={{user: '{{a}}', assistant: '{{b}}'}}"], "input.template"),
    ("prepare", [*GOOD, "input.template={{user: '{{__class__.a}}', assistant: b}}"], "__class__"),
    ("prepare", [*GOOD, "review.decisions={w}/empty"], "empty: cannot be read"),
    ("prepare", [*GOOD, "review.decisions={w}/binary.jsonl"], "review.decisions"),
    ("prepare", [*GOOD, "dedup.against=[{w}/nowhere]"], "nowhere"),
    ("prepare", [*GOOD, "decontaminate.paths=[{w}/garbage.parquet]"], "garbage.parquet"),
    ("prepare", [*GOOD, "pii.patterns=[{{entity: X, regex: '('}}]"], "regular expression"),
    ("prepare", [*GOOD, "pii.ner_model=no_such_model"], "no_such_model"),
    ("prepare", ["output.path={w}/file", "input.paths=[{w}/good.jsonl]"], "output.path"),
    ("prepare", ["output.path={w}/file/below", "input.paths=[{w}/good.jsonl]"], "output.path"),
    ("prepare", ["output.path=/proc/ftlib", "input.paths=[{w}/good.jsonl]"], "output.path"),
    ("prepare", ["output.path={w}", "input.paths=[{w}/good.jsonl]"], "output.path"),
    ("prepare", ["output.path={w}/manifest-list", "input.paths=[{w}/good.jsonl]"], "manifest-list"),
    ("prepare", ["output.path={w}/manifest-broken", "input.paths=[{w}/good.jsonl]"], "manifest"),
    ("prepare", [*SQL, "input.connection=nonsense"], "not a database URL"),
    ("prepare", [*SQL, "input.connection=sqlite:///{w}/nowhere.db"], "no such file"),
    ("prepare", [*SQL, "input.connection=sqlite:///{w}/db.sqlite"], "no such table"),
    ("prepare", [*PREPARE, "input.sql=SELECT 1", "input.connection=sqlite:///{w}/db.sqlite"], "ORDER BY"),
    ("prepare", ["--config", "{w}/empty"], "cannot be read"),
    ("prepare", ["--config", "{w}/nowhere"], "no such config file"),
    ("prepare", ["--config", "{w}/binary.jsonl"], "cannot be read"),
    ("prepare", ["--config", "[1]"], "no such config file"),
    ("prepare", ["--nonsense"], "--help"),
    ("prepare", ["seed=" + "9" * 5000], "seed"),
    ("audit", ["output.path={w}/out"], "give either input.paths"),
    ("audit", ["output.path={w}/out", "data.path={w}/nowhere"], "no such prepared dataset"),
    ("audit", ["output.path={w}/out", "data.path={w}/empty"], "not a finished prepared dataset"),
    ("audit", ["output.path={w}/out", "data.path={w}/manifest-list"], "not a manifest"),
    ("audit", ["output.path={w}/file", "data.path={w}/set"], "file"),
    ("train", [*TRAIN, "data.path={w}/nowhere"], "no such prepared dataset"),
    ("train", [*TRAIN, "data.path={w}/file"], "not a finished prepared dataset"),
    ("train", [*TRAIN, "data.path={w}/manifest-number"], "not a manifest"),
    ("train", [*TRAIN, "data.path={w}/manifest-other"], "holds a x"),
    ("train", ["data.path={w}/set", "output.path={w}/runs", "model.source={w}/empty", "inspect=1"], "empty"),
    ("evaluate", [*EVALUATE, "data.path={w}/set", "tasks=[nonsense]"], "tasks"),
    ("promote", [*PROMOTE, "run.path={w}/nowhere"], "no manifest.json"),
    ("promote", [*PROMOTE, "run.path={w}/manifest-broken"], "manifest"),
    ("promote", [*PROMOTE, "run.path={w}/manifest-null"], "manifest"),
    ("erase", [*ERASE, "search.paths=[]"], "search.paths"),
    ("erase", [*ERASE, "search.paths=[{w}/nowhere]"], "no such folder"),
    ("erase", [*ERASE, "search.paths=[{w}/empty]"], "no prepared dataset"),
    ("erase", [*ERASE, "search.paths=[{w}/set]", "registry.uri={w}/nowhere"], "nothing is registered"),
    ("erase", [*ERASE, "search.paths=[{w}/set]", "registry.uri=s3://bucket/x"], "registry.uri"),
    ("erase", [*ERASE, "search.paths=[{w}/set]", "output.path={w}/file"], "output.path"),
    ("erase", ["subjects_file={w}/empty", "search.paths=[{w}/set]"], "subjects_file"),
    ("erase", ["subjects_file={w}/binary.jsonl", "search.paths=[{w}/set]"], "subjects_file"),
    ("erase", ["subjects_file={w}/nowhere", "search.paths=[{w}/set]"], "subjects_file"),
    ("erase", ["subject=zoe", "search.paths=[{w}]"], "none of 1 prepared datasets"),
    ("erase", ["subject=  ", "search.paths=[{w}/set]"], "names nobody"),
    ("erase", ["search.paths=[{w}/set]"], "say whose records"),
    ("sweep", ["space={{}}"], "space"),
    ("deploy", ["model.source=x", "adapters=[{{name: 'a b', path: x}}]"], "adapters.0.name"),
    ("pipeline", ["prepare=3"], "prepare"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "words", "part"), CASES, ids=[f"{n}-{job}" for n, (job, _, _) in enumerate(CASES)])
def test_bad_input_is_one_message(world, capsys, monkeypatch, job, words, part):
    before = {path for path in world.rglob("*") if "home" not in path.parts}
    code, result, log = run(job, [word.format(w=world) for word in words], capsys, monkeypatch)
    assert (code, result["status"]) == (2, "error"), log
    assert part in result["message"] and len(result["message"]) < 5000
    assert "Traceback" not in log and result["manifest"] is None
    assert {path for path in world.rglob("*") if "home" not in path.parts} == before


def test_hostile_names_forge_no_line(world, capsys, monkeypatch):
    words = [f"input.paths={json.dumps([str(world / HOSTILE)])}", f"output.path={world}/out"]
    code, _, log = run("prepare", words, capsys, monkeypatch)
    assert code == 2 and not any(line.startswith("12:00:00 I ftlib") for line in log.splitlines())
    assert all(line.isprintable() for line in log.split("\n"))


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("FTLIB_KEY", "short", "fewer than 16 bytes"),
        ("FTLIB_KEY_FILE", "/nowhere/key", "FTLIB_KEY_FILE"),
        ("FTLIB_UMASK", "rw-", "FTLIB_UMASK=rw-"),
        ("FTLIB_UMASK", "0777", "FTLIB_UMASK=0777"),
    ],
)
def test_a_bad_environment_is_one_message(world, capsys, monkeypatch, name, value, part):
    monkeypatch.setenv(name, value)
    words = [f"input.paths=[{world}/good.jsonl]", f"output.path={world}/out"]
    code, result, log = run("prepare", words, capsys, monkeypatch)
    assert code == 2 and part in result["message"] and "Traceback" not in log
