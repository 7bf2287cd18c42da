"""`kill -9` of the driver, a worker process and a node at random moments of a preparation.

    python -m tests.bench.prepare_faults [--moments 10] [--rows 3000] [--seed 0]

A head and two worker nodes on this machine. After each kill the job is run again until it ends well, and its files are
compared with those of an undisturbed run. The last line is JSON: what was killed and when, whether the job outlived it
or was run again, and whether every file is identical and every id there once.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import faults
from tests.bench.scale import write_tickets
from tests.ray_cluster.test_prepare_faults import ids_of


def arguments(source: Path, out: Path) -> list[str]:
    return [
        f"input.paths=[{source}]", f"output.path={out}", "output.num_files=2", "pii.profile=fast",
        "input.chunk_bytes=100000", "execution.rows_per_block=128", "execution.num_partitions=4",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="ftlib-faults-"))
    source, log, found = folder / "in.jsonl", folder / "log", []
    write_tickets(source, options.rows)
    with faults.cluster(folder / "cluster", count=2, cpus=1) as nodes:
        for name in ("cold", "calm"):  # a first run starts Ray's workers, too
            started = time.monotonic()
            assert faults.finish(faults.start(arguments(source, folder / name), nodes, log)), log.read_text()[-4000:]
            took = time.monotonic() - started
        expected, ids = faults.files_of(folder / "calm"), ids_of(folder / "calm")
        assert ids.total() == len(ids) == options.rows
        for number in range(options.moments):
            kind, out = faults.KINDS[number % len(faults.KINDS)], folder / f"out-{number}"
            moment: dict[str, Any] = {"num_killed": 0}
            while not moment["num_killed"]:  # a run may be quicker than the one that was timed
                shutil.rmtree(out, ignore_errors=True)
                after_s = rng.uniform(0.1, 0.95) * took
                moment = faults.disturbed(arguments(source, out), nodes, log, kind, after_s, rng)
            moment["identical"] = moment["ended"] and faults.files_of(out) == expected
            moment["every_row_once"] = moment["ended"] and ids_of(out) == ids
            found.append(moment)
            print(json.dumps(moment), flush=True)
            shutil.rmtree(out, ignore_errors=True)
            nodes.restore()
    summary = {
        "bench": "prepare_faults", "rows": options.rows, "undisturbed_s": round(took, 1), "moments": found,
        "all_identical": all(moment["identical"] and moment["every_row_once"] for moment in found),
        "outlived": sum(not moment["reruns"] for moment in found),
    }  # fmt: skip
    if summary["all_identical"]:
        shutil.rmtree(folder)
    else:
        print(f"log: {log}")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
