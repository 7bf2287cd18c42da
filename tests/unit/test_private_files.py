"""What is written can be read by its owner alone; what a killed process left is cleared away by the next."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftlib.core.errors import UserError
from ftlib.core.storage import atomic_dir, private_umask, use_private_umask, write_text
from ftlib.data.stored import work_folder
from ftlib.runtime.cluster import remove_dead_temp_dirs


@pytest.fixture(autouse=True)
def open_umask(monkeypatch):
    """As on most machines: everybody reads."""
    monkeypatch.delenv("FTLIB_UMASK", raising=False)
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path):
    return oct(Path(path).stat().st_mode & 0o777)


def test_files_and_folders_are_the_owners(tmp_path):
    with atomic_dir(str(tmp_path / "out")) as folder:
        write_text(str(folder / "rows.parquet"), "x")
    assert (mode(tmp_path / "out"), mode(tmp_path / "out" / "rows.parquet")) == ("0o700", "0o600")
    with work_folder(str(tmp_path / "set"), "key") as folder:
        assert mode(folder) == "0o700"


def test_the_group_reads_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("FTLIB_UMASK", "027")
    with atomic_dir(str(tmp_path / "out")) as folder:
        write_text(str(folder / "rows.parquet"), "x")
    assert (mode(tmp_path / "out"), mode(tmp_path / "out" / "rows.parquet")) == ("0o750", "0o640")
    use_private_umask()
    (tmp_path / "new").mkdir()
    assert mode(tmp_path / "new") == "0o750"


def test_a_file_that_somebody_opened_stays_open(tmp_path):
    path = tmp_path / "page"
    path.write_text("old")
    path.chmod(0o644)
    write_text(str(path), "new")
    assert path.read_text() == "new" and mode(path) == "0o644"


@pytest.mark.parametrize("value", ["rw-", "888", "0777", "700", "27x", "-1"])
def test_a_umask_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("FTLIB_UMASK", value)
    with pytest.raises(UserError, match="FTLIB_UMASK"):
        private_umask()


WRITER = """
import sys, time
from ftlib.core.storage import atomic_dir
with atomic_dir(sys.argv[1]) as folder:
    (folder / "half").write_text("personal")
    print("ready", flush=True)
    time.sleep(60)
"""


def start(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_the_next_write_clears_what_a_killed_one_left_and_nothing_else(tmp_path):
    target = tmp_path / "out"
    strangers = [
        tmp_path / name for name in (".out.unfinished", ".out.0123abcd.tmp.d", ".output.0123abcd.tmp", "out.tmp")
    ]
    for path in strangers:
        path.mkdir()
    dead, living = start(WRITER, target), start(WRITER, target)
    try:
        left = list(tmp_path.glob(".out.????????.tmp"))
        assert len(left) == 2
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        with atomic_dir(str(target)) as folder:
            others = [path for path in tmp_path.glob(".out.????????.tmp") if path != folder]
            assert len(others) == 1 and (others[0] / "half").exists() and living.poll() is None
    finally:
        living.kill()
        living.wait()
    with atomic_dir(str(target)):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([target, *strangers])


CLUSTER = """
import time
from ftlib.runtime.cluster import _own_temp_dir
with _own_temp_dir() as folder:
    import os
    os.makedirs(folder + "/session/logs")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_folders_of_killed_clusters_go_and_those_of_living_ones_stay(tmp_path, monkeypatch):
    short = Path("/tmp") / f"t{os.getpid()}"
    short.mkdir()
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr("tempfile.tempdir", str(short))
    (short / "ft-head").mkdir()  # of a head that outlives its starter: no lock
    dead, living = start(CLUSTER), start(CLUSTER)
    try:
        folders = {path for path in short.glob("ft-*") if (path / "lock").exists()}
        assert len(folders) == 2 and {mode(path) for path in folders} == {"0o700"}
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        remove_dead_temp_dirs()
        (kept,) = {path for path in short.glob("ft-*") if (path / "lock").exists()}
        assert (kept / "r" / "session" / "logs").is_dir() and (short / "ft-head").is_dir()
        with open(kept / "lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        living.kill()
        living.wait()
        deadline = time.monotonic() + 10
        while len(list(short.glob("ft-*"))) > 1 and time.monotonic() < deadline:
            remove_dead_temp_dirs()
        (short / "ft-head").rmdir()
        short.rmdir()
