"""`.ftlib/env` must mean the same to a shell and to Python."""

import os
import subprocess

import pytest

from ftlib.core.errors import UserError
from ftlib.runtime.envfile import apply_env, read_env, write_env

VALUES = {
    "PLAIN": "1",
    "SPACE": "a b",
    "QUOTE": 'it\'s $HOME `x` "q"',
    "URL": "http://127.0.0.1:1/v1?a=b#c",
    "EMPTY": "",
}


def test_shell_and_reader_agree_on_every_value(tmp_path):
    path = tmp_path / "env"
    write_env(path, VALUES, "two\nlines")
    assert read_env(path) == VALUES
    for name, value in VALUES.items():
        sourced = subprocess.run(
            ["bash", "-c", f'source {path}; printf %s "${name}"'], capture_output=True, text=True, check=True
        )
        assert sourced.stdout == value, name


def test_bin_dir_comes_first_in_the_path_of_a_shell_only(tmp_path):
    write_env(tmp_path / "env", VALUES, bin_dir=tmp_path / "my bin")
    shell = subprocess.run(
        ["bash", "-c", f"source {tmp_path}/env; echo $PATH"], capture_output=True, text=True, check=True
    )
    assert shell.stdout.startswith(f"{tmp_path}/my bin:/")
    assert read_env(tmp_path / "env") == VALUES


def test_file_is_private(tmp_path):
    write_env(tmp_path / "env", VALUES)
    assert (tmp_path / "env").stat().st_mode & 0o077 == 0


def test_absent_file_is_empty_and_a_broken_line_is_named(tmp_path):
    assert read_env(tmp_path / "none") == {}
    (tmp_path / "env").write_text("export A=1\nrm -rf x\n")
    with pytest.raises(UserError, match=r"env:2"):
        read_env(tmp_path / "env")


def test_what_is_set_wins_unless_overridden(monkeypatch):
    import os

    monkeypatch.setenv("FTLIB_TEST_A", "mine")
    apply_env({"FTLIB_TEST_A": "file"})
    assert os.environ["FTLIB_TEST_A"] == "mine"
    apply_env({"FTLIB_TEST_A": "file"}, override=True)
    assert os.environ["FTLIB_TEST_A"] == "file"


def test_token_of_another_cluster_is_dropped(tmp_path, monkeypatch):
    """Ray prefers RAY_AUTH_TOKEN to the file; a shell and Python drop it alike."""
    values = {"RAY_AUTH_TOKEN_PATH": "/a/token"}
    write_env(tmp_path / "env", values)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    shell = subprocess.run(
        ["bash", "-c", f"source {tmp_path}/env; echo ${{RAY_AUTH_TOKEN-none}} $RAY_AUTH_TOKEN_PATH"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shell.stdout == "none /a/token\n"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/mine")
    apply_env(read_env(tmp_path / "env"))
    assert os.environ["RAY_AUTH_TOKEN"] == "of another cluster"  # its own file was named: nothing was put
    apply_env(read_env(tmp_path / "env"), override=True)
    assert "RAY_AUTH_TOKEN" not in os.environ
