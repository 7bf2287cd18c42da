"""Raw rows of a file or a part of it, streamed: JSONL by byte range, Parquet by row group, CSV and SQL as a whole.

Every row that a file holds comes out exactly once: with its values, or with the class of the error that keeps it from
having any. Memory: one row and a read buffer, whatever a line's length: a line beyond the limit is hashed as it passes.
"""

import csv
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ftlib.data.inputs import Compression, FileFormat, open_file
from ftlib.data.sql import Query, encode
from ftlib.text.keyed import KeyedHash

_BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 1 << 20
_PARQUET_ROWS = 256
_BROKEN_STREAM = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class ReadTask:
    """A part of a file that one task reads."""

    path: str
    source: str
    rank: int
    format: FileFormat
    compression: Compression
    shape: str
    start: int
    """JSONL: first byte; Parquet: first row; CSV and SQL: 0."""
    stop: int
    """Lines that begin before this byte, or rows before this number, are read; -1: to the end."""
    row_group: int = -1
    """Parquet: which row group."""
    num_rows_estimate: int = 0
    """About how many rows come out: for progress only."""
    columns: tuple[str, ...] = ()
    """Parquet: columns that are read."""
    left_columns: tuple[str, ...] = ()
    """Parquet: columns that no record carries on; they are counted, not read."""
    query: Query | None = None
    """SQL: what is asked."""


@dataclass(frozen=True)
class RawRow:
    """One row. Exactly one of `values` and `error` is set."""

    position: int
    content: bytes
    """Its bytes in the file (for Parquet its JSON), or the first of them where it is too long."""
    values: dict[str, Any] | None = None
    error: str | None = None
    digest: bytes | None = None
    """Hash of the whole content where `content` is not all of it."""


def iter_rows(task: ReadTask, max_bytes: int, hasher: KeyedHash) -> Iterator[RawRow]:
    """All rows of a task, in order of position."""
    if task.format == "parquet":
        yield from _parquet_rows(task, max_bytes)
        return
    if task.query is not None:
        yield from _query_rows(task.query, max_bytes)
        return
    with open_file(task.path, task.compression) as file:
        if task.format == "csv":
            yield from _csv_rows(file, max_bytes, hasher)
        else:
            yield from _jsonl_rows(file, task, max_bytes, hasher)


@dataclass(frozen=True)
class _Line:
    position: int
    content: bytes
    digest: bytes | None = None
    broken: bool = False


def _lines(file: BinaryIO, position: int, stop: int, max_bytes: int, hasher: KeyedHash) -> Iterator[_Line]:
    """Lines that begin before `stop`; of one longer than `max_bytes` the beginning and the hash of the whole."""
    while stop < 0 or position < stop:
        begin, line, digest = position, b"", None
        try:
            line = file.readline(max_bytes + 1)
            position += len(line)
            if len(line) > max_bytes and not line.endswith(b"\n"):
                stream = hasher.stream()
                stream.update(line)
                part = line
                while part and not part.endswith(b"\n"):
                    part = file.readline(_SKIP_BYTES)
                    position += len(part)
                    stream.update(part)
                digest = stream.digest()
        except _BROKEN_STREAM:
            yield _Line(begin, line, digest, broken=True)
            return
        if not line:
            return
        yield _Line(begin, line, digest)


def _jsonl_rows(file: BinaryIO, task: ReadTask, max_bytes: int, hasher: KeyedHash) -> Iterator[RawRow]:
    position = task.start
    if position > 0:
        # The line that the byte before belongs to is the previous task's.
        file.seek(position - 1)
        position -= 1
        part = b" "
        while part and not part.endswith(b"\n"):
            part = file.readline(_SKIP_BYTES)
            position += len(part)
    for line in _lines(file, position, task.stop, max_bytes, hasher):
        content = line.content.removeprefix(_BOM) if line.position == 0 else line.content
        if line.broken:
            yield RawRow(line.position, content, error="truncated_file", digest=line.digest)
        elif line.digest is not None:
            yield RawRow(line.position, content, error="too_long", digest=line.digest)
        elif content.strip():
            yield _parse_json(line.position, content)


def _parse_json(position: int, content: bytes) -> RawRow:
    try:
        values = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        return RawRow(position, content, error="bad_utf8")
    except RecursionError:
        return RawRow(position, content, error="nested_too_deep")
    except ValueError:
        return RawRow(position, content, error="bad_json")
    if not isinstance(values, dict):
        return RawRow(position, content, error="not_an_object")
    return RawRow(position, content, values)


def _csv_rows(file: BinaryIO, max_bytes: int, hasher: KeyedHash) -> Iterator[RawRow]:
    """Rows of a CSV file with a header; the position is the row's number."""
    records = _csv_records(_lines(file, 0, -1, max_bytes, hasher), max_bytes)
    header: list[str] | None = None
    delimiter, number = ",", 0
    for line in records:
        content = line.content.removeprefix(_BOM) if line.position == 0 else line.content
        if header is None:
            text = content.decode("utf-8", "replace")
            delimiter = max(",;\t", key=text.count)
            header = [name.strip() for name in next(csv.reader([text], delimiter=delimiter), [])]
            continue
        if not line.broken and not content.strip():
            continue
        yield _parse_csv(number, line, content, header, delimiter)
        number += 1


def _csv_records(lines: Iterable[_Line], max_bytes: int) -> Iterator[_Line]:
    """Join lines inside quotes. A quote that is never closed costs its own line, not the rest of the file."""
    waiting: list[_Line] = []

    def joined() -> _Line:
        return _Line(waiting[0].position, b"".join(line.content for line in waiting))

    size, quotes = 0, 0
    for line in lines:
        waiting.append(line)
        size, quotes = size + len(line.content), quotes + line.content.count(b'"')
        if line.digest is not None or line.broken or size > max_bytes:
            yield from waiting
        elif quotes % 2 == 0:
            yield joined()
        else:
            continue
        waiting, size, quotes = [], 0, 0
    yield from waiting


def _parse_csv(number: int, line: _Line, content: bytes, header: list[str], delimiter: str) -> RawRow:
    error = "truncated_file" if line.broken else "too_long" if line.digest is not None else None
    if error is None and content.count(b'"') % 2:
        error = "unclosed_quote"
    if error is not None:
        return RawRow(number, content, error=error, digest=line.digest)
    try:
        text = content.decode("utf-8")
        cells = next(csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True), [])
    except UnicodeDecodeError:
        return RawRow(number, content, error="bad_utf8")
    except csv.Error:
        return RawRow(number, content, error="bad_csv")
    if len(cells) > len(header):
        return RawRow(number, content, error="too_many_cells")
    cells += [""] * (len(header) - len(cells))
    return RawRow(number, content, dict(zip(header, cells, strict=True)))


def _parquet_rows(task: ReadTask, max_bytes: int) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    position = task.start
    try:
        with open_file(task.path) as file:
            batches = pq.ParquetFile(file).iter_batches(
                _PARQUET_ROWS, row_groups=[task.row_group], columns=list(task.columns)
            )
            for batch in batches:
                for i in range(batch.num_rows):
                    yield _parse_arrow(position, batch.slice(i, 1), max_bytes)
                    position += 1
    except (OSError, pa.ArrowException):
        for broken in range(position, task.stop):
            yield RawRow(broken, b"", error="unreadable_row_group")


def _query_rows(query: Query, max_bytes: int) -> Iterator[RawRow]:
    for position, values in enumerate(query.rows()):
        content = encode(values)
        too_long = len(content) > max_bytes
        yield RawRow(position, content, None if too_long else values, "too_long" if too_long else None)


def _parse_arrow(position: int, row: Any, max_bytes: int) -> RawRow:
    if row.nbytes > max_bytes:
        return RawRow(position, b"", error="too_long")
    try:
        values = row.to_pylist()[0]
        content = json.dumps(values, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeError:
        return RawRow(position, b"", error="bad_utf8")
    except (ValueError, TypeError, RecursionError):
        return RawRow(position, b"", error="bad_value")
    return RawRow(position, content, values)
