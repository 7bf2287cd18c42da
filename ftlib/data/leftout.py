"""What a file holds and no record carries on: columns and keys, counted by name while the input is read.

In: each row with the names that its record leaves out. Out: `LeftOut`, which adds up in any order: rows and characters
of text by source and name, never a value. A table of `schema.READ` carries the count of all its rows as JSON in the
`left_out` of its first one, so that the first pass brings them to the driver with one small text a table. Columns of
Parquet that are not even read are counted by Arrow, without a Python object for any value.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from ftlib.core.errors import UserError
from ftlib.data.values import is_blank

MOST = 0.5
"""Share of a file's text above which what is left out is a grave finding."""
_PLAIN_NAME = re.compile(r"[^\W\d][\w .\[\]-]{0,79}")
_MANY_DIGITS = re.compile(r"\d{4}")
_NUM_MANY_DIGITS, _MAX_NAME_CHARS = 4, 80
UNUSUAL = "(names with digits or signs)"
"""Stands for names that may themselves be personal or numbered without end."""
_SHOWN = 8
_MAX_NAMES = 20
"""Columns that a message names; a flattened export has thousands."""


class LeftOutFacts(TypedDict):
    """A column or key of a source that no record carries on."""

    source: str
    name: str
    """`category`, `messages[].audio` …"""
    num_rows: int
    share_of_text: float
    """Of all characters of text in the source."""


@dataclass
class LeftOut:
    """Counters by source; they add up."""

    num_chars: Counter[str] = field(default_factory=Counter)
    """Source → characters of text in all its rows."""
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(source, name) → rows that have it."""
    chars: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(source, name) → characters of text in it."""

    def __add__(self, other: "LeftOut") -> "LeftOut":
        # Counter's + drops zeros, which are right for the characters of a number.
        return LeftOut(self.num_chars + other.num_chars, self.rows + other.rows, self.chars + other.chars)

    def add(self, source: str, num_chars: int, left: Mapping[str, int]) -> None:
        """Count one row: characters of its text, and the names that are left out with theirs."""
        self.num_chars[source] += num_chars
        for name in {shown_name(name) for name in left}:
            self.rows[source, name] += 1
        for name, count in left.items():
            self.chars[source, shown_name(name)] += count

    def add_column(self, source: str, name: str, column: pa.ChunkedArray) -> None:
        """Count a column of Parquet that is not read."""
        num_rows, count = _column_counts(column)
        self.num_chars[source] += count
        if num_rows:
            self.rows[source, shown_name(name)] += num_rows
            self.chars[source, shown_name(name)] += count

    def as_json(self) -> str:
        """One text."""
        names = [[source, name, n, self.chars[source, name]] for (source, name), n in sorted(self.rows.items())]
        return json.dumps([sorted(self.num_chars.items()), names])

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> "LeftOut":
        """The sum of several, each as `as_json` gives it."""
        total = cls()
        for text in texts:
            if text is None:
                continue
            sizes, names = json.loads(text)
            total.num_chars.update(dict(sizes))
            for source, name, num_rows, count in names:
                total.rows[source, name] += num_rows
                total.chars[source, name] += count
        return total

    def facts(self) -> list[LeftOutFacts]:
        """What the report says: by source, what holds most text first."""
        order = sorted(self.rows, key=lambda key: (key[0], -self.chars[key], key[1]))
        return [
            {
                "source": source,
                "name": name,
                "num_rows": self.rows[source, name],
                "share_of_text": round(self.chars[source, name] / max(self.num_chars[source], 1), 4),
            }
            for source, name in order
        ]


def hide_people(found: Sequence[LeftOutFacts], stored: Callable[[str, str, str], str | None]) -> list[LeftOutFacts]:
    """The same with names that identify someone hashed. `stored`: `redact.NameScanner.name`."""
    return [{**row, "name": stored("key", "", row["name"]) or row["name"]} for row in found]


def refuse_left_out(found: Sequence[LeftOutFacts]) -> None:
    """Raise UserError, under `input.strict`, when anything is left out."""
    if not found:
        return
    named = [f"{row['name']} ({row['source']}: {row['num_rows']} rows, {row['share_of_text']:.1%} of its text)"
             for row in found]  # fmt: skip
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    raise UserError(
        f"input.strict: no record carries on {', '.join(named[:_SHOWN])}{more}. Take these columns or keys out, put "
        "columns into metadata or name them in input.template, or set input.strict=false to leave them out"
    )


def is_nothing(value: Any) -> bool:
    """Whether a value says nothing: null, empty text, or an empty list or object."""
    return is_blank(value) or (isinstance(value, (list, tuple, Mapping)) and not value)


def num_chars(value: Any) -> int:
    """Characters of all strings in a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(num_chars, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(num_chars, value))
    return len(value) if isinstance(value, bytes) else 0


def shown_name(name: str) -> str:
    """A column's or key's name for logs, messages and reports: one that may be personal itself is not quoted."""
    return name if _PLAIN_NAME.fullmatch(name) and not _MANY_DIGITS.search(name) else UNUSUAL


def _is_harmless(name: str) -> bool:
    """Whether a name can be quoted in a message: no mail address, no long number, nothing that does not print.

    It may have signs, by which a reader sees that a delimiter was not understood.
    """
    few = sum(map(str.isdigit, name)) < _NUM_MANY_DIGITS
    return few and "@" not in name and len(name) <= _MAX_NAME_CHARS and name.isprintable()


def shown_names(names: Sequence[str]) -> str:
    """Some columns for a message: the first twenty, and how many more there are."""
    shown = list(dict.fromkeys(name if _is_harmless(name) else UNUSUAL for name in names))
    more = f" and {len(shown) - _MAX_NAMES} more" if len(shown) > _MAX_NAMES else ""
    return (", ".join(shown[:_MAX_NAMES]) or "(none)") + more


def _column_counts(column: pa.ChunkedArray) -> tuple[int, int]:
    """Rows with a value, and characters of all strings in them."""
    kind = column.type
    num_rows = len(column) - column.null_count
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        lengths = pc.utf8_length(column)
        return int(pc.sum(pc.greater(lengths, 0)).as_py() or 0), int(pc.sum(lengths).as_py() or 0)
    return num_rows, sum(map(_num_string_chars, column.chunks))


def _num_string_chars(array: pa.Array) -> int:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return int(pc.sum(pc.utf8_length(array)).as_py() or 0)
    if pa.types.is_dictionary(kind):
        return _num_string_chars(array.dictionary_decode())
    if pa.types.is_struct(kind):
        return sum(map(_num_string_chars, array.flatten()))
    if pa.types.is_map(kind):
        return _num_string_chars(array.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _num_string_chars(array.flatten())
    return 0
