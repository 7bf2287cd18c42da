"""Which of many expressions a text can match at all, told by one pass over it.

Vectorscan (an open fork of Hyperscan) scans for the relaxed forms of all expressions at once, 300 characters in about
30 µs; only the few that it names are then run as they are. A prefilter never changes a result. Its compiled form, some
five seconds of work, is kept under `FTLIB_HOME` for the next process.
"""

import hashlib
import os
import re
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import hyperscan as hs

from ftlib.core.fingerprints import package_versions
from ftlib.core.logging import get_logger
from ftlib.core.storage import state_home, write_bytes
from ftlib.text.pii.relax import as_ascii_bytes, as_bytes, relaxed

logger = get_logger(__name__)

_MAX_CHARS = 16_000
"""The engine's limit. It would refuse all expressions for one, and each had to be tried anew in every process."""
_FLAGS = hs.HS_FLAG_PREFILTER | hs.HS_FLAG_SINGLEMATCH | hs.HS_FLAG_ALLOWEMPTY


class Prefilter:
    """A gate for a list of expressions. Safe to use from several threads."""

    def __init__(self, patterns: Sequence[re.Pattern[str]]) -> None:
        self._all = list(range(len(patterns)))
        expressions = {i: text for i, text in enumerate(map(relaxed, patterns)) if text and len(text) <= _MAX_CHARS}
        self._database, self._scanned = _database(expressions)
        self._always = [i for i in self._all if i not in self._scanned]
        self._ascii = frozenset(i for i, pattern in enumerate(patterns) if pattern.flags & re.ASCII)
        self._local = threading.local()

    def candidates(self, text: str) -> list[int]:
        """Numbers of the expressions that may match the text; those that are left out cannot."""
        if self._database is None:
            return self._all
        found = list(self._always)
        if text.isascii():
            return found + self._scan(text.encode("ascii"))
        content = as_bytes(text)
        # Expressions of the two kinds see other bytes where a character is none of ASCII.
        found += [i for i in self._scan(as_ascii_bytes(text)) if i in self._ascii]
        others = self._scan(content) if content is not None else self._scanned
        return found + [i for i in others if i not in self._ascii]

    def _scan(self, content: bytes) -> list[int]:
        found: list[int] = []
        if not hasattr(self._local, "scratch"):
            self._local.scratch = hs.Scratch(self._database)
        assert self._database is not None
        self._database.scan(
            content, match_event_handler=lambda number, *_: found.append(number), scratch=self._local.scratch
        )
        return found


def _database(expressions: dict[int, str]) -> tuple[hs.Database | None, frozenset[int]]:
    """Compiled expressions, and the numbers of those that the engine could take."""
    if not expressions:
        return None, frozenset()
    version = package_versions(("hyperscan",))["hyperscan"]
    key = hashlib.sha256(repr((version, sorted(expressions.items()))).encode()).hexdigest()[:32]
    path = state_home() / "prefilter" / f"{key}.hs"
    try:
        database = hs.loadb(_trusted_bytes(path), hs.HS_MODE_BLOCK)
        if database.info():
            return database, frozenset(expressions)
    except (OSError, hs.error):
        pass  # not compiled yet, for another processor, or written by someone else
    try:
        database = _compiled(expressions)
    except hs.error:
        taken = _without_refused(expressions)
        return _database(taken) if len(taken) < len(expressions) else (None, frozenset())
    try:
        write_bytes(str(path), hs.dumpb(database))
    except OSError as error:
        logger.info("the compiled prefilter is not kept (%s)", error)
    return database, frozenset(expressions)


def _trusted_bytes(path: Path) -> bytes:
    """A file of ours that nobody else can write: the engine runs what it holds.

    Raises PermissionError for another's file, for one that others may write, and for a link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            logger.warning("%s is not used: it belongs to someone else, or others may write to it", path)
            raise PermissionError(path)
        return file.read()


def _compiled(expressions: dict[int, str]) -> hs.Database:
    database = hs.Database(mode=hs.HS_MODE_BLOCK)
    database.compile(
        expressions=[text.encode() for text in expressions.values()], ids=list(expressions),
        elements=len(expressions), flags=[_FLAGS] * len(expressions),
    )  # fmt: skip
    return database


def _without_refused(expressions: dict[int, str]) -> dict[int, str]:
    """Those that the engine takes: the user's own may be too large for it, and are then always run."""
    taken = {}
    for number, text in expressions.items():
        try:
            _compiled({number: text})
        except hs.error:
            logger.info("an expression of %d characters is too large for the prefilter: it is always run", len(text))
            continue
        taken[number] = text
    return taken
