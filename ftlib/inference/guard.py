"""Run a command that ends, with all its processes, when the process that asked for it ends (POSIX).

    python guard.py COMMAND…        with standard input a pipe that the caller keeps open

The command gets a process group of its own. When the pipe closes, because the caller closed it or is gone in whatever
way, its leader is asked to end (SIGTERM), and the group is killed as soon as it has, at the latest after `GRACE_S`. The
group is killed too when the leader ends by itself: what it started must not outlive it. (A parent-death signal would
reach the leader alone, and come when the thread that started it ends.) Exits with the command's exit code.

Runs by its path, in an interpreter without this package: standard library alone.
"""

import os
import signal
import subprocess
import sys
import threading

GRACE_S = 10.0


def main(command: list[str]) -> int:
    """Run a command until it ends or standard input closes; returns its exit code (128 + signal)."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(child.pid, signal.SIGKILL))
    ended = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        if not ended.is_set():
            os.kill(child.pid, signal.SIGTERM)
        if not ended.wait(GRACE_S):
            os.killpg(child.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    # Not reaped yet, its id still stands for this very group.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended.set()
    os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
