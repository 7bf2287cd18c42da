"""The plan of what each task reads: every file's form and shape, found from its beginning, and its cut into tasks."""

import io
import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.data.csv_rows import find_dialect
from ftlib.data.encodings import text_form
from ftlib.data.inputs import InputFile
from ftlib.data.json_rows import is_document
from ftlib.data.leftout import shown_names
from ftlib.data.rawrow import RawRow
from ftlib.data.rows import ReadTask, iter_rows
from ftlib.data.shapes import readable_columns, resolve_shape, used_columns
from ftlib.data.streams import BROKEN_STREAM, open_file, open_text
from ftlib.text.keyed import KeyedHash

logger = get_logger(__name__)

_PEEK_ROWS = 64
_PEEK_LINES = 1000
_HEAD_BYTES = 1 << 20
_PLAN_THREADS = 16
_COMPRESSION_RATIO = 4


@dataclass
class _Peek:
    """What the first rows of a file say."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    num_seen: int = 0
    num_bytes: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    """Error → position of the first row that has it."""

    def add(self, row: RawRow) -> None:
        self.num_seen += 1
        self.num_bytes += len(row.content)
        if row.values is not None:
            self.rows.append(row.values)
        elif row.error is not None:
            self.errors[row.error] += 1
            self.first.setdefault(row.error, row.position)

    def reasons(self) -> str:
        """The errors with their counts and the position of the first row of each."""
        listed = sorted(self.errors.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{error} {count} (first at {self.first[error]})" for error, count in listed)


def plan_reads(files: Sequence[InputFile], config: InputConfig, key: bytes) -> list[ReadTask]:
    """Detect each file's shape and cut it into tasks; raises UserError for an unknown shape or when all are empty."""
    with ThreadPoolExecutor(max_workers=_PLAN_THREADS) as pool:
        plans = list(pool.map(lambda file: _plan_file(file, config, KeyedHash(key, "content")), files))
    tasks = [task for plan in plans if not isinstance(plan, _Beside) for task in plan]
    beside = [plan for plan in plans if isinstance(plan, _Beside)]
    if beside and not tasks:
        raise beside[0].problem
    if beside:
        sources = ", ".join(plan.source for plan in beside[:10])
        logger.info("passed over: %d JSON files of one object that is no record: %s", len(beside), sources)
    if not tasks:
        raise UserError(f"input.paths: no rows in {', '.join(file.source for file in files[:3])}")
    return tasks


@dataclass(frozen=True)
class _Beside:
    """A JSON file that was found among others and holds a single object that is no record."""

    source: str
    problem: UserError


def _plan_file(file: InputFile, config: InputConfig, hasher: KeyedHash) -> list[ReadTask] | _Beside:
    whole = ReadTask(file.path, file.source, file.rank, file.format, file.compression, "", 0, -1, query=file.query)
    if file.format == "parquet":
        tasks = _row_groups(whole)
    else:
        tasks = [whole if file.query is not None else _with_form(whole, config)]
    if not tasks or file.size_bytes == 0:
        logger.warning("%s: empty", file.source)
        return []
    peek = _peek(tasks[0], config, hasher)
    if peek.num_seen == 0:
        logger.warning("%s: no rows", file.source)
        return []
    if not peek.rows:
        raise UserError(_no_record(tasks[0], peek))
    try:
        shape = resolve_shape(file.source, peek.rows, config)
    except UserError as problem:
        if not file.named and file.format == "jsonl" and peek.num_seen == 1:
            return _Beside(file.source, problem)
        raise UserError(f"{problem}{_wrapper_hint(peek)}") from None
    _log_columns(file, peek, shape, config)
    if file.format == "parquet":
        used = readable_columns(shape, config)
        names = tuple(column for column in tasks[0].columns if column in used)
        others = tuple(column for column in tasks[0].columns if column not in used)
        return [
            replace(task, shape=shape, columns=names, left_columns=others, num_rows_estimate=task.stop - task.start)
            for task in tasks
        ]
    unpacked = file.size_bytes * (_COMPRESSION_RATIO if file.compression else 1)
    estimate = max(peek.num_seen, round(unpacked * peek.num_seen / max(peek.num_bytes, 1)))
    task = replace(tasks[0], shape=shape, num_rows_estimate=estimate, num_bytes=unpacked)
    return _pieces(task, file.size_bytes, config.chunk_bytes)


def _log_columns(file: InputFile, peek: _Peek, shape: str, config: InputConfig) -> None:
    columns = {column for row in peek.rows for column in row}
    if unused := sorted(columns - used_columns(shape, config)):
        logger.info("%s: columns that are left out: %s", file.source, shown_names(unused))
    logger.info("%s: %s, %s", file.source, file.format, shape)


def _wrapper_hint(peek: _Peek) -> str:
    """What to do with a single object that holds the records in a list."""
    if peek.num_seen != 1:
        return ""
    lists = [name for name, value in peek.rows[0].items() if isinstance(value, list) and value]
    lists = [name for name in lists if all(isinstance(item, dict) for item in peek.rows[0][name])]
    if len(lists) != 1:
        return ""
    return f". The records seem to lie in the list {lists[0]!r}: jq -c '.[\"{lists[0]}\"][]' FILE > FILE.jsonl"


def _pieces(whole: ReadTask, size_bytes: int, chunk_bytes: int) -> list[ReadTask]:
    """Cut a file of one UTF-8 record a line; others are read as a whole."""
    cuttable = whole.format == "jsonl" and not whole.compression and not whole.is_document and whole.form.is_plain
    if not cuttable or size_bytes <= chunk_bytes:
        return [whole]
    starts = range(0, size_bytes, chunk_bytes)
    rows_each = -(-whole.num_rows_estimate // len(starts))
    return [
        replace(
            whole,
            start=start,
            stop=min(start + chunk_bytes, size_bytes),
            num_rows_estimate=rows_each,
            num_bytes=chunk_bytes,
        )
        for start in starts
    ]


def _with_form(task: ReadTask, config: InputConfig) -> ReadTask:
    """The task with encoding, line ends, and dialect or layout."""
    raw = _head(open_file, task.path, task.compression)
    form = text_form(task.source, raw, config.encoding, csv=task.format == "csv")
    head = raw if form.is_plain else _head(open_text, task.path, task.compression, form)
    whole = len(head) < _HEAD_BYTES
    if task.format != "csv":
        return replace(task, form=form, is_document=is_document(head, whole=whole))
    dialect = find_dialect(
        head,
        form,
        whole=whole,
        prefer_tab=".tsv" in task.path.rsplit("/", 1)[-1].lower(),
        backslash=config.csv_backslash,
        max_bytes=config.max_record_bytes,
    )
    return replace(task, form=form, dialect=dialect)


def _head(opener: Any, *arguments: Any) -> bytes:
    """The first bytes of a file, as far as they can be read."""
    parts = io.BytesIO()
    try:
        with opener(*arguments) as file:
            while parts.tell() < _HEAD_BYTES and (part := file.read(min(1 << 16, _HEAD_BYTES - parts.tell()))):
                parts.write(part)
    except FileNotFoundError:
        raise
    except BROKEN_STREAM:
        pass  # What could not be read is a row of the file: it says so.
    return parts.getvalue()


def _no_record(task: ReadTask, peek: _Peek) -> str:
    """Why a file has no readable record, for its format."""
    number = "row" if task.format != "jsonl" else "byte"
    wanted = {
        "jsonl": "JSON needs one object a line, an array of objects, or objects one after the other",
        "csv": "CSV needs a header and rows with its number of cells",
    }.get(task.format, "no row could be read")
    return (
        f"{task.source}: no readable record among the first {peek.num_seen} rows: {peek.reasons()} "
        f"(by {number}); {wanted}"
    )


def _row_groups(task: ReadTask) -> list[ReadTask]:
    import pyarrow.parquet as pq

    try:
        with open_file(task.path) as file:
            parquet = pq.ParquetFile(file)
            groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
            sizes = [(group.num_rows, group.total_byte_size) for group in groups]
            columns = tuple(parquet.schema_arrow.names)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{task.path}: not a readable Parquet file ({type(error).__name__})") from error
    starts = itertools.accumulate((num_rows for num_rows, _ in sizes), initial=0)
    return [
        replace(task, start=start, stop=start + num_rows, row_group=i, columns=columns, num_bytes=num_bytes)
        for i, (start, (num_rows, num_bytes)) in enumerate(zip(starts, sizes, strict=False))
        if num_rows
    ]


def _peek(task: ReadTask, config: InputConfig, hasher: KeyedHash) -> _Peek:
    """The first readable rows, how many rows were looked at, and their errors."""
    found = _Peek()
    for row in itertools.islice(iter_rows(task, config.max_record_bytes, hasher), _PEEK_LINES):
        found.add(row)
        if len(found.rows) >= _PEEK_ROWS:
            break
    return found
