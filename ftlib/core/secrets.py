"""Secrets come from a mounted file or the environment, never from a config.

A secret named `NAME` is read from the file that `NAME_FILE` points to, else from `NAME` itself.
"""

import os
import secrets
from pathlib import Path

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import state_home

logger = get_logger(__name__)

REDACTION_KEY = "FTLIB_KEY"
API_KEYS = "FTLIB_API_KEYS"
INPUT_DB_PASSWORD = "FTLIB_INPUT_DB_PASSWORD"
MIN_KEY_BYTES = 16


def read_secret(name: str) -> str | None:
    """The secret's value, or None when neither the file nor the variable is set."""
    if file := os.environ.get(f"{name}_FILE"):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"{name}_FILE={file}: cannot be read ({error.strerror})") from error
    return os.environ.get(name) or None


def redaction_key(create: bool = True) -> bytes:
    """The key of every keyed hash in prepared data.

    Without `FTLIB_KEY_FILE` or `FTLIB_KEY` a random key is made once in `FTLIB_HOME`, so that a second run on this
    machine gives the same bytes; a cluster should mount one. Raises UserError for a key under 16 bytes, and for none
    where `create` is false: what must match hashes of an earlier time has no use for a new key.
    """
    value = read_secret(REDACTION_KEY)
    if value is None:
        path = state_home() / "redaction.key"
        if not path.exists() and not create:
            raise UserError(
                f"no redaction key: set {REDACTION_KEY}_FILE (or {REDACTION_KEY}) to the key that the data was "
                f"prepared with; there is none in {path} either"
            )
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(secrets.token_hex(32) + "\n")
                logger.warning("no %s_FILE is set: made a redaction key in %s; keep it", REDACTION_KEY, path)
            except FileExistsError:
                pass
        value = path.read_text(encoding="utf-8").strip()
    if len(value.encode()) < MIN_KEY_BYTES:
        raise UserError(
            f"the redaction key ({REDACTION_KEY}) has fewer than {MIN_KEY_BYTES} bytes; "
            "make one with: openssl rand -hex 32"
        )
    return value.encode()
