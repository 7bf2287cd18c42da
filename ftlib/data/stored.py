"""Redacted rows on storage between redaction and the final exchange, so that a job that died redacts no row twice.

In: tables of `schema.PROCESSED`, in tasks. Out: Parquet files in a folder beside the output, and `StoredBlock`s, which
are read again wherever a task needs them: neither the driver nor the object store holds a redacted text, and a lost
node loses none. The folder belongs to one piece of work (its key stands in it) and is removed when the work ends.

Which rows a file holds stands in the file. A task that is run twice, or that outlives its driver, leaves rows twice:
`done` takes files in the order of their names and leaves out those that hold a row of an earlier one.
"""

import fcntl
import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import (
    exists,
    filesystem,
    is_uri,
    join,
    local_path,
    make_private_dir,
    read_bytes,
    write_bytes,
    write_text,
)
from ftlib.data import schema as s
from ftlib.data.records import conform
from ftlib.data.row_keys import row_keys
from ftlib.data.rowmap import NO_MAP, RowMap
from ftlib.runtime.exchange import gather, map_blocks
from ftlib.text.keyed import UInt64s

logger = get_logger(__name__)

PASSES = ("1", "2")
_KEY_FILE = "key"
FILE = "file"
RECEIPT = pa.schema([(FILE, pa.dictionary(pa.int8(), pa.string()))])


@dataclass(frozen=True)
class StoredBlock:
    """A `schema.PROCESSED` table in a file; `map_blocks` and `exchange` load it where it is needed."""

    path: str

    def load(self) -> pa.Table:
        """The table; raises UserError on a node that does not see the file."""
        try:
            content = read_bytes(self.path)
        except UserError:
            raise UserError(
                f"{self.path} was written by another node and is not seen here; let output.path name a folder that all "
                "nodes share, or a URI"
            ) from None
        return conform(pq.read_table(io.BytesIO(content)), s.PROCESSED)


@dataclass(frozen=True)
class Store:
    """The folder of one pass."""

    folder: str

    def write(self, table: pa.Table) -> pa.Table:
        """Store a table with at least one row; returns a receipt: its file, once for each row."""
        # Raw bytes are for quarantine alone, which is decided by now.
        raw = pc.if_else(pc.is_valid(table[s.ERROR]), table[s.RAW], pa.scalar(None, pa.binary()))
        table = table.set_column(table.column_names.index(s.RAW), s.RAW, raw)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        path = join(self.folder, f"{int(row_keys(table)[0]):016x}-{uuid.uuid4().hex[:12]}.parquet")
        write_bytes(path, buffer.getvalue())
        indices = pa.array(np.zeros(table.num_rows, dtype=np.int8))
        return pa.table([pa.DictionaryArray.from_arrays(indices, pa.array([path]))], schema=RECEIPT)

    def done(self, bounds: UInt64s) -> tuple[list[StoredBlock], RowMap]:
        """What an earlier attempt has stored: blocks that share no row, and their rows."""
        fs, inner = filesystem(self.folder)
        names = fs.ls(inner, detail=False) if fs.exists(inner) else []
        paths = sorted(join(self.folder, name.rsplit("/", 1)[-1]) for name in names if name.endswith(".parquet"))
        if not paths:
            return [], NO_MAP
        import ray

        files = RowMap.cut([KeysOf(path, number) for number, path in enumerate(paths)], bounds, pa.concat_tables)
        found = gather(files.each(again_in), "looking for finished rows", logger)
        again = {number for numbers in found for number in numbers}
        left_out = ray.put(pa.array(sorted(again), pa.int64()))

        def once(part: pa.Table) -> pa.Table:
            return part.filter(pc.invert(pc.is_in(part[FILE], ray.get(left_out)))).select([s.ROW])

        return [StoredBlock(path) for number, path in enumerate(paths) if number not in again], files.joined(once)


@dataclass(frozen=True)
class KeysOf:
    """The row keys in a stored file, beside the file's number."""

    path: str
    number: int

    def load(self) -> pa.Table:
        """The table."""
        rows = pq.read_table(io.BytesIO(read_bytes(self.path)), columns=[s.ROW])[s.ROW]
        return pa.table({s.ROW: rows, FILE: np.full(len(rows), self.number)})


def again_in(part: pa.Table) -> list[int]:
    """Files that hold a row of an earlier one. `part`: sorted row keys with the number of their file."""
    rows, files = row_keys(part), part[FILE].to_numpy()
    order = np.lexsort((files, rows))
    again = rows[order][1:] == rows[order][:-1]
    found: list[int] = np.unique(files[order][1:][again]).tolist()
    return found


def blocks_of(receipts: Sequence[Any]) -> list[StoredBlock]:
    """The stored blocks that receipts name. `receipts`: references."""

    def named(tables: list[pa.Table]) -> set[str]:
        return {path for table in tables for path in pc.unique(table[FILE]).to_pylist()}

    found: set[str] = set().union(*gather(map_blocks(receipts, named), "collecting files", logger))
    return [StoredBlock(path) for path in sorted(found)]


@contextmanager
def work_folder(output: str, work: str) -> Iterator[str]:
    """The folder beside `output` for the unfinished work of this key; what another key left there is removed.

    It stays when the block ends by an error that another attempt may outlive. Raises UserError while another job of
    this output runs (on a local path; nothing on an object store can be locked).
    """
    path = output if is_uri(output) else str(local_path(output).absolute())
    base, _, name = path.rstrip("/").rpartition("/")
    folder = join(base, f".{name}.unfinished")
    fs, inner = filesystem(folder)
    with _locked(folder, output):
        try:
            _open_folder(folder, work)
        except OSError as error:
            raise UserError(f"output.path={output}: cannot be written to ({type(error).__name__}: {error})") from error
        try:
            yield folder
        except (UserError, RuntimeError):
            _remove(fs, inner)
            raise
        _remove(fs, inner)


def _open_folder(folder: str, work: str) -> None:
    fs, inner = filesystem(folder)
    key = join(folder, _KEY_FILE)
    if fs.exists(inner):
        if exists(key) and read_bytes(key).decode() == work:
            logger.info("%s is the work of an attempt that did not end: going on from it", folder)
        else:
            _remove(fs, inner)
    if not is_uri(folder):
        make_private_dir(local_path(folder))
    for number in PASSES:
        # Nothing on an object store; file systems behind a URI need their folders.
        fs.makedirs(f"{inner}/{number}", exist_ok=True)
    write_text(key, work)


def _remove(fs: Any, inner: str) -> None:
    if fs.exists(inner):
        fs.rm(inner, recursive=True)


@contextmanager
def _locked(folder: str, output: str) -> Iterator[None]:
    """Hold the lock of a local folder; it goes with the process, however that ends."""
    if is_uri(folder):
        yield
        return
    path = local_path(folder + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"output.path={output}: another job is writing it; wait for that one or name another folder"
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s): start no second job for this output", path, error.strerror)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
