"""A real PostgreSQL server for a test, on a free port of loopback, ended with it."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def find_binaries() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    found = folders[0] if folders else shutil.which("postgres")
    return Path(found).parent if found else None


@contextmanager
def postgres_server(password: str) -> Iterator[str]:
    """URL of the server, without the password; skips the test where PostgreSQL is not installed.

    PostgreSQL refuses to run as root: then `nobody` runs it.
    """
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    data, password_file = folder / "data", folder / "password"
    password_file.write_text(password)
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    if user:
        for path in (folder, password_file):
            shutil.chown(path, "nobody")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    initdb = [
        binaries / "initdb", "-D", data, "-U", "ft", f"--pwfile={password_file}", "-A", "scram-sha-256", "--no-sync",
    ]  # fmt: skip
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
