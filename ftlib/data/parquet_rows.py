"""Rows of a Parquet file by row group, with values as Python knows them, whatever their Arrow type.

Memory: about 256 MB and one row as Arrow holds it. A value in a dictionary is stored once and comes out once a row, and
a million equal numbers take a few bytes, so that a file of 2 KB can hold gigabytes: rows are read in batches whose size
follows from what the columns' pages can expand to, and a row that is too long becomes no Python objects.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ftlib.data.arrow_size import hash_row, least_json_bytes
from ftlib.data.rawrow import RawRow
from ftlib.data.streams import open_file
from ftlib.data.values import canonical_json, uuid_text
from ftlib.text.keyed import KeyedHash

_MAX_ROWS = 256
_BATCH_BYTES = 256 << 20
_UUID_BYTES = 16
_VALUE_BYTES = 8
_FAR_TOO_LONG = 8
"""Times the limit: nothing of such a row is kept. Of one that is shorter, the beginning may be."""


def parquet_rows(
    path: str, row_group: int, rows: range, *, columns: Sequence[str], max_bytes: int, hasher: KeyedHash
) -> Iterator[RawRow]:
    """The rows of a row group; a group that cannot be read gives an error for each of its rows."""
    position = rows.start
    try:
        for batch in read_columns(path, row_group, columns):
            uuids = [field.name for field in batch.schema if field.type == pa.binary(_UUID_BYTES)]
            for i in range(batch.num_rows):
                row = batch.slice(i, 1)
                if sum(map(least_json_bytes, row.columns)) > _FAR_TOO_LONG * max_bytes:
                    yield RawRow(position, b"", error="too_long", digest=hash_row(row, hasher.stream()))
                else:
                    yield _row(position, _values(row), uuids, max_bytes, hasher)
                position += 1
    except (OSError, pa.ArrowException):
        for broken in range(position, rows.stop):
            yield RawRow(broken, b"", error="unreadable_row_group")


def read_columns(path: str, row_group: int, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches of some columns of a row group, of bounded size."""
    import pyarrow.parquet as pq

    with open_file(path) as file:
        parquet = pq.ParquetFile(file)
        group = parquet.metadata.row_group(row_group)
        if repeated := _repeated_texts(group, columns):
            parquet = pq.ParquetFile(file, read_dictionary=repeated)
        size = _batch_rows(group, columns)
        yield from parquet.iter_batches(size, row_groups=[row_group], columns=list(columns))


def _repeated_texts(group: Any, columns: Sequence[str]) -> list[str]:
    """Columns inside of lists of which one row may name a long text again and again: they are read as dictionaries."""
    return [
        chunk.path_in_schema
        for chunk in (group.column(i) for i in range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] in columns
        and chunk.physical_type == "BYTE_ARRAY"
        and chunk.has_dictionary_page
        and chunk.num_values > group.num_rows
        and _dictionary_bytes(chunk) * chunk.num_values > _BATCH_BYTES
        and chunk.total_uncompressed_size < _BATCH_BYTES
    ]


def _batch_rows(group: Any, columns: Sequence[str]) -> int:
    """How many rows are read at a time."""
    row_bytes = 0.0
    for i in range(group.num_columns):
        chunk = group.column(i)
        if chunk.path_in_schema.split(".")[0] not in columns:
            continue
        num_bytes = max(chunk.total_uncompressed_size, _VALUE_BYTES * chunk.num_values)
        row_bytes += num_bytes / max(group.num_rows, 1)
        if chunk.has_dictionary_page:
            row_bytes += _dictionary_bytes(chunk)
    return int(min(_MAX_ROWS, max(1, _BATCH_BYTES // max(row_bytes, 1))))


def _dictionary_bytes(chunk: Any) -> float:
    """About the size of a dictionary, which may be a single value that every row refers to."""
    stored = max(chunk.data_page_offset - chunk.dictionary_page_offset, 0)
    ratio = chunk.total_uncompressed_size / max(chunk.total_compressed_size, 1)
    return float(min(stored * ratio, chunk.total_uncompressed_size))


def _values(row: Any) -> dict[str, Any] | str:
    """The values of a batch of one row, or its error."""
    try:
        values: dict[str, Any] = row.to_pylist(maps_as_pydicts="strict")[0]
    except UnicodeError:
        return "bad_utf8"
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return _column_by_column(row)
    return values


def _column_by_column(row: Any) -> dict[str, Any] | str:
    """A row of which some value has no Python form, such as a date in the year 20000: as Arrow writes it."""
    values = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            values[name] = column.to_pylist(maps_as_pydicts="strict")[0]
        except KeyError:
            # A map with a key twice: all its pairs.
            values[name] = column.to_pylist()[0]
        except UnicodeError:
            return "bad_utf8"
        except (ValueError, TypeError, OverflowError, RecursionError):
            text = _arrow_text(column)
            if text is None:
                return "bad_value"
            values[name] = text
    return values


def _arrow_text(column: Any) -> str | None:
    """A value as Arrow writes it, or the number behind a time that no calendar has; None where it is neither."""
    for kind in (pa.string(), pa.int64()):
        try:
            return str(pc.cast(column, kind).to_pylist()[0])
        except (pa.ArrowException, ValueError):
            continue
    return None


def _row(
    position: int, values: dict[str, Any] | str, uuids: Sequence[str], max_bytes: int, hasher: KeyedHash
) -> RawRow:
    if isinstance(values, str):
        return RawRow(position, b"", error=values)
    for name in uuids:
        if values[name] is not None:
            values[name] = uuid_text(values[name])
    try:
        content = _encode(values)
    except UnicodeError:
        return RawRow(position, b"", error="bad_utf8")
    except (ValueError, TypeError, RecursionError):
        return RawRow(position, b"", error="bad_value")
    if len(content) > max_bytes:
        return RawRow(position, content[:max_bytes], error="too_long", digest=hasher.digest(content))
    return RawRow(position, content, values)


def _encode(values: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(values, ensure_ascii=False, default=canonical_json)
    except TypeError:
        # Keys of a map that are no strings.
        text = json.dumps(canonical_json(values), ensure_ascii=False)
    return text.encode("utf-8")
