"""Why rows are no records: reasons with their counts, and where the first row of each lies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import pyarrow as pa

from ftlib.data import schema as s

_MAX_NAMED = 8
MOST = 0.5
"""Share of a source's rows: where more are no records, the source is named in log and report."""


class BrokenFacts(TypedDict):
    """A source of whose rows more than half are no records."""

    source: str
    num_rows: int
    """Rows read of it."""
    num_broken: int
    reasons: list[str]
    """Error classes with their rows and the first position of each."""


def mostly_broken(broken: Mapping[str, int], num_rows: Mapping[str, int]) -> list[str]:
    """Sources of whose rows more than `MOST` are broken, sorted."""
    return sorted(source for source, n in broken.items() if n > MOST * num_rows[source])


@dataclass
class BrokenRows:
    """Rows of `schema.READ` tables that have an error."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    """(error, source) → rows."""
    first: dict[tuple[str, str], int] = field(default_factory=dict)
    """(error, source) → position of the first row."""

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table."""
        rows, errors, sources = (table[name].to_pylist() for name in (s.ROW, s.ERROR, s.SOURCE))
        for row, error, source in zip(rows, errors, sources, strict=True):
            if error is not None:
                self._count((error, source), 1, row & s.MAX_POSITION)

    def _count(self, what: tuple[str, str], num_rows: int, position: int) -> None:
        self.counts[what] = self.counts.get(what, 0) + num_rows
        self.first[what] = min(self.first.get(what, position), position)

    @classmethod
    def merge(cls, parts: Iterable["BrokenRows"]) -> "BrokenRows":
        """The sum of several."""
        found = cls()
        for part in parts:
            for what, num_rows in part.counts.items():
                found._count(what, num_rows, part.first[what])
        return found

    def describe(self) -> str:
        """The reasons, the most frequent first, each with its rows and the place of the first."""
        reasons: dict[str, list[tuple[str, str]]] = {}
        for what in sorted(self.counts, key=lambda what: (what[1], what[0])):
            reasons.setdefault(what[0], []).append(what)
        sizes = {error: sum(self.counts[what] for what in places) for error, places in reasons.items()}
        ordered = sorted(sizes, key=lambda error: (-sizes[error], error))
        listed = [
            f"{error} {sizes[error]} (first in {reasons[error][0][1]} at {self.first[reasons[error][0]]})"
            for error in ordered[:_MAX_NAMED]
        ]
        more = len(ordered) - len(listed)
        return ", ".join(listed) + (f" and {more} more reasons" if more else "")

    def reasons_of(self, source: str) -> list[str]:
        """The reasons of one source, the most frequent first, each with its rows and the position of the first."""
        found = [(error, n) for (error, name), n in self.counts.items() if name == source]
        found.sort(key=lambda item: (-item[1], item[0]))
        return [f"{error}: {n} rows, the first at {self.first[error, source]}" for error, n in found]
