"""SIGKILL to the driver, a worker process and a node of a preparation: identical files, no row lost or doubled."""

import random
import shutil
import time
from collections import Counter

import pyarrow.parquet as pq

from tests import faults
from tests.ray_local.test_prepare import corpus, sentence, write_jsonl

SEED = 11
NUM_ROWS = 700


def rows(rng):
    tickets = [
        {"id": f"t{i}", "text": f"{sentence(rng, 25)} bob{i}@example.com", "subject": f"s{i % 300}"}
        for i in range(NUM_ROWS)
    ]
    return [*tickets, *corpus(rng, 15), b"{", b'{"text": null}']


def arguments(source, out):
    return [
        f"input.paths=[{source}]", f"output.path={out}", "output.num_files=2", "pii.profile=none",
        "input.chunk_bytes=40000", "execution.rows_per_block=64", "execution.num_partitions=3",
    ]  # fmt: skip


def ids_of(out):
    places = [*sorted(out.glob("*/part-*.parquet")), out / "dropped.parquet"]
    return Counter(id_ for path in places for id_ in pq.read_table(path, columns=["id"])["id"].to_pylist())


def test_a_killed_preparation_ends_with_the_same_files(nodes, tmp_path):
    rng = random.Random(SEED)
    records = rows(rng)
    source, log = write_jsonl(tmp_path / "in.jsonl", records), tmp_path / "log"
    calm = tmp_path / "calm"
    started = time.monotonic()
    result = faults.finish(faults.start(arguments(source, calm), nodes, log))
    took = time.monotonic() - started
    assert result is not None, log.read_text()[-4000:]
    counts = result["counts"]
    assert counts["num_in"] == len(records) == counts["num_out"] + counts["num_dropped"] + counts["num_quarantined"]
    assert ids_of(calm) == Counter(record["id"] for record in records if isinstance(record, dict))

    expected = faults.files_of(calm)
    for kind in faults.KINDS:  # the node last: nobody brings it back
        out = tmp_path / kind
        found = {"num_killed": 0, "seconds": took}
        for _ in range(
            4
        ):  # a run may be over before the moment, quicker than the one that was timed (workers are warm)
            shutil.rmtree(out, ignore_errors=True)
            took = min(took, found["seconds"])
            found = faults.disturbed(arguments(source, out), nodes, log, kind, rng.uniform(0.4, 0.8) * took, rng)
            if found["num_killed"]:
                break
        assert found["num_killed"], found
        assert found["ended"], log.read_text()[-4000:]
        files = faults.files_of(out)
        assert [name for name in expected if files.get(name) != expected[name]] == [], found
        assert files.keys() == expected.keys()
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(f".{kind}")]
