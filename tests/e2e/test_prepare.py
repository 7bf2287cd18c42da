"""`python -m jobs.prepare` as users run it: exit codes, the last line, the files, and three real sets by YAML alone."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).parents[2]
REAL_DATA = REPOSITORY.parent / "shared" / "data"
EXAMPLES = REPOSITORY / "jobs" / "configs" / "examples"
NUM_ROWS = 150


def prepare(*arguments, cwd=REPOSITORY):
    environment = {**os.environ, "FTLIB_KEY": "0123456789abcdef", "PYTHONPATH": str(REPOSITORY)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.prepare", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=environment, timeout=500, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def head(source, target, num_rows=NUM_ROWS):
    """The first rows of a real set, as the user's own file."""
    with gzip.open(source, "rb") as file, gzip.open(target, "wb") as out:
        out.writelines(line for line, _ in zip(file, range(num_rows), strict=False))
    return target


@pytest.mark.parametrize(
    ("name", "source", "shape", "label"),
    [
        ("bitext", "tickets/bitext_support_6480.jsonl.gz", "instruction_response", "intent"),
        ("medquad", "medical/medquad_3000.jsonl.gz", "input_output", "qtype"),
        ("banking77", "tickets/banking77_train.jsonl.gz", "template", "label"),
    ],
)
def test_real_sets_by_configuration_alone(tmp_path, name, source, shape, label):
    if not (REAL_DATA / source).exists():
        pytest.skip(f"the real set {source} is not on this machine")
    path = head(REAL_DATA / source, tmp_path / "set.jsonl.gz")
    out = tmp_path / "out"
    # The name model is measured elsewhere; patterns alone keep this fast.
    arguments = [f"input.paths=[{path}]", f"output.path={out}", "pii.profile=fast", "pii.residual_sample=0"]
    code, result, log = prepare("--config", EXAMPLES / f"{name}.yaml", *arguments)
    assert code == 0, log
    assert result["status"] == "ok" and result["manifest"] == str(out / "manifest.json")
    assert json.loads((out / "result.json").read_text()) == result
    counts = result["counts"]
    assert counts["num_in"] == NUM_ROWS == counts["num_out"] + counts["num_dropped"] + counts["num_quarantined"]
    files = {file.name for file in out.iterdir()}
    assert files >= {
        "train", "val", "test", "dropped.parquet", "redactions.parquet", "lineage.parquet", "review.jsonl",
        "quarantine.parquet", "report.json", "report.html", "manifest.json", "_SUCCESS",
    }  # fmt: skip
    table = pq.read_table(out / "train")
    assert table.num_rows == counts["splits"]["train"] > 0.5 * NUM_ROWS
    row = table.to_pylist()[0]
    assert [message["role"] for message in row["messages"]][-2:] == ["user", "assistant"]
    assert row["label"]
    assert json.loads((out / "report.json").read_text())["inputs"][0]["shape"] == shape


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        (None, [], "no such file or folder"),
        (b"", [], "the file is empty"),
        (b'{"foo": 1}\n', [], "unknown shape; its columns are: foo"),
        (b'{"text": "a"}\n', ["pii.profil=fast"], "did you mean pii.profile?"),
        (b'{"text": "a"}\n', ["pii.entities=[EMAIL]"], "nothing detects EMAIL"),
        (b'{"text": "a"}\n', ["cluster.address=127.0.0.1:1"], "no Ray cluster answers"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_2(tmp_path, content, arguments, expected):
    if content is not None:
        (tmp_path / "a.jsonl").write_bytes(content)
    before = {path.name for path in tmp_path.iterdir()}
    code, result, log = prepare("input.paths=[a.jsonl]", "output.path=deep/out", *arguments, cwd=tmp_path)
    assert code == 2
    assert expected in log and "Traceback" not in log
    assert result["job"] == "prepare" and result["status"] == "error" and result["manifest"] is None
    assert expected in result["message"]
    assert {path.name for path in tmp_path.iterdir()} == before


def test_help_is_quick_and_complete():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jobs.prepare", "--help"],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert all(key in done.stdout for key in ("input (required)", "pii", "dedup", "split"))
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip() in {"ray", "pyarrow", "numpy"}]
