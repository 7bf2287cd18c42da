"""Promotion and the registry with real MLflow on SQLite, the job itself in a process of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ftlib.config.promote import RegistryConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.core.storage import write_json
from ftlib.registry.manifest import build_manifest, write_manifest
from ftlib.registry.models import list_versions, register, resolve_alias, set_alias, tracking_uri

GATE = {"metric": "exact_match_gain", "min": 0.0, "max": None, "value": 0.7, "low": 0.6, "high": 0.8, "passed": True}
BASE = {"source": "embedded:smollm2-135m", "fingerprint": "b" * 64, "chat_template": "c" * 16}


def make_run(folder: Path, name: str) -> Path:
    """A run's folder as training leaves it; the adapter's content differs by name."""
    adapter = folder / name / "adapter"
    (adapter / "extra").mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8, "name": name}))
    (adapter / "extra" / "chat_template.jinja").write_text("{{ messages }}")
    manifest = build_manifest(
        "run", f"key-{name}", {}, run_id=name, result="adapter", result_sha256=folder_sha256(adapter), base=BASE,
        dataset={"path": "d", "key": "dk"}, val_loss=0.5,
    )  # fmt: skip
    write_manifest(str(folder / name), manifest)
    return folder / name


def make_evaluation(folder: Path, run: Path, gates: list[dict]) -> Path:
    model = {"source": BASE["source"], "adapter_sha256": folder_sha256(run / "adapter"), "base_fingerprint": "b" * 64}
    write_manifest(str(folder), build_manifest("evaluation", "ek", {}, model=model))
    write_json(str(folder / "gates.json"), gates)
    write_json(str(folder / "metrics.json"), {"exact_match": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 300}})
    return folder


def promote(*overrides: str, cwd: Path) -> tuple[int, dict, str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment = {key: value for key, value in environment.items() if not key.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.promote", *overrides],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> RegistryConfig:
    """One database for the module: MLflow's first migration takes seconds."""
    return RegistryConfig(uri=str(tmp_path_factory.mktemp("registry") / "reg"), name="tickets")


def test_job_registers_and_the_version_outlives_the_run(tmp_path, registry):
    run = make_run(tmp_path, "one")
    evaluation = make_evaluation(tmp_path / "eval", run, [GATE])
    work = tmp_path / "cwd"
    work.mkdir()
    code, result, log = promote(
        f"run.path={run}", f"evaluation.path={evaluation}", f"registry.uri={registry.uri}", "registry.name=tickets",
        cwd=work,
    )  # fmt: skip
    assert code == 0, log
    assert (result["name"], result["alias"], result["run_id"]) == ("tickets", "champion", "one")
    assert json.loads(Path(result["manifest"]).read_text())["allowed"] is True
    assert list(work.iterdir()) == []  # MLflow leaves no mlruns/ in the working directory
    assert "INFO mlflow" not in log and "alembic" not in log

    sha256 = folder_sha256(run / "adapter")
    shutil.rmtree(run)
    model = resolve_alias(registry, "champion")
    assert (model.version, model.sha256, model.base_source) == (result["version"], sha256, BASE["source"])
    assert folder_sha256(model.adapter_path) == sha256
    assert model.adapter_path.is_relative_to(registry.uri)


def test_failed_gate_exits_3_and_registers_nothing(tmp_path):
    run = make_run(tmp_path, "bad")
    evaluation = make_evaluation(tmp_path / "eval", run, [GATE, {**GATE, "passed": False, "low": -0.1}])
    code, result, log = promote(
        f"run.path={run}", f"evaluation.path={evaluation}", f"registry.uri={tmp_path / 'reg'}", cwd=tmp_path
    )
    assert code == 3, log
    assert result["status"] == "gate_failed"
    assert len(result["reasons"]) == 1 and "exact_match_gain" in result["reasons"][0]
    assert not (tmp_path / "reg").exists()


def test_same_content_is_one_version_and_aliases_move(tmp_path, registry):
    runs = [make_run(tmp_path, name) for name in ("first", "second")]
    evals = [make_evaluation(tmp_path / f"eval-{run.name}", run, [GATE]) for run in runs]
    first, second = (register(str(r), str(e), registry, "staging") for r, e in zip(runs, evals, strict=True))
    assert second.version == first.version + 1
    assert resolve_alias(registry, "staging") == second
    assert register(str(runs[0]), str(evals[0]), registry, "staging") == first
    assert resolve_alias(registry, "staging") == first
    set_alias(registry, "staging", second.version)
    assert resolve_alias(registry, "staging").sha256 == folder_sha256(runs[1] / "adapter")
    listed = {item["sha256"]: item for item in list_versions(registry.uri)}[first.sha256]
    assert (listed["name"], listed["version"], listed["run_path"]) == ("tickets", first.version, str(runs[0]))
    assert (listed["dataset"], listed["aliases"]) == ("dk", [])
    assert {item["version"]: item["aliases"] for item in list_versions(registry.uri)}[second.version] == ["staging"]


def test_a_sweeps_folder_stands_for_its_winner(tmp_path, registry):
    run = make_run(tmp_path, "winner")
    write_manifest(str(tmp_path / "sweep"), build_manifest("sweep", "sk", {}))
    write_json(str(tmp_path / "sweep" / "best.json"), {"run_id": "winner", "run_path": str(run)})
    evaluation = make_evaluation(tmp_path / "eval", run, [GATE])
    assert register(str(tmp_path / "sweep"), str(evaluation), registry, None).run_id == "winner"


def test_changed_files_are_refused_on_both_ways(tmp_path, registry):
    run = make_run(tmp_path, "tampered")
    evaluation = make_evaluation(tmp_path / "eval", run, [GATE])
    (run / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="changed after the run"):
        register(str(run), str(evaluation), registry, "broken")

    run = make_run(tmp_path, "rotten")
    evaluation = make_evaluation(tmp_path / "eval2", run, [GATE])
    broken = register(str(run), str(evaluation), registry, "broken")
    (broken.adapter_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="not those registered"):
        resolve_alias(registry, "broken")
    # Registering again mends it with a new version instead of pointing at the damaged one.
    mended = register(str(run), str(evaluation), registry, "broken")
    assert mended.version > broken.version
    assert resolve_alias(registry, "broken") == mended


def test_what_is_missing_is_named(tmp_path, registry):
    with pytest.raises(UserError, match=r"no alias nobody \(aliases: "):
        resolve_alias(registry, "nobody")
    with pytest.raises(UserError, match="unknown"):
        resolve_alias(RegistryConfig(uri=registry.uri, name="unknown"), "champion")
    with pytest.raises(UserError, match="nothing is registered"):
        resolve_alias(RegistryConfig(uri=str(tmp_path / "none")), "champion")
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="local disk"):
        tracking_uri(RegistryConfig(uri="s3://bucket/registry"))


@pytest.fixture
def server(tmp_path):
    """URL of a real MLflow server that proxies artifacts, as a shared one does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
                time.sleep(0.3)
        yield url, lambda: os.killpg(process.pid, signal.SIGTERM) or process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_a_server_gives_the_files_to_a_machine_that_never_saw_the_run(tmp_path, server, monkeypatch, capfd):
    url, stop = server
    registry = RegistryConfig(uri=url, name="tickets")
    run = make_run(tmp_path, "remote")
    evaluation = make_evaluation(tmp_path / "eval", run, [GATE])
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home-1"))
    registered = register(str(run), str(evaluation), registry, "champion")
    sha256 = folder_sha256(run / "adapter")
    shutil.rmtree(run)

    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home-2"))
    model = resolve_alias(registry, "champion")
    assert model.version == registered.version
    assert model.adapter_path.is_relative_to(tmp_path / "home-2")
    assert folder_sha256(model.adapter_path) == sha256
    assert capfd.readouterr().out == ""  # standard output belongs to a job's result

    stop()
    started = time.monotonic()
    with pytest.raises(UserError, match=r"registry\.uri"):
        resolve_alias(registry, "champion")
    assert time.monotonic() - started < 60


def test_an_erasure_names_the_copies_of_affected_models_and_their_command_deletes_them(tmp_path, monkeypatch):
    from ftlib.config.erase import EraseConfig
    from ftlib.config.loader import validate
    from ftlib.data.erase import erase
    from ftlib.data.prepared import open_prepared
    from tests.prepared_case import KEY, row, write_case

    monkeypatch.setenv("FTLIB_KEY", KEY.decode())
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))
    data = write_case(tmp_path / "data", [row("1", 0, "train", "K-1", words="one")])
    registry = RegistryConfig(uri=str(tmp_path / "reg ister"), name="tickets")
    for name in ("mine", "theirs"):
        run = make_run(tmp_path / "runs", name)
        if name == "mine":
            manifest = json.loads((run / "manifest.json").read_text())
            manifest["dataset"] = {"path": str(data), "key": open_prepared(str(data)).training_key}
            write_json(str(run / "manifest.json"), manifest)
        register(str(run), str(make_evaluation(tmp_path / f"eval-{name}", run, [GATE])), registry, name)
    mine, theirs = (item["source"].removeprefix("file://") for item in list_versions(registry.uri))
    search = {"paths": [str(data), str(tmp_path / "runs")]}
    config = {"subject": "K-1", "search": search, "registry": {"uri": registry.uri}}
    result = erase(validate(EraseConfig, config))
    (copy,) = result["registry_copies"]
    assert copy["copies"] == [mine] and copy["command"] in result["commands"]
    assert result["must"]["delete_copies"] == ["tickets version 1"]

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = copy["command"].replace("python", sys.executable, 1)
    held = subprocess.run(command, shell=True, check=False, capture_output=True, text=True, env=environment)
    assert held.returncode == 2 and "has the alias mine" in held.stderr and Path(mine).is_dir()
    set_alias(registry, "mine", 2)
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and mine in done.stdout, done.stderr
    assert not Path(mine).exists() and Path(theirs).is_dir()
    assert [item["version"] for item in list_versions(registry.uri)] == [2]
