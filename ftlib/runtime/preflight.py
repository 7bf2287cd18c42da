"""Checks before work starts: what would fail after an hour fails in the first second, with the next step."""

import os
from contextlib import suppress

from ftlib.core.errors import UserError
from ftlib.core.storage import filesystem, free_bytes, is_uri, local_path, reaching

MIN_FREE_BYTES = 200 * 1024 * 1024
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss")


def check_output(path: str, needed_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise UserError unless a result can be written to `path`: reachable, writable, with room for `needed_bytes`."""
    if is_uri(path):
        _check_remote(path)
        return
    target = local_path(path).absolute()
    if target.exists() and not target.is_dir():
        raise UserError(f"output.path={path} is a file; name a folder")
    probe = target
    while not probe.exists():
        probe = probe.parent
    if not probe.is_dir():
        raise UserError(f"output.path={path}: {probe} is a file, so no folder can be made below it")
    if not os.access(probe, os.W_OK | os.X_OK):
        raise UserError(f"output.path={path}: {probe} is not writable by this user ({_user()})")
    free = free_bytes(path)
    if free is not None and free < needed_bytes:
        raise UserError(
            f"output.path={path}: {free / 1e9:.2f} GB are free there, about {needed_bytes / 1e9:.2f} GB are needed"
        )


def _check_remote(path: str) -> None:
    fs, inner = filesystem(path)
    with reaching(path, "output.path"):
        fs.exists(inner)
        if path.split("://", 1)[0] in _OBJECT_STORES:
            with suppress(PermissionError):  # a policy may allow some prefixes only
                # `exists` says no to a bucket that is not there; this says why.
                fs.info(inner.split("/", 1)[0])


def _user() -> str:
    return f"uid {os.getuid()}"
