"""Near-duplicate removal beside datasketch, rensa and datatrove: keep/drop decisions for real documents.

    python -m tests.bench.dedup_speed [--rows N] [--runs N] [--peers datasketch,rensa,datatrove] [--datatrove-rows N]

Measured on all documents and on the distinct ones alone; medians over paired runs in alternating order. The last line
is JSON with the ratios (peer's seconds ÷ ours). Peers come with `pip install -e .[bench]`; a missing one is named.
Without `../shared/data/dedup` the benchmark says so and ends.
"""

import argparse
import importlib.util
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "dedup" / "docs_versions_14885.parquet"
NUM_PERMUTATIONS, NGRAM, THRESHOLD = 128, 5, 0.8
DIFFERENCES = {
    "ftlib": "the dedup stage of jobs.prepare on records in the object store (`from_file_s`: from the Parquet file, "
    "read and validated, as against datatrove); label conflicts and exact duplicates as well; every near-duplicate "
    "verified by exact Jaccard; two CPUs; a new key each run, so that nothing is remembered from the one before",
    "datasketch": "texts already in memory; MinHash.bulk, MinHashLSH with ftlib's bands, first of a bucket kept; not "
    "verified; one process",
    "rensa": "texts already in memory; R-MinHash (its own sketch, not these permutations), 16 bands of 8 (it takes "
    "divisors only); its deduplicator's keep flags, verified by sketch; threads as it likes",
    "datatrove": "from the same Parquet file; signature, buckets, cluster, filter; its own permutations and its spaCy "
    "word tokeniser; not verified; two workers",
}
WORD = re.compile(r"\w+")
Run = Callable[[], int]


def ngrams(text: str) -> list[str]:
    """The shingles of ftlib as strings, as a user of the peers would make them."""
    words = WORD.findall(" ".join(text.lower().split()))
    return list(map(" ".join, zip(*(words[i:] for i in range(NGRAM)), strict=False))) or [" ".join(words)]


def ftlib_run(path: Path, in_memory: bool = True) -> Run:
    """Needs a connected Ray cluster. `in_memory`: the records lie in the object store before the clock starts."""
    from ftlib.config.prepare import PrepareConfig
    from ftlib.data import passes
    from ftlib.data.flow import Flow
    from ftlib.data.inputs import find_inputs
    from ftlib.data.plan import plan_reads
    from ftlib.data.read import ReadSettings

    config = PrepareConfig.model_validate(
        {
            "input": {"paths": [str(path)]},
            "output": {"path": "unused"},
            "dedup": {"threshold": THRESHOLD, "num_permutations": NUM_PERMUTATIONS, "ngram": NGRAM},
        }
    )
    passes.configure_ray_data()
    tasks = plan_reads(find_inputs(config.input.paths), config.input, b"k" * 32)
    records = None
    if in_memory:
        settings = ReadSettings(config.input, b"k" * 32, passes.rows_per_block(config.execution, tasks))
        records = passes.read_tables(tasks, settings, passes.share_cpus(2, None)).materialize()

    def run() -> int:
        # Another key: no process may remember a hash from the run before.
        _, rows, _, decided = Flow(config, os.urandom(32), tasks, config.output.path).find_duplicates(records)
        return rows.num_rows - decided.removed.num_rows()

    return run


def datasketch_run(texts: Sequence[str]) -> Run:
    from datasketch import MinHash, MinHashLSH

    from ftlib.text.minhash import choose_bands

    def run() -> int:
        shingles = ([gram.encode() for gram in ngrams(text)] for text in texts)
        index = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=choose_bands(THRESHOLD, NUM_PERMUTATIONS))
        kept = 0
        for number, sketch in enumerate(MinHash.bulk(shingles, num_perm=NUM_PERMUTATIONS)):
            if not index.query(sketch):
                index.insert(number, sketch)
                kept += 1
        return kept

    return run


def rensa_run(texts: Sequence[str]) -> Run:
    from rensa import RMinHashDeduplicator

    def run() -> int:
        index = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=NUM_PERMUTATIONS, use_lsh=True, num_bands=16)
        return sum(index.add_pairs((str(number), ngrams(text)) for number, text in enumerate(texts)))

    return run


def datatrove_run(path: Path, folder: Path) -> Run:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.logging import logger as datatrove_logger

    from ftlib.text.minhash import choose_bands

    datatrove_logger.remove()
    bands, rows = choose_bands(THRESHOLD, NUM_PERMUTATIONS)
    config = MinhashConfig(n_grams=NGRAM, num_buckets=bands, hashes_per_bucket=rows)
    parts = folder / "parts"  # one file a task, or one of the two workers would have nothing to do
    parts.mkdir()
    table = pq.read_table(path, columns=["text"])
    for number in range(2):
        pq.write_table(table.take(list(range(number, table.num_rows, 2))), parts / f"{number}.parquet")

    def run() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as work:

            def reader() -> Any:
                return ParquetReader(str(parts), glob_pattern="*.parquet")

            stages: Iterable[tuple[list[Any], int]] = [
                ([reader(), MinhashDedupSignature(f"{work}/signatures", config)], 2),
                ([MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)], bands),
                ([MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config)], 1),
                ([reader(), MinhashDedupFilter(f"{work}/remove"), JsonlWriter(f"{work}/kept", compression=None)], 2),
            ]
            for number, (pipeline, tasks) in enumerate(stages):
                LocalPipelineExecutor(pipeline, tasks=tasks, workers=2, logging_dir=f"{work}/logs{number}").run()
            return sum(len(file.read_bytes().splitlines()) for file in Path(work, "kept").glob("*.jsonl"))

    return run


def paired(ours: Run, peer: Run, num_runs: int) -> dict[str, Any]:
    """Seconds of both in alternating order; the ratio is the median of the pairs'."""
    seconds: dict[str, list[float]] = {"ftlib": [], "peer": []}
    kept: dict[str, int] = {}
    for number in range(num_runs):
        order = [("ftlib", ours), ("peer", peer)]
        for name, run in order if number % 2 == 0 else reversed(order):
            started = time.perf_counter()
            kept[name] = run()
            seconds[name].append(time.perf_counter() - started)
    ratios = [theirs / own for own, theirs in zip(seconds["ftlib"], seconds["peer"], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "ftlib_s": round(statistics.median(seconds["ftlib"]), 2),
        "peer_s": round(statistics.median(seconds["peer"]), 2),
        "kept": kept,
    }


def measure(texts: list[str], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    path = folder / "documents.parquet"
    table = pa.table({"text": texts})
    pq.write_table(table, path, row_group_size=1024)
    ours, from_file = ftlib_run(path), ftlib_run(path, in_memory=False)
    ours()  # Ray's worker processes start and import
    started = time.perf_counter()
    from_file()
    found: dict[str, Any] = {"from_file_s": round(time.perf_counter() - started, 2)}
    print(f"{len(texts)} documents, ftlib from the file: {found['from_file_s']} s", flush=True)
    for name in arguments.peers.split(","):
        if importlib.util.find_spec(name) is None:
            found[name] = {"skipped": f"{name} is not installed: pip install -e .[bench]"}
        elif name == "datatrove":
            part = texts[: arguments.datatrove_rows]
            small = folder / "part.parquet"
            pq.write_table(pa.table({"text": part}), small, row_group_size=1024)
            (folder / "datatrove").mkdir()
            found[name] = paired(
                ftlib_run(small, in_memory=False),
                datatrove_run(small, folder / "datatrove"),
                arguments.datatrove_runs,
            )
            found[name]["num_documents"] = len(part)
        else:
            peer = {"datasketch": datasketch_run, "rensa": rensa_run}[name](texts)
            found[name] = paired(ours, peer, arguments.runs)
        print(f"{len(texts)} documents, {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the Parquet file of documents")
    parser.add_argument("--rows", type=int, default=None, help="only the first documents")
    parser.add_argument("--runs", type=int, default=3, help="paired runs with datasketch and rensa")
    parser.add_argument("--peers", default="datasketch,rensa,datatrove")
    parser.add_argument("--datatrove-rows", type=int, default=None, help="only the first documents against datatrove")
    parser.add_argument("--datatrove-runs", type=int, default=1, help="paired runs with datatrove, which is slow")
    parser.add_argument("--sets", default="all,distinct")
    arguments = parser.parse_args()
    if not arguments.data.exists():
        print(json.dumps({"bench": "dedup_speed", "skipped": f"no documents at {arguments.data}"}))
        return
    from ftlib.config.base import ClusterConfig
    from ftlib.runtime.cluster import connect

    every = pq.read_table(arguments.data, columns=["text"]).slice(0, arguments.rows)["text"].to_pylist()
    sets = {"all": every, "distinct": list(dict.fromkeys(every))}
    results: dict[str, Any] = {}
    with connect(ClusterConfig(address="local", num_cpus=2)):
        for name in arguments.sets.split(","):
            with tempfile.TemporaryDirectory() as folder:
                results[name] = {"num_documents": len(sets[name]), **measure(sets[name], arguments, Path(folder))}
    print(json.dumps({"bench": "dedup_speed", "sets": results, "differences": DIFFERENCES}))


if __name__ == "__main__":
    main()
