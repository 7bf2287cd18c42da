"""A sweep whose trials are stored in a real PostgreSQL server, which the test starts for itself."""

import secrets
import shutil
import socket

import pytest

from ftlib.core.errors import UserError
from ftlib.sweep import study as studies
from ftlib.sweep.run import run_sweep
from tests.postgres import postgres_server
from tests.ray_local import stand_in

PASSWORD = "p@ss/" + secrets.token_hex(8)


@pytest.fixture(scope="module")
def server():
    """URL of the server, without the password."""
    with postgres_server(PASSWORD) as url:
        yield url


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
