"""The errors a job may end with, each with its exit code.

Anything else that escapes a job is a defect: it keeps its traceback and exits 1.
"""

from typing import Any


class FtlibError(Exception):
    """Base of the errors that ftlib raises on purpose."""

    exit_code = 1


class UserError(FtlibError):
    """The input, configuration or environment is wrong and the user can mend it.

    The message says what failed, the offending value, the limit and the next step. It never holds raw record text.
    """

    exit_code = 2


class DivergedError(UserError):
    """The loss of one training left all bounds: the settings are wrong, but those of this run alone.

    A search over settings counts it as a failed trial; any other UserError is a mistake that all trials share.
    """


class GateError(FtlibError):
    """A gate said no. `result` is what the job still produced (manifest path, figures)."""

    exit_code = 3

    def __init__(self, message: str, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = result or {}
