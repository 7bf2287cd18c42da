"""The frame of a job: exit codes, the last line, result.json."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftlib.config.base import JobConfig, OutputConfig
from ftlib.core.errors import GateError, UserError
from ftlib.runtime.job import job_main

JOBS = ["prepare", "erase", "train", "sweep", "evaluate", "promote", "deploy", "pipeline", "submit"]


class Config(JobConfig):
    """A job for tests."""

    output: OutputConfig


def _run(run: Any, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as caught:
        job_main("x", Config, run, list(argv))
    return int(caught.value.code or 0), json.loads(capsys.readouterr().out.splitlines()[-1])


def test_success_prints_the_result_and_writes_it_beside_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = _run(
        lambda config: {"manifest": f"{config.output.path}/manifest.json", "rows": 3}, capsys, f"output.path={tmp_path}"
    )
    assert (code, result["job"], result["status"], result["rows"]) == (0, "x", "ok", 3)
    assert json.loads((tmp_path / "result.json").read_text()) == result


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (UserError("mend it"), 2, "error"),
        (GateError("no", {"manifest": None, "score": 1}), 3, "gate_failed"),
        (ZeroDivisionError(), 1, "failed"),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, code: int, status: str
) -> None:
    def run(config: Config) -> dict[str, Any]:
        raise error

    found, result = _run(run, capsys, f"output.path={tmp_path}")
    assert (found, result["status"]) == (code, status)


def test_a_users_error_raised_in_a_worker_stays_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config) -> dict[str, Any]:
        try:
            raise UserError("the row is empty")
        except UserError as error:
            raise RuntimeError("task failed") from error

    code, result = _run(run, capsys, f"output.path={tmp_path}")
    assert code == 2 and result["message"] == "the row is empty"


def test_mistakes_on_the_command_line_exit_2_without_running(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["output.path=o", "nonsense"], ["--wrong"], ["output.pth=o"]):
        code, result = _run(lambda config: pytest.fail("ran"), capsys, *argv)
        assert (code, result["status"]) == (2, "error")


@pytest.mark.parametrize("job", JOBS)
def test_help_imports_nothing_heavy(job: str) -> None:
    """`--help` answers at once because these stay unimported; the tests assert no time."""
    probe = (
        "import runpy, sys; sys.argv=['x','--help']\n"
        f"try: runpy.run_module('jobs.{job}', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'ray','torch','transformers','deepspeed','mlflow','optuna','pyarrow','pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
