"""Raw rows of a file or a part of it, streamed: JSONL by byte range, Parquet by row group, others as a whole.

Every row that a file holds comes out exactly once: with its values, or with the class of the error that keeps it from
having any. Memory: one row and a read buffer, whatever a row's length: one beyond the limit is hashed as it passes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from ftlib.data.csv_records import EXCEL, Dialect
from ftlib.data.csv_rows import csv_rows
from ftlib.data.inputs import FileFormat
from ftlib.data.json_document import document_rows
from ftlib.data.json_rows import jsonl_rows
from ftlib.data.parquet_rows import parquet_rows
from ftlib.data.rawrow import RawRow
from ftlib.data.sql import Query, encode
from ftlib.data.streams import PLAIN, Compression, TextForm, open_text
from ftlib.text.keyed import KeyedHash

_SKIP_BYTES = 1 << 20


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
    """JSONL: first byte; Parquet: first row; others: 0."""
    stop: int
    """Lines that begin before this byte, or rows before this number, are read; -1: to the end."""
    row_group: int = -1
    """Parquet: which row group."""
    num_rows_estimate: int = 0
    """About how many rows come out: for progress, and to read small files together."""
    num_bytes: int = 0
    """About how many bytes they are."""
    columns: tuple[str, ...] = ()
    """Parquet: columns that are read."""
    left_columns: tuple[str, ...] = ()
    """Parquet: columns that no record carries on; they are counted, not read."""
    query: Query | None = None
    """SQL: what is asked."""
    form: TextForm = PLAIN
    """JSON and CSV: encoding and line ends."""
    dialect: Dialect = EXCEL
    """CSV: how cells are kept apart."""
    is_document: bool = False
    """JSON: arrays or objects over several lines, not one object a line."""


def iter_rows(task: ReadTask, max_bytes: int, hasher: KeyedHash) -> Iterator[RawRow]:
    """All rows of a task, in order of position."""
    if task.format == "parquet":
        rows = range(task.start, task.stop)
        yield from parquet_rows(
            task.path, task.row_group, rows, columns=task.columns, max_bytes=max_bytes, hasher=hasher
        )
    elif task.query is not None:
        yield from _query_rows(task.query, max_bytes, hasher)
    elif task.format == "csv":
        yield from csv_rows(partial(_open_at, task), task.form, task.dialect, max_bytes, hasher)
    else:
        with open_text(task.path, task.compression, task.form) as file:
            if task.is_document:
                yield from document_rows(file, max_bytes, hasher)
            else:
                yield from jsonl_rows(file, task.start, task.stop, max_bytes, hasher)


def _open_at(task: ReadTask, position: int) -> BinaryIO:
    """The text of a file from a byte on."""
    file = open_text(task.path, task.compression, task.form)
    if task.form.is_plain and not task.compression:
        file.seek(position)
        return file
    while position > 0 and (part := file.read(min(position, _SKIP_BYTES))):
        position -= len(part)
    return file


def _query_rows(query: Query, max_bytes: int, hasher: KeyedHash) -> Iterator[RawRow]:
    for position, values in enumerate(query.rows()):
        content = encode(values)
        if len(content) > max_bytes:
            yield RawRow(position, content[:max_bytes], error="too_long", digest=hasher.digest(content))
        else:
            yield RawRow(position, content, values)
