"""Works off batches in the background of a replica, and gives way to interactive requests.

Batch rows hold at most `share` answers of the engine at once, and a row starts only while nothing waits in the engine.
A row is tried again, with growing pauses: after a refusal for lack of room as long as the batch lasts, after another
failure `MAX_TRIES` times in all. Results are on the disk within `_TICK_S`; a row whose result was not is done again
after a crash, so each is answered once in the output.
"""

import asyncio
import hashlib
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.core.logging import get_logger
from serve_apps.answers import whole_answer
from serve_apps.batches import (
    ENDED,
    BatchRef,
    BatchStore,
    Journal,
    Lease,
    LeaseLostError,
    journal_entries,
)
from serve_apps.endpoint import Endpoint
from serve_apps.errors import ApiError
from serve_apps.files import open_private, sync
from serve_apps.schema import ChatRequest, CompletionRequest, EmbeddingRequest, each_prompt, parse

logger = get_logger(f"ftlib.{__name__}")

MAX_ROWS = 50_000
MAX_TRIES = 5
_MAX_BATCHES = 4  # of a replica at once, so that a long one does not hold up the others
_MAX_ERRORS = 100
_MAX_PAUSE_S = 30.0
_TICK_S = 0.5
_NO_ROOM = (429, 503)
_KEYS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True)
class Row:
    """Where a row stands in the input."""

    offset: int
    custom_id: str


class BatchWorker:
    """The batches that one replica works on."""

    def __init__(
        self, store: BatchStore, endpoint: Endpoint, share: int, poll_s: float = 1.0, pause_s: float = 0.5
    ) -> None:
        """Prepare a worker; `run` works until it is cancelled.

        Args:
            share: answers of the engine that batches may hold at once.
            poll_s: time between looks for new batches.
            pause_s: before the second try of a row; doubles with each.
        """
        self.store, self._endpoint, self._share = store, endpoint, max(1, share)
        self._poll_s, self._pause_s = poll_s, pause_s
        self._used, self._room = 0, asyncio.Condition()

    async def run(self) -> None:
        """Take batches that nobody works on, until cancelled; then let others have them at once."""
        working: dict[BatchRef, asyncio.Task[None]] = {}
        try:
            while True:
                working = {ref: task for ref, task in working.items() if not task.done()}
                try:
                    for ref in await asyncio.to_thread(self.store.pending):
                        if ref not in working and len(working) < _MAX_BATCHES:
                            folder = self.store.folder(ref)
                            lease = await asyncio.to_thread(Lease.take, folder, self.store.stale_s)
                            if lease is not None:
                                working[ref] = asyncio.create_task(self._hold(ref, lease))
                except OSError as error:
                    logger.error("batches: the state folder does not answer (%s)", error.strerror)
                await asyncio.sleep(self._poll_s)
        finally:
            for task in working.values():
                task.cancel()
            await asyncio.gather(*working.values(), return_exceptions=True)

    async def _hold(self, ref: BatchRef, lease: Lease) -> None:
        """Work on a batch and keep its lease."""
        work, release = asyncio.create_task(self._work(ref, lease)), True
        try:
            while True:
                await asyncio.wait([work], timeout=self.store.stale_s / 5)
                if work.done():
                    break
                await asyncio.to_thread(lease.renew)
            work.result()
            logger.info("%s ended", ref.id)
        except LeaseLostError:
            logger.warning("%s: another replica took it over", ref.id)
        except Exception as error:
            # Its text may quote a row. The batch is taken up again when the lease is stale.
            logger.error("%s stopped: %s", ref.id, type(error).__name__)
            release = False
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            if release:
                await asyncio.to_thread(lease.release)

    async def _work(self, ref: BatchRef, lease: Lease) -> None:
        store, folder = self.store, self.store.folder(ref)
        value = await asyncio.to_thread(store.load, ref)
        if value["status"] in ENDED:
            await asyncio.to_thread(store.done, ref)
            return
        rows, errors = await asyncio.to_thread(read_rows, folder / "input", value["endpoint"])
        if errors:
            value |= {"status": "failed", "failed_at": _now(), "errors": {"object": "list", "data": errors}}
        else:
            value |= {"status": "in_progress", "in_progress_at": value["in_progress_at"] or _now()}
            await self._answer_rows(ref, value, rows, lease)
            value |= {"status": "finalizing", "finalizing_at": _now()}
            await self._save(ref, value, lease)
            await asyncio.to_thread(finish, store, ref, value, rows)
        await self._save(ref, value, lease)
        await asyncio.to_thread(store.done, ref)

    async def _save(self, ref: BatchRef, value: dict[str, Any], lease: Lease) -> None:
        """Write the batch object; LeaseLostError instead where another replica may have ended the batch."""
        await asyncio.to_thread(lease.renew)
        await asyncio.to_thread(self.store.save, ref, value)

    async def _answer_rows(self, ref: BatchRef, value: dict[str, Any], rows: list[Row], lease: Lease) -> None:
        """Answer what has no result yet; ends early when the batch is cancelled or expires."""
        folder = self.store.folder(ref)
        entries = await asyncio.to_thread(lambda: list(journal_entries(folder)))
        done = {entry.row for entry in entries}
        counts = {"total": len(rows), "completed": sum(entry.ok for entry in entries)}
        counts["failed"] = len(entries) - counts["completed"]
        value["request_counts"] = counts
        await self._save(ref, value, lease)
        todo = iter([index for index in range(len(rows)) if index not in done])
        journal = Journal(folder, lease.number)
        pending = {
            asyncio.create_task(self._drain(ref, value, rows, todo, journal))
            for _ in range(min(self._share, len(rows)))
        }
        try:
            while pending:
                ended, pending = await asyncio.wait(pending, timeout=_TICK_S)
                for task in ended:
                    task.result()
                await asyncio.to_thread(journal.sync)
                await self._save(ref, value, lease)
                if self.store.cancelled(ref) or time.time() > value["expires_at"]:
                    break
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            await asyncio.to_thread(journal.close)

    async def _drain(
        self, ref: BatchRef, value: dict[str, Any], rows: list[Row], todo: Iterator[int], journal: Journal
    ) -> None:
        for index in todo:
            body = await asyncio.to_thread(_read_body, self.store.folder(ref) / "input", rows[index])
            status, answer = await self._answer(ref.tenant, value["endpoint"], body)
            response = {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": answer}
            journal.append(index, status == 200, _output(rows[index], response, None))
            value["request_counts"]["completed" if status == 200 else "failed"] += 1

    async def _answer(self, tenant: str, url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of the row's answer, after as many tries as it takes or is worth."""
        num_failures, pause_s = 0, self._pause_s
        while True:
            try:
                return 200, await self._once(tenant, url, body)
            except ApiError as error:
                if error.status < 500 and error.status not in _NO_ROOM:
                    return error.status, error.body()
                num_failures += error.status not in _NO_ROOM
                if num_failures >= MAX_TRIES:
                    return error.status, error.body()
            except Exception as error:
                num_failures += 1
                logger.error("a batch row failed: %s", type(error).__name__)
                if num_failures >= MAX_TRIES:
                    return 500, ApiError(500, "internal error", kind="server_error").body()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def _once(self, tenant: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
        if url == "/v1/embeddings":
            embedding = parse(EmbeddingRequest, body)
            async with self._turn(1):
                return await self._endpoint.embed(embedding)
        request = parse(ChatRequest if url == "/v1/chat/completions" else CompletionRequest, body)
        if request.stream:
            raise ApiError(400, "stream: rows of a batch cannot stream", param="stream", code="invalid_value")
        if isinstance(request, ChatRequest):
            async with self._turn(request.n):
                return await whole_answer(await self._endpoint.start_chat(request, tenant))
        assert isinstance(request, CompletionRequest)
        async with self._turn(request.n * len(each_prompt(request.prompt))):
            return await whole_answer(await self._endpoint.start_completion(request, tenant))

    @asynccontextmanager
    async def _turn(self, num_answers: int) -> AsyncGenerator[None, None]:
        """Hold part of the share; a row with more answers than that goes alone."""
        weight = min(num_answers, self._share)
        async with self._room:
            await self._room.wait_for(lambda: self._used + weight <= self._share)
            self._used += weight
        try:
            while self._endpoint.engine.stats().num_waiting:
                await asyncio.sleep(self._pause_s * random.uniform(0.1, 0.5))
            yield
        finally:
            self._used -= weight
            async with self._room:
                self._room.notify_all()


def read_rows(path: Path, endpoint: str) -> tuple[list[Row], list[dict[str, Any]]]:
    """The input's rows and its mistakes, each in OpenAI's shape with its line, counted from 1."""
    rows: list[Row] = []
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                mistake = _mistake(line, endpoint, seen)
                if isinstance(mistake, Row):
                    rows.append(Row(offset, mistake.custom_id))
                else:
                    errors.append({**mistake, "line": number})
            offset += len(line)
            if len(errors) >= _MAX_ERRORS or len(rows) > MAX_ROWS:
                break
    if len(rows) > MAX_ROWS:
        errors = [_error("too_many_tasks", f"a batch has at most {MAX_ROWS} rows", None)]
    elif not rows and not errors:
        errors = [_error("empty_file", "the input file has no rows", None)]
    return rows, errors


def _mistake(line: bytes, endpoint: str, seen: set[str]) -> Row | dict[str, Any]:
    """The row of a line without its offset, or what is wrong with it. Values are left out: they may be the prompt."""
    try:
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return _error("invalid_json_line", "this line is not valid JSON", None)
    if not isinstance(value, dict):
        return _error("invalid_request", "this line is not a JSON object", None)
    custom_id = value.get("custom_id")
    for wrong, code, message, param in (
        (bool(set(value) - _KEYS), "unknown_key", f"a row has {', '.join(sorted(_KEYS))}", None),
        (
            not isinstance(custom_id, str) or not 0 < len(custom_id) <= 512,
            "invalid_custom_id",
            "custom_id must be a text of 1 to 512 characters",
            "custom_id",
        ),
        (value.get("method") != "POST", "invalid_method", "method must be POST", "method"),
        (value.get("url") != endpoint, "invalid_url", f"url must be the batch's endpoint, {endpoint}", "url"),
        (not isinstance(value.get("body"), dict), "invalid_body", "body must be a JSON object", "body"),
    ):
        if wrong:
            return _error(code, message, param)
    if custom_id in seen:
        return _error("duplicate_custom_id", "the custom_id of this line was used before", "custom_id")
    seen.add(custom_id)
    return Row(0, custom_id)


def finish(store: BatchStore, ref: BatchRef, value: dict[str, Any], rows: list[Row]) -> None:
    """Write the output and error files from the journals, in the order of the input, and set the batch's end.

    Doing it again after a crash gives the same files under the same ids.
    """
    folder = store.folder(ref)
    entries = {entry.row: entry for entry in journal_entries(folder)}
    status = "completed"
    if len(entries) < len(rows):
        status = "cancelled" if store.cancelled(ref) else "expired"
    message = {"cancelled": "the batch was cancelled", "expired": "the completion window ended"}.get(status, "")
    for kind in ("output", "error"):
        path = folder / f"{kind}.{uuid.uuid4().hex[:8]}"
        with open_private(path) as file:
            for index, row in enumerate(rows):
                entry = entries.get(index)
                if entry is not None and entry.ok == (kind == "output"):
                    file.write(_line(entry.result(folder)))
                elif entry is None and kind == "error":
                    file.write(_line(_output(row, None, {"code": f"batch_{status}", "message": message})))
            sync(file)
        if path.stat().st_size == 0:
            path.unlink()
            continue
        file_id = f"file-{hashlib.sha256(f'{ref.id}.{kind}'.encode()).hexdigest()[:32]}"
        store.files.adopt(ref.tenant, path, file_id, f"{ref.id}_{kind}.jsonl")
        value[f"{kind}_file_id"] = file_id
    completed = sum(entry.ok for entry in entries.values())
    value["request_counts"] = {"total": len(rows), "completed": completed, "failed": len(rows) - completed}
    if status == "cancelled":
        value["cancelling_at"] = int((folder / "cancel").stat().st_mtime)
    value |= {"status": status, f"{status}_at": _now()}


def _output(row: Row, response: dict[str, Any] | None, error: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": row.custom_id,
        "response": response,
        "error": error,
    }


def _read_body(path: Path, row: Row) -> dict[str, Any]:
    with open(path, "rb") as file:
        file.seek(row.offset)
        body: dict[str, Any] = json.loads(file.readline())["body"]
    return body


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _error(code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "line": None}


def _now() -> int:
    return int(time.time())
