"""A sweep whose trials are stored in a real PostgreSQL server, which the test starts for itself."""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from ftlib.core.errors import UserError
from ftlib.sweep import study as studies
from ftlib.sweep.run import run_sweep
from tests.ray_local import stand_in

PASSWORD = "p@ss/" + secrets.token_hex(8)


def find_binaries() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    found = folders[0] if folders else shutil.which("postgres")
    return Path(found).parent if found else None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """URL of the server, without the password. PostgreSQL refuses to run as root: then `nobody` runs it."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    data, password = folder / "data", folder / "password"
    password.write_text(PASSWORD)
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    if user:
        for path in (folder, password):
            shutil.chown(path, "nobody")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    initdb = [binaries / "initdb", "-D", data, "-U", "ft", f"--pwfile={password}", "-A", "scram-sha-256", "--no-sync"]
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    try:
        subprocess.run(initdb, check=True, **run)
        subprocess.run(
            [binaries / "pg_ctl", "-D", data, "-w", "-o", options, "-l", folder / "log", "start"], check=True, **run
        )
        yield f"postgresql://ft@127.0.0.1:{port}/postgres"
        subprocess.run([binaries / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"], check=True, **run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_sweep_in_postgresql_resumes_and_keeps_the_password_to_itself(server, ray_local, tmp_path, monkeypatch):
    import ray

    ray.cloudpickle.register_pickle_by_value(stand_in)
    search = {"num_trials": 3, "storage": server, "study_name": "shared", "pruner": {"min_steps": 10}}
    config = stand_in.config_for(tmp_path, search=search)
    monkeypatch.delenv("FTLIB_DB_PASSWORD_FILE", raising=False)
    monkeypatch.setenv("FTLIB_DB_PASSWORD", "wrong")
    with pytest.raises(UserError, match="FTLIB_DB_PASSWORD_FILE"):
        run_sweep(config, stand_in.fake_training)

    monkeypatch.setenv("FTLIB_DB_PASSWORD", PASSWORD)
    first = run_sweep(config, stand_in.fake_training)
    assert not (tmp_path / "sweep" / "study.db").exists()
    # The folder is lost, the database is not: its trials are found again and two more are run.
    shutil.rmtree(tmp_path / "sweep")
    more = stand_in.config_for(tmp_path, search=search | {"num_trials": 5})
    assert run_sweep(more, stand_in.fake_training)["value"] <= first["value"]
    assert len(stand_in.calls(tmp_path)) == 5
    assert len(stand_in.trials(tmp_path)) == 5
    for file in (tmp_path / "sweep").iterdir():
        assert PASSWORD.encode() not in file.read_bytes()


def test_a_database_that_does_not_answer_is_named_without_its_password(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FTLIB_DB_PASSWORD", PASSWORD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"postgresql://ft@127.0.0.1:{probe.getsockname()[1]}/postgres"
        url = studies.storage_url(dead, str(tmp_path))
        with pytest.raises(UserError, match="cannot be used") as caught:
            studies.open_study(stand_in.config_for(tmp_path).search, url, "s", "i", 0)
    assert PASSWORD not in str(caught.value)
