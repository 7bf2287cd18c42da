"""Which of many expressions a text can match at all, told by one pass over it.

Vectorscan (an open fork of Hyperscan) scans for the relaxed forms of all expressions at once, 300 characters in about
30 µs; only the few that it names are then run as they are. A prefilter never changes a result. Its compiled form, some
five seconds of work, is kept under `FTLIB_HOME` for the next process.
"""

import hashlib
import re
import threading
from collections.abc import Sequence

import hyperscan as hs

from ftlib.core.fingerprints import package_versions
from ftlib.core.logging import get_logger
from ftlib.core.storage import state_home, write_bytes
from ftlib.text.pii.relax import as_bytes, relaxed

logger = get_logger(__name__)

_FLAGS = hs.HS_FLAG_PREFILTER | hs.HS_FLAG_SINGLEMATCH | hs.HS_FLAG_ALLOWEMPTY


class Prefilter:
    """A gate for a list of expressions. Safe to use from several threads."""

    def __init__(self, patterns: Sequence[re.Pattern[str]]) -> None:
        self._all = list(range(len(patterns)))
        expressions = dict(enumerate(map(relaxed, patterns)))
        self._database, self._scanned = _database({i: text for i, text in expressions.items() if text is not None})
        self._always = [i for i in self._all if i not in self._scanned]
        self._local = threading.local()

    def candidates(self, text: str) -> list[int]:
        """Numbers of the expressions that may match the text; those that are left out cannot."""
        content = as_bytes(text)
        if content is None or self._database is None:
            return self._all
        found = list(self._always)
        if not hasattr(self._local, "scratch"):
            self._local.scratch = hs.Scratch(self._database)
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
        database = hs.loadb(path.read_bytes(), hs.HS_MODE_BLOCK)
        if database.info():
            return database, frozenset(expressions)
    except (OSError, hs.error):
        pass  # not compiled yet, or for another processor
    try:
        database = _compiled(expressions)
    except hs.error:
        return _without_refused(expressions)
    try:
        write_bytes(str(path), hs.dumpb(database))
    except OSError as error:
        logger.info("the compiled prefilter is not kept (%s)", error)
    return database, frozenset(expressions)


def _compiled(expressions: dict[int, str]) -> hs.Database:
    database = hs.Database(mode=hs.HS_MODE_BLOCK)
    database.compile(
        expressions=[text.encode() for text in expressions.values()], ids=list(expressions),
        elements=len(expressions), flags=[_FLAGS] * len(expressions),
    )  # fmt: skip
    return database


def _without_refused(expressions: dict[int, str]) -> tuple[hs.Database | None, frozenset[int]]:
    """The user's own expressions may be too large for the engine: those are always run."""
    taken = {}
    for number, text in expressions.items():
        try:
            _compiled({number: text})
        except hs.error:
            continue
        taken[number] = text
    return (_compiled(taken), frozenset(taken)) if taken else (None, frozenset())
