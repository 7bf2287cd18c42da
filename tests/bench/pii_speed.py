"""Speed of the PII profiles on support tickets, beside a plain Presidio loop in the same run.

Three comparisons, each the median of paired runs that alternate:
- `enterprise` and `fast` against `AnalyzerEngine.analyze` in a loop over the same small spaCy pipeline, in one process
  by CPU seconds and by wall time. A text is a ticket's instruction and response, so none occurs twice.
- two workers against one through the redaction stage on Ray, starting when every worker has delivered a block; beside
  it the ceiling of the hardware: two independent processes against one (two hyperthreads of a core do not give twice).
- true spans on the labelled sets: what the loop finds there and the profile does not.

    python -m tests.bench.pii_speed [--rows N] [--rounds N] [--data FOLDER] [--only loop|workers|spans]

The last line is JSON. Without the data the benchmark says so and ends.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ftlib.config.base import ClusterConfig
from ftlib.config.prepare import PiiConfig
from ftlib.text.pii import PiiAnalyzer
from tests.bench.pii_quality import DATA, NOT_COUNTED, covered, ftlib_finder, presidio_finder, read_set

TICKETS = "tickets/bitext_support_6480.jsonl.gz"
_ROWS_PER_BLOCK = 128
_BLOCKS = 24
_KEY = b"a key for benchmarks only, 32 by"
Finder = Callable[[Sequence[str]], Any]


def read_tickets(path: Path, count: int) -> list[dict[str, str]]:
    """`count` tickets, spread evenly over the file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return rows[:: max(1, len(rows) // count)][:count]


def ratio_of(ours: Finder, theirs: Finder, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    """How many times as fast `ours` is: medians over pairs of runs, in CPU seconds and in wall time."""
    ours(texts[:8]), theirs(texts[:8])
    cpu_ratios, wall_ratios, seconds = [], [], {"ours": [], "loop": []}
    for index in range(rounds):
        taken = {}
        pair = [("ours", ours), ("loop", theirs)]
        for name, finder in pair if index % 2 else reversed(pair):
            wall, cpu = time.perf_counter(), time.process_time()
            finder(texts)
            taken[name] = (time.process_time() - cpu, time.perf_counter() - wall)
            seconds[name].append(taken[name][0])
        cpu_ratios.append(taken["loop"][0] / taken["ours"][0])
        wall_ratios.append(taken["loop"][1] / taken["ours"][1])
    return {
        "ratio": round(statistics.median(cpu_ratios), 2),
        "ratio_wall": round(statistics.median(wall_ratios), 2),
        "cpu_s": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "rows_per_cpu_s": {name: round(len(texts) / statistics.median(values), 1) for name, values in seconds.items()},
    }


def compare_with_loop(rows: Sequence[dict[str, str]], rounds: int) -> dict[str, Any]:
    """Both profiles against the loop."""
    texts = [f"{row['instruction']}\n{row['response']}" for row in rows]
    loop = presidio_finder()
    results = {}
    for profile in ("enterprise", "fast"):
        results[profile] = ratio_of(PiiAnalyzer(PiiConfig(profile=profile)).analyze, loop, texts, rounds)
        print(profile, results[profile], flush=True)
    return results


def compare_workers(rows: Sequence[dict[str, str]], rounds: int) -> dict[str, Any]:
    """Two redaction workers against one on Ray, and two processes against one without it."""
    from ftlib.runtime.cluster import connect

    texts = [f"{row['instruction']}\n{row['response']}" for row in rows]
    ceiling = statistics.median(_process_rate(texts, 2) / _process_rate(texts, 1) for _ in range(min(rounds, 3)))
    print("ceiling: two processes against one", round(ceiling, 2), flush=True)
    ratios, cpu = [], {1: [], 2: []}
    with connect(ClusterConfig(address="local", num_cpus=4)):
        for index in range(rounds):
            rates = {}
            for workers in (1, 2) if index % 2 else (2, 1):
                rates[workers], used = _stage_rate(rows, workers)
                cpu[workers].append(used)
            ratios.append(rates[2] / rates[1])
            print("two workers against one", round(ratios[-1], 2), flush=True)
    return {
        "ratio": round(statistics.median(ratios), 2),
        "ceiling_two_processes": round(ceiling, 2),
        "cpu_s": {f"{workers}_workers": round(statistics.median(used), 2) for workers, used in cpu.items()},
        "cpus": os.cpu_count(),
    }


def _process_rate(texts: Sequence[str], processes: int) -> float:
    """Texts a second of independent processes that start together once all have loaded."""
    context = multiprocessing.get_context("spawn")
    barrier, times = context.Barrier(processes), context.Queue()
    running = [context.Process(target=_scan, args=(list(texts), barrier, times)) for _ in range(processes)]
    for process in running:
        process.start()
    taken = [times.get() for _ in running]
    for process in running:
        process.join()
    return sum(len(texts) / seconds for seconds in taken)


def _scan(texts: list[str], barrier: Any, times: Any) -> None:
    analyzer = PiiAnalyzer(PiiConfig())
    analyzer.analyze(texts[:8])
    barrier.wait()
    started = time.perf_counter()
    analyzer.analyze(texts)
    times.put(time.perf_counter() - started)


def _stage_rate(rows: Sequence[dict[str, str]], workers: int) -> tuple[float, float]:
    """Rows a second of the redaction stage once every worker has delivered a block, and CPU seconds of that time."""
    import ray.data

    from ftlib.data.passes import Resources, configure_ray_data, redacted

    configure_ray_data()
    tables = [_read_table(rows, index) for index in range(_BLOCKS)]
    dataset = ray.data.from_arrow(tables)
    config = PiiConfig(batch_size=_ROWS_PER_BLOCK // 4)
    done: list[tuple[float, int]] = []
    before: dict[int, float] = {}
    after: dict[int, float] = {}
    for bundle in redacted(dataset, config, _KEY, Resources(workers, 1.0, 0.5)).iter_internal_ref_bundles():
        done.append((time.perf_counter(), bundle.num_rows()))
        after = _cpu_seconds()
        before = before if len(done) > workers else after
    counted = sum(count for _, count in done[workers:])
    used = sum(seconds - before.get(process, 0.0) for process, seconds in after.items())
    return counted / (done[-1][0] - done[workers - 1][0]), used


def _read_table(rows: Sequence[dict[str, str]], index: int) -> Any:
    """A block of conversations as readers emit it."""
    import pyarrow as pa

    from ftlib.data import schema as s

    chosen = [rows[(index * _ROWS_PER_BLOCK + offset) % len(rows)] for offset in range(_ROWS_PER_BLOCK)]
    records = [
        {
            s.ROW: index * _ROWS_PER_BLOCK + offset,
            s.DERIVED: True,
            s.ID: f"{index:04}{offset:04}",
            s.SOURCE: "tickets",
            s.TEXT: f"{row['instruction']}\n{row['response']}",
            s.WEIGHT: 1.0,
            s.METADATA: "{}",
        }
        for offset, row in enumerate(chosen)
    ]
    return pa.Table.from_pylist(records, schema=s.READ)


def _cpu_seconds() -> dict[int, float]:
    """CPU time of this process and of all below it, by process id."""
    import psutil

    own, found = psutil.Process(), {}
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = times.user + times.system
    return found


def compare_spans(folder: Path, count: int | None) -> dict[str, Any]:
    """Gold spans that the loop finds and `enterprise` finds, by set, and those that only the loop finds."""
    loop, ours = presidio_finder(), ftlib_finder()
    results = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        rows = read_set(path, count)
        texts = [row["text"] for row in rows]
        hits = {"loop": 0, "ours": 0, "only_loop": 0}
        for row, theirs, mine in zip(rows, loop(texts), ours(texts), strict=True):
            for gold in row["spans"]:
                if gold["entity"] in NOT_COUNTED:
                    continue
                span = (gold["start"], gold["end"])
                by_loop, by_us = covered(span, theirs) >= 0.75, covered(span, mine) >= 0.75
                hits["loop"] += by_loop
                hits["ours"] += by_us
                hits["only_loop"] += by_loop and not by_us
        results[path.name.removesuffix(".jsonl.gz")] = hits
        print(path.name, hits, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300, help="tickets a run; also the rows of each labelled set")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs")
    parser.add_argument("--data", type=Path, default=DATA.parent, help="folder with tickets/ and pii/")
    parser.add_argument("--only", choices=("loop", "workers", "spans"), help="one comparison alone")
    arguments = parser.parse_args()
    if not (arguments.data / TICKETS).exists():
        print(json.dumps({"bench": "pii_speed", "skipped": f"no {TICKETS} in {arguments.data}"}))
        return
    rows = read_tickets(arguments.data / TICKETS, arguments.rows)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "loop": lambda: compare_with_loop(rows, arguments.rounds),
        "workers": lambda: compare_workers(rows, arguments.rounds),
        "spans": lambda: compare_spans(arguments.data / "pii", arguments.rows),
    }
    results = {name: part() for name, part in parts.items() if arguments.only in (None, name)}
    print(json.dumps({"bench": "pii_speed", "num_rows": len(rows), **results}))


if __name__ == "__main__":
    main()
