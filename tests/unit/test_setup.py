"""`cluster/setup.sh`, with an interpreter that only writes down what it is asked to install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE = """#!/bin/bash
# Answers questions with the real interpreter, but records installs instead of doing them.
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip" | "-m ftlib.models.source") echo "$*" >>"$CALLS"; mkdir -p "$FTLIB_HOME/models/smollm2-135m-x"
    touch "$FTLIB_HOME/models/smollm2-135m-x/model.safetensors" ;;
"-c from deepspeed"*) echo "build op" >>"$CALLS" ;;
*) exec REAL "$@" ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of what set-up reads, a fake interpreter, and a function that runs set-up."""
    for name in ("pyproject.toml", "constraints.txt", "requirements-ner.txt", "cluster/setup.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    fake = tmp_path / "python"
    fake.write_text(FAKE.replace("REAL", sys.executable))
    fake.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()

    def run(**extra):
        home = str(tmp_path / "home")
        env = {**os.environ, "PYTHON": str(fake), "CALLS": str(calls), "FTLIB_HOME": home, "PIP_ARGS": "", **extra}
        return subprocess.run(["cluster/setup.sh"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    return tmp_path, calls, run


def test_installs_pinned_packages_once_and_again_only_for_a_change(tree):
    folder, calls, run = tree
    first = run()
    assert first.returncode == 0, first.stderr
    assert "MB to download" in first.stderr and "on disk" in first.stderr
    installs = calls.read_text().splitlines()
    assert any("install" in line and "-c constraints.txt" in line for line in installs)
    assert any("--require-hashes -r requirements-ner.txt" in line for line in installs)
    assert "-m ftlib.models.source embedded:smollm2-135m" in installs
    calls.write_text("")
    second = run()
    assert (second.returncode, second.stderr, calls.read_text()) == (0, "", "")
    with open(folder / "constraints.txt", "a") as file:
        file.write("another==1\n")
    assert run().returncode == 0 and "constraints.txt" in calls.read_text()


def test_what_is_missing_is_named_with_the_command_that_mends_it(tree):
    folder, calls, run = tree
    for extra, words in [
        ({"CXX": "/nonexistent/g++"}, ["g++ is needed", "apt install g++"]),
        ({"PYTHON": "/bin/false"}, ["PYTHON=/bin/false is not Python 3.11"]),
        ({"PYTHON": "", "PATH": _path_without_python(folder)}, ["Python 3.11, 3.12 or 3.13 is needed", "apt install"]),
    ]:
        done = run(**extra)
        assert done.returncode == 2, (extra, done.stderr)
        assert all(word in done.stderr for word in words), done.stderr
    assert calls.read_text() == "" and not (folder / ".venv").exists()


def test_vllm_gets_an_environment_of_its_own_from_the_pinned_list_alone(tree):
    folder, calls, _ = tree
    for name in ("requirements-vllm.txt", "cluster/setup-vllm.sh"):
        shutil.copy(ROOT / name, folder / name)
    env = {**os.environ, "PYTHON": str(folder / "python"), "CALLS": str(calls), "FTLIB_HOME": str(folder / "home")}

    def run():
        return subprocess.run(
            ["cluster/setup-vllm.sh"], cwd=folder, env=env, capture_output=True, text=True, check=False
        )

    first = run()
    assert first.returncode == 0, first.stderr
    (install,) = calls.read_text().splitlines()
    assert "--no-deps" in install and "-r requirements-vllm.txt" in install
    second = run()
    assert (second.returncode, second.stderr) == (0, "") and len(calls.read_text().splitlines()) == 1
    assert all("==" in line for line in (folder / "requirements-vllm.txt").read_text().splitlines() if line[0] != "#")


def _path_without_python(folder):
    tools = folder / "tools"
    tools.mkdir()
    for name in ("bash", "env", "cat", "cut", "mkdir", "dirname", "flock", "sha256sum", "df", "awk"):
        (tools / name).symlink_to(shutil.which(name))
    return str(tools)


def test_constraints_pin_every_dependency_and_keep_torch_below_its_limit():
    import re
    import tomllib

    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.split(r"[\[<>=;\s]", requirement, maxsplit=1)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in normal, name
    assert tuple(map(int, pins["torch"].split("."))) <= (2, 13, 0)
