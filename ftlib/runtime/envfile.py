"""`.ftlib/env`: how to reach a cluster, as `export NAME=value` lines for `source` and for `jobs.submit`."""

import os
import shlex
from pathlib import Path

from ftlib.core.errors import UserError
from ftlib.core.storage import write_text

_PATH_LINE = "export PATH="
_UNSET = "RAY_AUTH_TOKEN"
"""Ray prefers it to the file that RAY_AUTH_TOKEN_PATH names: another cluster's token would be sent to this one."""


def write_env(path: Path, values: dict[str, str], comment: str = "", bin_dir: Path | None = None) -> None:
    """Write the file (atomically, readable by its owner only); every value is quoted for a shell.

    `bin_dir` is put first in the PATH of the shell that sources the file.
    """
    lines = [f"# {line}" for line in comment.splitlines()]
    lines.append(f"unset {_UNSET}")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    if bin_dir:
        lines.append(f'{_PATH_LINE}{shlex.quote(str(bin_dir))}:"$PATH"')
    write_text(str(path), "\n".join(lines) + "\n")
    path.chmod(0o600)


def read_env(path: Path) -> dict[str, str]:
    """The variables in the file; empty when it does not exist. Raises UserError for a line of another form."""
    if not path.exists():
        return {}
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = shlex.split(line, comments=True)
        if not words or words == ["unset", _UNSET] or line.startswith(_PATH_LINE):
            continue
        name, separator, value = words[-1].partition("=")
        if len(words) != 2 or words[0] != "export" or not separator:
            raise UserError(f"{path}:{number}: not of the form export NAME=value; remove the file and start again")
        values[name] = value
    return values


def apply_env(values: dict[str, str], *, override: bool = False) -> None:
    """Put the variables into this process's environment; without `override` those that are set stay.

    Where the file of a token is put, a token of another cluster is dropped.
    """
    for name, value in values.items():
        if override or name not in os.environ:
            os.environ[name] = value
            if name == "RAY_AUTH_TOKEN_PATH":
                os.environ.pop(_UNSET, None)
