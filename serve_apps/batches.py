"""Batches on disk: their records, who works on them, and the journal of what is done.

    STATE/queue/TENANT.ID                        a mark while the batch has work left
    STATE/tenants/TENANT/batches/ID/batch.json   OpenAI's batch object, written by who holds the lease
                                    input        the uploaded file, linked: deleting that one changes nothing here
                                    cancel       a mark that the client wants it ended
                                    lease.N      the Nth holder's claim; its time of change is the heartbeat
                                    journal.N    the rows that this holder finished, one JSON object a line

A batch belongs to who made the lease of the highest number. A lease whose heartbeat is older than `stale_s` is taken
over by making the next one, which the file system lets one replica do only; the former holder sees it at its next
heartbeat and stops. What it still writes goes to its own journal, and of a row with two results the first one counts,
so every row has one result whoever dies when. Clocks of machines that share the folder must agree to a few seconds.
"""

import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.core import state_layout as layout
from serve_apps.errors import ApiError
from serve_apps.files import FileStore, open_private, private_folder, sync, tenant_folder, write_private

WINDOW_S = 24 * 3600
ENDED = ("completed", "failed", "cancelled", "expired")
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class LeaseLostError(Exception):
    """Another replica works on the batch now."""


@dataclass(frozen=True)
class BatchRef:
    """A batch and whose it is."""

    tenant: str
    id: str


class BatchStore:
    """The batches of all tenants below one folder, and the files beside them."""

    def __init__(self, state: Path, stale_s: float = 15.0) -> None:
        self.files, self.stale_s = FileStore(state), stale_s
        self._state = state

    def create(self, tenant: str, file_id: str, endpoint: str, metadata: dict[str, str] | None) -> dict[str, Any]:
        """A new batch over an uploaded file; raises ApiError 404 without one."""
        content = self.files.content(tenant, file_id)
        now = int(time.time())
        value = {
            "id": f"batch_{uuid.uuid4().hex}",
            "object": "batch",
            "endpoint": endpoint,
            "errors": None,
            "input_file_id": file_id,
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            **{f"{name}_at": None for name in _TIMES},
            "expires_at": now + WINDOW_S,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": metadata,
        }
        ref = BatchRef(tenant, value["id"])
        folder = private_folder(self.folder(ref))
        os.link(content, folder / layout.BATCH_INPUT)
        self.save(ref, value)
        open_private(self._mark(ref)).close()
        return value

    def get(self, tenant: str, batch_id: str) -> dict[str, Any]:
        """A batch object; raises ApiError 404 for one that is not there or another tenant's."""
        if not re.fullmatch(r"batch_[0-9a-f]{32}", batch_id):
            raise _no_batch()
        return self.load(BatchRef(tenant, batch_id))

    def load(self, ref: BatchRef) -> dict[str, Any]:
        """As `get`, by reference."""
        folder = self.folder(ref)
        try:
            value: dict[str, Any] = json.loads((folder / layout.BATCH_OBJECT).read_bytes())
        except FileNotFoundError:
            raise _no_batch() from None
        if value["status"] in ("validating", "in_progress") and (mark := folder / "cancel").exists():
            value |= {"status": "cancelling", "cancelling_at": int(mark.stat().st_mtime)}
        return value

    def all(self, tenant: str) -> list[dict[str, Any]]:
        """A tenant's batch objects, newest first."""
        folders = private_folder(tenant_folder(self._state, tenant) / layout.BATCHES).glob(
            f"batch_*/{layout.BATCH_OBJECT}"
        )
        values = [self.get(tenant, path.parent.name) for path in folders]
        return sorted(values, key=lambda value: (value["created_at"], value["id"]), reverse=True)

    def cancel(self, tenant: str, batch_id: str) -> dict[str, Any]:
        """Ask for its end; raises ApiError 404, or 409 where it has ended."""
        value = self.get(tenant, batch_id)
        if value["status"] in (*ENDED, "finalizing"):
            message = f"a batch with status {value['status']} cannot be cancelled"
            raise ApiError(409, message, code="batch_not_cancellable")
        (self.folder(BatchRef(tenant, batch_id)) / "cancel").touch(mode=0o600)
        return self.get(tenant, batch_id)

    def cancelled(self, ref: BatchRef) -> bool:
        """Whether its end was asked for."""
        return (self.folder(ref) / "cancel").exists()

    def save(self, ref: BatchRef, value: dict[str, Any]) -> None:
        """Write a batch object."""
        write_private(self.folder(ref) / layout.BATCH_OBJECT, json.dumps(value).encode())

    def pending(self) -> list[BatchRef]:
        """Batches with work left."""
        marks = sorted(private_folder(self._queue()).iterdir())
        return [BatchRef(*mark.name.split(".", 1)) for mark in marks]

    def done(self, ref: BatchRef) -> None:
        """Take a batch off the queue; of its folder only the object stays, so that answers lie in its files alone."""
        self._mark(ref).unlink(missing_ok=True)
        for path in self.folder(ref).iterdir():
            if path.name != layout.BATCH_OBJECT:
                path.unlink(missing_ok=True)

    def folder(self, ref: BatchRef) -> Path:
        """Where a batch lies."""
        return private_folder(tenant_folder(self._state, ref.tenant) / layout.BATCHES) / ref.id

    def _queue(self) -> Path:
        return private_folder(private_folder(self._state) / layout.QUEUE)

    def _mark(self, ref: BatchRef) -> Path:
        return self._queue() / f"{ref.tenant}.{ref.id}"


class Lease:
    """The right to work on a batch, kept by a heartbeat."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self.number = folder, number

    @classmethod
    def take(cls, folder: Path, stale_s: float) -> "Lease | None":
        """Claim a batch that nobody works on; None where someone does."""
        last = max(_numbers(folder, "lease"), default=0)
        try:
            if last and time.time() - (folder / f"lease.{last}").stat().st_mtime < stale_s:
                return None
            open_private(folder / f"lease.{last + 1}").close()
        except (FileExistsError, FileNotFoundError):  # another was faster, or has finished the batch
            return None
        return cls(folder, last + 1)

    def renew(self) -> None:
        """Tell that the work goes on; raises LeaseLostError where another replica took it over."""
        if (self._folder / f"lease.{self.number + 1}").exists():
            raise LeaseLostError
        try:
            os.utime(self._folder / f"lease.{self.number}", (time.time(),) * 2)
        except FileNotFoundError:
            raise LeaseLostError from None

    def release(self) -> None:
        """Let another replica go on at once."""
        if (path := self._folder / f"lease.{self.number}").exists():
            os.utime(path, (0, 0))


class Journal:
    """Results of rows, appended by the holder of a lease and read back from all holders' files."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._file = folder, open_private(folder / f"{layout.JOURNAL}.{number}")
        self._unsynced = 0

    def append(self, row: int, ok: bool, result: dict[str, Any]) -> None:
        """Add the result of a row, counted from 0; it is safe after `sync`."""
        line = json.dumps({"row": row, "ok": ok, "result": result}, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._unsynced += 1

    def sync(self) -> None:
        """Have all results on the disk."""
        if self._unsynced:
            self._unsynced = 0
            sync(self._file)

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


@dataclass(frozen=True)
class Entry:
    """Where the result of a row stands in a batch's journals."""

    row: int
    ok: bool
    journal: int
    offset: int

    def result(self, folder: Path) -> dict[str, Any]:
        """The result itself."""
        with open(folder / f"{layout.JOURNAL}.{self.journal}", "rb") as file:
            file.seek(self.offset)
            value: dict[str, Any] = json.loads(file.readline())["result"]
        return value


def journal_entries(folder: Path) -> Iterator[Entry]:
    """One entry for each row that has a result; a last line that was cut off is dropped."""
    seen: set[int] = set()
    for number in sorted(_numbers(folder, layout.JOURNAL)):
        offset = 0
        with open(folder / f"{layout.JOURNAL}.{number}", "rb") as file:
            for line in file:
                try:
                    value = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:  # a torn block, after a crash of the machine
                    value = None
                if value is not None and value["row"] not in seen:
                    seen.add(value["row"])
                    yield Entry(value["row"], value["ok"], number, offset)
                offset += len(line)


def _numbers(folder: Path, kind: str) -> list[int]:
    return [int(path.name.split(".")[1]) for path in folder.glob(f"{kind}.*")]


def _no_batch() -> ApiError:
    return ApiError(404, "no such batch", param="batch_id", code="batch_not_found")
