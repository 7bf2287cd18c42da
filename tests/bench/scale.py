"""The whole of `jobs.prepare` on generated tickets of about 300 characters: seconds, rows a second, peak memory.

    python -m tests.bench.scale --rows 100000 1000000 [--profile fast] [--short] [--folder FOLDER] [--cpus N]

Each size is one job on a cluster of its own. Memory is the PSS of all its processes (driver, Ray's daemons, workers),
summed every two seconds from `/proc/PID/smaps_rollup`; of the driver also what it alone has (private pages). With
`--short` a ticket has about 60 characters. The last line is JSON; with two sizes it holds the ratios, largest to
smallest, of the time per row and of the driver's memory.
"""

import argparse
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftlib.data import sample_phrases as phrases
from ftlib.data.sample import queue_of
from ftlib.data.sample_values import VALUE_MAKERS, Values
from ftlib.runtime.processes import CLUSTER_ID, find_marked

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_EVERY_S = 2.0
_POOL, _PHRASES = 4000, 20_000
_EXACT_SHARE, _NEAR_SHARE, _PII_SHARE = 0.03, 0.03, 0.7


def tickets(num_rows: int, seed: int = 7, *, short: bool = False) -> Iterator[dict[str, Any]]:
    """Tickets of two problems, their urgency, facts and personal values; 3 % exact and 3 % near copies.

    Short ones are ten words of a large vocabulary: phrases of a pool would make many of them alike.
    """
    rng, values = random.Random(seed), Values(seed)
    pools = {kind: [values.make(kind, rng) for _ in range(_POOL)] for kind in sorted(VALUE_MAKERS)}
    problems = {
        category: [_fill(rng.choice(templates), rng) for _ in range(_PHRASES // 6)]
        for category, templates in sorted(phrases.PROBLEMS.items())
    }
    facts = [_fill(rng.choice(phrases.CUSTOMER_FACTS), rng) for _ in range(_PHRASES)]
    words = ["".join(rng.choices("aeioumnlrstkdbpg", k=rng.randint(3, 8))) for _ in range(_PHRASES)] if short else []
    categories, priorities, kinds = sorted(problems), sorted(phrases.URGENCY), sorted(pools)
    last: list[str] = []
    for number in range(num_rows):
        category, priority, chance = rng.choice(categories), rng.choice(priorities), rng.random()
        if last and chance < _EXACT_SHARE:
            text = rng.choice(last)
        elif last and chance < _EXACT_SHARE + _NEAR_SHARE:
            text = f"{rng.choice(last)} Bye."
        elif short:
            text = " ".join(rng.choices(words, k=10)).capitalize() + "."
            last = [*last[-50:], text]
        else:
            parts = [rng.choice(problems[category]), rng.choice(problems[category])]
            parts += [rng.choice(phrases.URGENCY[priority]), *rng.choices(facts, k=3)]
            if rng.random() < _PII_SHARE:
                kind = rng.choice(kinds)
                parts.append(rng.choice(phrases.PII_SENTENCES[kind]).replace("{}", rng.choice(pools[kind])))
            rng.shuffle(parts)
            text = f"Ticket {rng.getrandbits(32):08x}. {' '.join(parts)}"
            last = [*last[-50:], text]
        queue = queue_of(category, priority)
        yield {
            "id": f"t{number:08d}", "input": text,
            "output": f"category: {category}\npriority: {priority}\nqueue: {queue}", "label": category,
            "subject": f"C-{rng.randrange(num_rows)}", "metadata": {"channel": rng.choice(("web", "email", "chat"))},
        }  # fmt: skip


def _fill(phrase: str, rng: random.Random) -> str:
    slots = {name: rng.choice(values) for name, values in phrases.SLOTS.items()}
    return phrase.format(
        amount=f"${rng.randint(5, 480)}.{rng.randint(0, 99):02d}", days=rng.randint(3, 29), count=rng.randint(2, 9),
        staff=rng.randint(12, 400), code=f"E{rng.randint(10, 99)}", **slots,
    )  # fmt: skip


def write_tickets(path: Path, num_rows: int, *, short: bool = False) -> float:
    """Write them as JSONL; returns the mean characters of a ticket."""
    characters = 0
    with open(path, "w", encoding="utf-8") as file:
        for ticket in tickets(num_rows, short=short):
            characters += len(ticket["input"])
            file.write(json.dumps(ticket) + "\n")
    return characters / num_rows


class PssSampler(threading.Thread):
    """Watches the processes of a cluster; `peak` and what made it up, in bytes."""

    def __init__(self, cluster_id: str, temp_dir: str, driver: int) -> None:
        super().__init__(daemon=True)
        self._cluster_id, self._temp_dir, self._driver = cluster_id, temp_dir, driver
        self._ended = threading.Event()
        self.peak, self.at_peak, self.peak_driver, self.peak_driver_private = 0, Counter[str](), 0, 0

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            found = Counter[str]()
            for item in find_marked(self._cluster_id, self._temp_dir):
                found[_role(item.pid, self._driver)] += _memory(item.pid, "Pss")
            # Clean pages are libraries', which count as private once the workers that shared them are gone.
            private = _memory(self._driver, "Private_Dirty")
            self.peak_driver_private = max(self.peak_driver_private, private)
            self.peak_driver = max(self.peak_driver, found["driver"])
            if found.total() > self.peak:
                self.peak, self.at_peak = found.total(), found

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _role(pid: int, driver: int) -> str:
    if pid == driver:
        return "driver"
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0].decode(errors="replace")
    except OSError:
        return "gone"
    return title.split("(")[0].split(".")[0] if title.startswith("ray::") else title.rsplit("/", 1)[-1]


def _memory(pid: int, kind: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:")), 0)


def prepare(source: Path, out: Path, profile: str, cpus: int | None) -> dict[str, Any]:
    """One job in a process of its own: seconds, memory, counts, and the lines of its log that name a stage's end."""
    cluster_id = secrets.token_hex(8)
    environment = {**os.environ, CLUSTER_ID: cluster_id, "FTLIB_KEY": "0123456789abcdef", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    environment["TMPDIR"] = temp_dir = tempfile.mkdtemp(prefix="s-", dir="/tmp")
    arguments = [f"input.paths=[{source}]", f"output.path={out}", f"pii.profile={profile}", "cluster.address=local"]
    if cpus:
        arguments.append(f"cluster.num_cpus={cpus}")
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.prepare", *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as job:
        sampler = PssSampler(cluster_id, temp_dir, job.pid)
        sampler.start()
        output, _ = job.communicate()
    seconds = time.monotonic() - started
    sampler.stop()
    shutil.rmtree(temp_dir, ignore_errors=True)
    result = json.loads(output.splitlines()[-1])
    if result["status"] != "ok":
        raise SystemExit(f"jobs.prepare: {result['status']}: {result.get('message')}")
    return {
        "seconds": round(seconds, 1),
        "peak_pss_gb": round(sampler.peak / 1e9, 3),
        "peak_driver_pss_gb": round(sampler.peak_driver / 1e9, 3),
        "peak_driver_private_gb": round(sampler.peak_driver_private / 1e9, 3),
        "at_peak_gb": {role: round(size / 1e9, 3) for role, size in sampler.at_peak.most_common(8)},
        "counts": result["counts"],
    }


def measure(num_rows: int, folder: Path, profile: str, cpus: int | None, *, short: bool) -> dict[str, Any]:
    """Generate, prepare, clear away."""
    source = folder / f"tickets-{num_rows}.jsonl"
    mean_chars = write_tickets(source, num_rows, short=short)
    input_bytes = source.stat().st_size
    found = prepare(source, folder / f"out-{num_rows}", profile, cpus)
    counts = found.pop("counts")
    shutil.rmtree(folder / f"out-{num_rows}")
    source.unlink()
    return {
        "rows": num_rows, "mean_chars": round(mean_chars, 1), "input_mb": round(input_bytes / 1e6, 1),
        "rows_per_s": round(num_rows / found["seconds"], 1), **found,
        "kept": counts["num_out"], "dropped": counts["num_dropped"], "quarantined": counts["num_quarantined"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--profile", default="fast")
    parser.add_argument("--short", action="store_true", help="tickets of about 60 characters")
    parser.add_argument("--cpus", type=int, default=None, help="CPUs of the cluster (default: this machine's)")
    parser.add_argument("--folder", type=Path, default=None, help="where tickets and results lie (default: a new one)")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="ftlib-scale-"))
    folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for num_rows in arguments.rows:
        runs.append(measure(num_rows, folder, arguments.profile, arguments.cpus, short=arguments.short))
        print(json.dumps(runs[-1]), flush=True)
    if arguments.folder is None:
        shutil.rmtree(folder)
    small, large = min(runs, key=lambda run: run["rows"]), max(runs, key=lambda run: run["rows"])
    ratio = (large["seconds"] / large["rows"]) / (small["seconds"] / small["rows"])
    result = {"bench": "scale", "profile": arguments.profile, "runs": runs, "time_per_row_ratio": round(ratio, 3)}
    for name in ("peak_driver_pss_gb", "peak_driver_private_gb"):
        result[name.replace("_gb", "_ratio")] = round(large[name] / small[name], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
