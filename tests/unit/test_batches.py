"""Batches over a fake endpoint: leases, journals, retries, and who gives way to whom. No Ray, no model, no HTTP."""

import asyncio
import io
import json
import os
import time
from types import SimpleNamespace

import pytest

from ftlib.inference.protocol import EngineStats
from serve_apps.batch_worker import MAX_TRIES, BatchWorker
from serve_apps.batches import BatchRef, BatchStore, Journal, Lease, LeaseLostError, journal_entries
from serve_apps.errors import ApiError

URL = "/v1/embeddings"


class FakeEndpoint:
    """Answers embeddings; `outcomes` are raised first, `hold` keeps answers back."""

    def __init__(self):
        self.outcomes, self.inputs, self.num_running, self.most, self.delay_s = [], [], 0, 0, 0.0
        self.num_waiting = 0
        self.engine = SimpleNamespace(stats=lambda: EngineStats(num_waiting=self.num_waiting))

    async def embed(self, request):
        self.num_running += 1
        self.most = max(self.most, self.num_running)
        try:
            await asyncio.sleep(self.delay_s)
            if self.outcomes:
                raise self.outcomes.pop(0)
            self.inputs.append(request.input)
            return {"input": request.input}
        finally:
            self.num_running -= 1


@pytest.fixture
def store(tmp_path):
    return BatchStore(tmp_path / "state", stale_s=0.5)


def _batch(store, num_rows):
    rows = [
        {"custom_id": f"{n}", "method": "POST", "url": URL, "body": {"model": "m", "input": str(n)}}
        for n in range(num_rows)
    ]
    file = store.files.add("t", io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode()), "rows")
    return store.create("t", file["id"], URL, None)["id"]


async def _until_ended(store, batch_id, *workers):
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        async with asyncio.timeout(30):
            while BatchRef("t", batch_id) in store.pending():
                await asyncio.sleep(0.01)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return store.get("t", batch_id)


def _worker(store, endpoint, share=2):
    return BatchWorker(store, endpoint, share, poll_s=0.02, pause_s=0.001)


def _output(store, value, kind="output"):
    path = store.files.content("t", value[f"{kind}_file_id"])
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_replicas_share_no_batch_and_answer_each_row_once(store):
    endpoint = FakeEndpoint()
    endpoint.delay_s = 0.001
    batches = [_batch(store, 30) for _ in range(2)]

    async def run():
        workers = [_worker(store, endpoint) for _ in range(3)]
        return [await _until_ended(store, batch, *workers) for batch in batches]

    for value in asyncio.run(run()):
        assert value["status"] == "completed" and value["request_counts"]["completed"] == 30
        assert [row["custom_id"] for row in _output(store, value)] == [str(n) for n in range(30)]
    assert sorted(endpoint.inputs) == sorted([str(n) for n in range(30)] * 2)
    assert not list(store.folder(BatchRef("t", batches[0])).glob("journal.*")), "answers lie in the output alone"


def test_a_stale_lease_is_taken_over_by_one_and_lost_by_the_former(store, tmp_path):
    folder = tmp_path
    first = Lease.take(folder, 0.5)
    assert first is not None and Lease.take(folder, 0.5) is None
    os.utime(folder / "lease.1", (time.time() - 1,) * 2)
    second = Lease.take(folder, 0.5)
    assert second is not None and second.number == 2 and Lease.take(folder, 0.5) is None
    with pytest.raises(LeaseLostError):
        first.renew()
    second.renew()
    first.release()
    assert Lease.take(folder, 0.5) is None, "the former holder has nothing to release"
    second.release()
    assert Lease.take(folder, 0.5).number == 3


def test_a_journal_drops_a_torn_line_and_counts_a_row_once(tmp_path):
    for number, rows in ((1, (0, 1)), (2, (1, 2))):
        journal = Journal(tmp_path, number)
        for row in rows:
            journal.append(row, True, {"by": number})
        journal.close()
    with open(tmp_path / "journal.1", "ab") as file:
        file.write(b'{"row": 7, "ok": tr')
    found = {entry.row: entry.result(tmp_path)["by"] for entry in journal_entries(tmp_path)}
    assert found == {0: 1, 1: 1, 2: 2}


def test_rows_are_tried_again_where_that_can_help(store):
    endpoint = FakeEndpoint()
    full, broken, wrong = ApiError(429, "full"), ApiError(500, "broken"), ApiError(400, "wrong")
    endpoint.outcomes = [full] * (2 * MAX_TRIES) + [broken] * (MAX_TRIES - 1)
    value = asyncio.run(_until_ended(store, _batch(store, 1), _worker(store, endpoint, 1)))
    assert value["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    endpoint.outcomes = [wrong, *[RuntimeError("the prompt")] * MAX_TRIES]
    value = asyncio.run(_until_ended(store, _batch(store, 3), _worker(store, endpoint, 1)))
    assert value["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    errors = _output(store, value, "error")
    assert [row["response"]["status_code"] for row in errors] == [400, 500] and "the prompt" not in str(errors)


def test_batches_keep_to_their_share_and_wait_while_others_do(store):
    endpoint = FakeEndpoint()
    endpoint.delay_s, endpoint.num_waiting = 0.005, 1
    batches = [_batch(store, 6) for _ in range(3)]

    async def run():
        worker = _worker(store, endpoint, 2)
        task = asyncio.create_task(worker.run())
        await asyncio.sleep(0.3)
        assert endpoint.inputs == [], "interactive requests wait: no row may start"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        endpoint.num_waiting = 0
        return [await _until_ended(store, batch, _worker(store, endpoint, 2)) for batch in batches]

    assert all(value["status"] == "completed" for value in asyncio.run(run()))
    assert endpoint.most == 2


def test_a_batch_whose_window_ends_tells_what_was_not_done(store):
    batch = _batch(store, 4)
    ref = BatchRef("t", batch)
    store.save(ref, {**store.load(ref), "expires_at": int(time.time()) - 1})
    endpoint = FakeEndpoint()
    endpoint.delay_s = 60
    value = asyncio.run(_until_ended(store, batch, _worker(store, endpoint)))
    assert value["status"] == "expired" and value["output_file_id"] is None
    assert [row["error"]["code"] for row in _output(store, value, "error")] == ["batch_expired"] * 4
