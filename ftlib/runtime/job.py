"""The frame of every job: arguments, configuration, exit code, and one JSON object as the last line of output.

Imports no ray: `--help` and a mistake in the configuration answer at once.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from ftlib.config.base import JobConfig, OutputConfig
from ftlib.config.loader import absolute_paths, load_config, refuse_relative_paths
from ftlib.core.errors import FtlibError, GateError, UserError
from ftlib.core.logging import format_duration, get_logger, setup_logging
from ftlib.core.storage import join, use_private_umask, write_json
from ftlib.runtime.preflight import check_output

C = TypeVar("C", bound=JobConfig)
Result = dict[str, Any]
_MAX_MESSAGE_CHARS = 4000
logger = get_logger(__name__)


def in_ray_job() -> bool:
    """Whether this process is the driver of `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def job_main(name: str, config_cls: type[C], run: Callable[[C], Result], argv: Sequence[str] | None = None) -> NoReturn:
    """Parse arguments, run the job, print its result as the last line and exit.

    `run` returns at least `{"manifest": path}`. Exit code: 0; 2 for a UserError; 3 for a GateError; 1 otherwise.
    """
    setup_logging()
    started = time.monotonic()
    code, result = 0, {}
    try:
        use_private_umask()
        arguments = _parser(name, config_cls).parse_intermixed_args(argv)
        config = load_config(config_cls, arguments.config, arguments.overrides)
        if in_ray_job():
            refuse_relative_paths(config)
        else:
            config = absolute_paths(config)
        _preflight(config)
        result = {"status": "ok", **run(config)}
    except GateError as error:
        logger.error("%s: %s", name, error)
        code, result = error.exit_code, {**error.result, "status": "gate_failed", "message": str(error)}
    except FtlibError as error:
        code, result = error.exit_code, _told(name, error)
    except KeyboardInterrupt:
        code, result = 130, {"status": "interrupted"}
    except Exception as error:
        # Ray wraps what a worker raised; a user's error stays one.
        if cause := _user_error_in(error):
            code, result = cause.exit_code, _told(name, cause)
        else:
            traceback.print_exc()
            code, result = 1, {"status": "failed", "message": f"{type(error).__name__}, see the traceback above"}
    logger.info("%s: %s after %s", name, result["status"], format_duration(time.monotonic() - started))
    _finish(name, result, code)


def _told(name: str, error: FtlibError) -> Result:
    """Log an error; the result that goes with it. A file may have 100,000 columns, and a message names them."""
    message = str(error)
    if len(message) > _MAX_MESSAGE_CHARS:
        message = f"{message[:_MAX_MESSAGE_CHARS]} … ({len(message) - _MAX_MESSAGE_CHARS:,} characters more)"
    logger.error("%s: %s", name, UserError(message))  # an error keeps its lines, a name would not
    return {"status": "error", "message": message}


def _preflight(config: JobConfig) -> None:
    """Refuse an output that cannot be written before any work."""
    output = getattr(config, "output", None)
    if isinstance(output, OutputConfig) and config.writes_output:
        check_output(output.path)


def _finish(name: str, result: Result, code: int) -> NoReturn:
    result = {"job": name, "status": result.pop("status"), "manifest": result.pop("manifest", None), **result}
    if result["manifest"]:
        try:
            write_json(join(os.path.dirname(result["manifest"]), "result.json"), result)
        except OSError as error:
            logger.warning("result.json could not be written: %s", error)
    sys.stderr.flush()
    print(json.dumps(result, default=str), flush=True)
    sys.exit(code)


def _user_error_in(error: BaseException | None) -> UserError | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, UserError):
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


def _parser(name: str, config_cls: type[JobConfig]) -> argparse.ArgumentParser:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UserError(f"{message}; see python -m jobs.{name} --help")

    parser = Parser(
        prog=f"python -m jobs.{name}",
        description=f"{(config_cls.__doc__ or '').strip()} Keys are described in README.md.",
        epilog="keys: " + ", ".join(_sections(config_cls)),
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file (or inline JSON)")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="win over the file")
    return parser


def _sections(config_cls: type[JobConfig]) -> list[str]:
    return [
        f"{key}{'' if not field.is_required() else ' (required)'}" for key, field in config_cls.model_fields.items()
    ]
