"""Files to canonical records, as Arrow tables.

In: the tasks of `plan.plan_reads`. Out: tables of `schema.READ`; a row that cannot be read or is no record of the
file's shape carries `error` and nothing else but its position and hashes. `row_key` and the derived `id` depend on the
file's source and the row's position and content alone, so the cut into tasks and blocks changes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.data import schema as s
from ftlib.data.dialogue import Content
from ftlib.data.leftout import LeftOut, num_chars
from ftlib.data.near_keys import FOLDED_PURPOSE, folded_hash
from ftlib.data.parquet_rows import read_columns
from ftlib.data.rawrow import RawRow
from ftlib.data.rowmap import RowMap
from ftlib.data.rows import ReadTask, iter_rows
from ftlib.data.shapes import subject_of, to_content
from ftlib.data.values import RowError, as_json
from ftlib.text.keyed import KeyedHash

logger = get_logger(__name__)

SUBJECT_PURPOSE = "subject"
_KEPT_OF_BROKEN = (s.ROW, s.SOURCE, s.SUBJECT, s.SUBJECT_FOLDED, s.CONTENT_HASH, s.RAW, s.LEFT_OUT)
_TABLE_BYTES = 16 << 20
_GROUP_TASKS = 512
_GROUP_BYTES = 4 << 20


@dataclass(frozen=True)
class ReadSettings:
    """What every read task needs."""

    input: InputConfig
    key: bytes
    rows_per_block: int
    keep_raw: bool = False


@dataclass(frozen=True)
class Selection:
    """Which rows a pass reads."""

    skip: tuple[RowMap, ...] = ()
    """Rows that are left out."""
    take: RowMap | None = None
    """Rows that alone are read; None: all."""

    def without(self, rows: RowMap) -> "Selection":
        """The same without `rows`."""
        return Selection((*self.skip, rows), self.take)

    def of(self, task: ReadTask) -> tuple[frozenset[int], frozenset[int] | None]:
        """Positions in a task's part of its file to skip, and to take (None: all)."""
        take = None if self.take is None else _positions(self.take, task)
        return frozenset().union(*(_positions(rows, task) for rows in self.skip)), take


def subject_hash(hasher: KeyedHash, subject: str) -> str:
    """What stands in a dataset for a subject's key. `hasher`: `KeyedHash(key, SUBJECT_PURPOSE)`."""
    return hasher.hex(subject.encode("utf-8", "surrogatepass"))


def _positions(rows: RowMap, task: ReadTask) -> frozenset[int]:
    first = task.rank << s.ROW_POSITION_BITS
    last = s.MAX_POSITION if task.stop < 0 else task.stop - 1
    found = rows.between(first | task.start, first | last)
    return frozenset((found & np.uint64(s.MAX_POSITION)).tolist())


def read_records(task: ReadTask, settings: ReadSettings, selection: Selection | None = None) -> Iterator[pa.Table]:
    """Tables of `schema.READ` with the selected rows of one task, in order of position."""
    skip, take = (selection or Selection()).of(task)
    # Later passes read the same rows again: what is left out is counted once.
    builder = _Builder(task, settings, None if selection else _columns_left(task))
    content_hash = KeyedHash(settings.key, "content")
    for row in iter_rows(task, settings.input.max_record_bytes, content_hash):
        if row.position in skip or (take is not None and row.position not in take):
            continue
        builder.add(row, row.digest or content_hash.digest(row.content))
        if builder.full:
            yield builder.build()
    if builder.num_rows:
        yield builder.build()


def _columns_left(task: ReadTask) -> LeftOut:
    """Counts of Parquet columns that are not read; of a row group that cannot be read the rows say so."""
    left = LeftOut()
    for name in task.left_columns:
        try:
            for batch in read_columns(task.path, task.row_group, [name]):
                left.add_column(task.source, name, pa.chunked_array([batch.column(0)]))
        except (OSError, pa.ArrowException):
            return LeftOut()
    return left


def group_tasks(tasks: Sequence[ReadTask], rows_per_block: int) -> list[list[ReadTask]]:
    """Tasks that are read together, in order: small files, of which each alone would cost more than its rows."""
    groups: list[list[ReadTask]] = []
    num_rows = num_bytes = 0
    for task in tasks:
        num_rows, num_bytes = num_rows + task.num_rows_estimate, num_bytes + task.num_bytes
        full = num_rows > rows_per_block or num_bytes > _GROUP_BYTES or (groups and len(groups[-1]) >= _GROUP_TASKS)
        if not groups or full or task.query is not None:
            groups.append([])
            num_rows, num_bytes = task.num_rows_estimate, task.num_bytes
        groups[-1].append(task)
    return groups


def read_group(
    tasks: Sequence[ReadTask], settings: ReadSettings, selection: Selection | None = None
) -> Iterator[pa.Table]:
    """`read_records` of several tasks, the tables of small ones joined. Raises UserError for a file that is gone."""
    waiting: list[pa.Table] = []
    num_rows = num_bytes = 0
    for task in tasks:
        try:
            for table in read_records(task, settings, selection):
                waiting.append(table)
                num_rows, num_bytes = num_rows + table.num_rows, num_bytes + table.nbytes
                if num_rows >= settings.rows_per_block or num_bytes >= _TABLE_BYTES:
                    yield pa.concat_tables(waiting).combine_chunks()
                    waiting, num_rows, num_bytes = [], 0, 0
        except FileNotFoundError:
            raise UserError(
                f"{task.path}: a worker does not see this file; put it where all nodes do, or at a URI"
            ) from None
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


class _Builder:
    """Collects rows until a table is full."""

    def __init__(self, task: ReadTask, settings: ReadSettings, left: LeftOut | None) -> None:
        self._task, self._settings = task, settings
        self._id_hash, self._subject_hash = KeyedHash(settings.key, "id"), KeyedHash(settings.key, SUBJECT_PURPOSE)
        self._folded_hash = KeyedHash(settings.key, FOLDED_PURPOSE)
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self._left = left

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        return len(self._rows) >= self._settings.rows_per_block or self._size >= _TABLE_BYTES

    def add(self, row: RawRow, digest: bytes) -> None:
        """Append a row as a record, or with its error."""
        self._size += len(row.content)
        derived = self._id_hash.hex(f"{self._task.source}\0{row.position}\0".encode() + digest)
        record: dict[str, Any] = {
            s.ROW: (self._task.rank << s.ROW_POSITION_BITS) | row.position,
            s.SOURCE: self._task.source,
            s.CONTENT_HASH: digest.hex(),
            s.ID: derived,
            s.DERIVED: True,
        }
        error = row.error
        if row.values is not None:
            try:
                # Of a row without content too: what holds a person's row must be found by the person's key.
                record.update(self._subject(row.values))
                content = to_content(row.values, self._task.shape, self._settings.input)
                record.update(self._fields(content))
                if self._left is not None:
                    self._left.add(self._task.source, num_chars(row.values), content.left_out)
            except RowError as problem:
                error = problem.error
            except RecursionError:
                error = "nested_too_deep"
            except Exception as problem:
                # Whatever a value did, it costs its own row, not the job.
                logger.warning("%s: row %d: unexpected %s", self._task.source, row.position, type(problem).__name__)
                error = "unexpected"
        if error is not None:
            record[s.ERROR] = error
        if self._settings.keep_raw:
            # Kept for every row until the end: redaction may still quarantine it.
            record[s.RAW] = row.content[: self._settings.input.max_record_bytes]
        self._rows.append(record)

    def _subject(self, values: dict[str, Any]) -> dict[str, str | None]:
        subject = subject_of(values, self._settings.input)
        if not subject:
            return {s.SUBJECT: None, s.SUBJECT_FOLDED: None}
        folded = folded_hash(self._folded_hash, subject)
        return {s.SUBJECT: subject_hash(self._subject_hash, subject), s.SUBJECT_FOLDED: folded}

    def _fields(self, content: Content) -> dict[str, Any]:
        fields: dict[str, Any] = {
            s.MESSAGES: content.messages,
            s.TEXT: content.text,
            s.REJECTED: content.rejected,
            s.LABEL: content.label,
            s.WEIGHT: content.weight,
            s.METADATA: as_json(content.metadata),
            s.TOOLS: content.tools,
        }
        if content.id:
            fields |= {s.ID: content.id, s.DERIVED: False}
        return fields

    def build(self) -> pa.Table:
        """The table of the rows so far; starts the next one."""
        rows, self._rows, self._size = self._rows, [], 0
        if self._left is not None:
            rows[0][s.LEFT_OUT], self._left = self._left.as_json(), LeftOut()
        try:
            return pa.Table.from_pylist(rows, schema=s.READ)
        except (UnicodeError, pa.ArrowInvalid, pa.ArrowTypeError):
            # A lone surrogate somewhere (JSON can spell them): find the rows that have one.
            return pa.concat_tables(self._build_one(row) for row in rows)

    @staticmethod
    def _build_one(row: dict[str, Any]) -> pa.Table:
        try:
            return pa.Table.from_pylist([row], schema=s.READ)
        except (UnicodeError, pa.ArrowInvalid, pa.ArrowTypeError):
            kept = {name: row.get(name) for name in _KEPT_OF_BROKEN}
            # A given id may be what is broken; the row needs none in quarantine.
            return pa.Table.from_pylist([{**kept, s.ID: "", s.DERIVED: True, s.ERROR: "bad_unicode"}], schema=s.READ)
