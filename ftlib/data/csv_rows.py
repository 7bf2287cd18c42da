"""Rows of a CSV or TSV file with a header: the dialect from its first records, the rows as a stream.

The delimiter is that of `, ; tab |` by which the first records have the header's number of cells. Quotes are doubled,
or escaped by a backslash where the first records are well-formed only so.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import BinaryIO

from ftlib.data.csv_records import Dialect, Record, Records
from ftlib.data.csv_source import Source
from ftlib.data.rawrow import RawRow
from ftlib.data.streams import TextForm
from ftlib.data.values import nfc
from ftlib.text.keyed import KeyedHash

_DELIMITERS = ",;\t|"
_SAMPLE_RECORDS = 500
_QUOTED = re.compile(rb'"(?:[^"\\]++|""|\\.)*+"', re.DOTALL)
_BLANKS = b" \r\n"
_SEPARATOR = re.compile(rb'"?sep=(.)"?', re.IGNORECASE)
"""A first line by which spreadsheets tell each other the delimiter."""


def csv_rows(
    reopen: Callable[[int], BinaryIO], form: TextForm, dialect: Dialect, max_bytes: int, hasher: KeyedHash
) -> Iterator[RawRow]:
    """The rows behind the header, in order; the position is the row's number."""
    source = Source(reopen)
    records = Records(source, form, dialect, max_bytes, hasher)
    header: list[str] | None = None
    number = 0
    try:
        for record in records:
            if _is_blank(record, header) or (header is None and _SEPARATOR.fullmatch(record.content.strip(_BLANKS))):
                continue
            if header is None:
                if record.cells is not None:
                    header = column_names(record.cells)
                    records.num_columns = len(header)
                    continue
                header = []
            yield _row(number, record, header)
            number += 1
    finally:
        source.close()


def _is_blank(record: Record, header: list[str] | None) -> bool:
    """Whether a line holds blanks alone; where there is but one column, they are its cell."""
    return record.error is None and (header is None or len(header) > 1) and not record.content.strip(_BLANKS)


def _row(number: int, record: Record, header: list[str]) -> RawRow:
    if record.cells is None:
        return RawRow(number, record.content, error=record.error, digest=record.digest)
    if len(record.cells) > len(header):
        return RawRow(number, record.content, error="too_many_cells")
    cells = [cell.strip() for cell in record.cells]
    cells += [""] * (len(header) - len(cells))
    return RawRow(number, record.content, dict(zip(header, cells, strict=True)))


def column_names(cells: list[str]) -> list[str]:
    """The columns' names: a column without one is called `column_N`, a second of the same name `NAME.2`."""
    names: dict[str, None] = {}
    counts: Counter[str] = Counter()
    for number, cell in enumerate(cells, 1):
        name = wanted = nfc(cell).strip() or f"column_{number}"
        while name in names:
            counts[wanted] += 1
            name = f"{wanted}.{counts[wanted] + 1}"
        names[name] = None
    return list(names)


def find_dialect(
    head: bytes, form: TextForm, *, whole: bool, prefer_tab: bool, backslash: bool | None, max_bytes: int
) -> Dialect:
    """The dialect of a file that begins with `head` (UTF-8 with LF; `whole`: that is all of it)."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    told = _SEPARATOR.fullmatch(head.partition(b"\n")[0].strip(_BLANKS))
    if told:
        head = head.partition(b"\n")[2].lstrip(b"\r\n")
    first_line = _QUOTED.sub(b"", head).partition(b"\n")[0]
    counts = {mark: first_line.count(mark.encode()) for mark in _DELIMITERS}
    several = any(counts.values())
    marks = [mark for mark in _DELIMITERS if counts[mark] or not several]
    if told and told[1].decode("latin-1") in _DELIMITERS:
        marks = [told[1].decode("latin-1")]
    elif prefer_tab and "\t" in marks:
        marks = ["\t"] if several else ["\t", *(mark for mark in marks if mark != "\t")]
    escapes = {None: (None, "\\"), True: ("\\",), False: (None,)}[backslash]
    if b"\\" not in head and backslash is None:
        escapes = (None,)
    candidates = [Dialect(mark, escape) for escape in escapes for mark in marks]
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda dialect: _misfit(head, form, dialect, whole, max_bytes))


def _misfit(head: bytes, form: TextForm, dialect: Dialect, whole: bool, max_bytes: int) -> tuple[float, int]:
    """Share of the first records that have another number of cells than the header, then few columns."""
    source = Source(lambda position: io.BytesIO(head[position:]))
    records = Records(source, form, dialect, max_bytes, KeyedHash(b"", "sample"))
    sizes = []
    for record in islice(records, _SAMPLE_RECORDS):
        sizes.append(-1 if record.cells is None else len(record.cells))
        if len(sizes) == 1:
            records.num_columns = sizes[0]
    if not whole and len(sizes) > 2 and len(sizes) < _SAMPLE_RECORDS:
        # The last one may be cut off.
        sizes.pop()
    bad = sum(size != sizes[0] for size in sizes) + (not sizes or sizes[0] < 0)
    return bad / max(len(sizes), 1), -sizes[0] if sizes else 0
