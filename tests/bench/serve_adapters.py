"""What loading adapters costs those who are being answered, and whether memory stays flat.

    python -m tests.bench.serve_adapters [--loads 40] [--requests 10000]

- `load`: SmolLM2-135M in float32 with eight answers under way; adapters of rank 16 on all linear layers are loaded from
  disk (sha256, base and shapes checked) and unloaded again and again. Milliseconds of a load, p95 (≤ 150), and the 99th
  percentile of the time between tokens while that goes on against that without (≤ 2).
- `memory`: a tiny model answers many requests of mixed lengths and adapters; resident memory after a tenth of them and
  at the end (≤ 1.05).

The last line is JSON; the exit code is 1 when a target is missed.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ftlib.core.fingerprints import folder_sha256
from ftlib.inference.embedded import EmbeddedEngine
from ftlib.inference.protocol import GenerationRequest
from ftlib.inference.stepper import Stepper
from tests.bench.serving_peers import write_adapters


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def measure_loads(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Gaps between tokens without and with loads; seconds of each load."""
    from ftlib.models.source import resolve_source

    model = resolve_source("embedded:smollm2-135m")
    write_adapters(model, folder, 2)
    sums = [folder_sha256(folder / f"adapter{number}") for number in range(2)]
    engine = EmbeddedEngine(lambda: Stepper.load(model, "float32", num_slots=16, capacity=1024))
    engine.start()
    engine.load_adapter("held", folder / "adapter0")
    gaps: dict[str, list[float]] = {"quiet": [], "loading": [], "off": []}
    phase = "off"
    generator = random.Random(0)

    async def answer(number: int) -> None:
        turn = 0
        while phase != "end":
            prompt = tuple(generator.randrange(100, 40_000) for _ in range(24))
            adapter = "held" if number % 2 else None
            request = GenerationRequest(f"{number}-{turn}", prompt, 200, adapter=adapter, ignore_eos=True)
            last = None
            async for _ in engine.submit(request):
                now = time.monotonic()
                if last is not None:
                    gaps[phase].append(now - last)
                last = now
                if phase == "end":
                    break
            turn += 1

    async def whole() -> list[float]:
        nonlocal phase
        gaps["end"] = []
        answers = [asyncio.ensure_future(answer(number)) for number in range(8)]
        loads = []
        await asyncio.sleep(5)
        for _ in range(options.rounds):
            phase = "quiet"
            await asyncio.sleep(options.seconds)
            phase = "loading"
            for number in range(options.loads // options.rounds):
                path, began = folder / f"adapter{number % 2}", time.monotonic()
                await asyncio.to_thread(engine.load_adapter, f"cold{number}", path, sums[number % 2])
                loads.append(time.monotonic() - began)
                await asyncio.sleep(0.2)
                await asyncio.to_thread(engine.unload_adapter, f"cold{number}")
        phase = "end"
        await asyncio.gather(*answers)
        return loads

    loads = asyncio.run(whole())
    engine.stop()
    return {
        "load_p50_ms": 1e3 * quantile(loads, 0.5), "load_p95_ms": 1e3 * quantile(loads, 0.95),
        "gap_p99_quiet_ms": 1e3 * quantile(gaps["quiet"], 0.99),
        "gap_p99_loading_ms": 1e3 * quantile(gaps["loading"], 0.99),
        "gap_ratio": quantile(gaps["loading"], 0.99) / quantile(gaps["quiet"], 0.99),
    }  # fmt: skip


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def measure_memory(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Resident megabytes after a tenth of the requests and at the end."""
    import torch

    from ftlib.models.load import load_tokenizer
    from ftlib.models.source import resolve_source
    from tests.inference_cases import save_varied_model

    torch.set_num_threads(1)
    tokenizer = load_tokenizer(resolve_source("embedded:smollm2-135m"))
    save_varied_model(tokenizer, folder, num_adapters=2)
    engine = EmbeddedEngine(lambda: Stepper.load(folder / "base", "float32", num_slots=24, capacity=256))
    engine.start()
    for number in range(2):
        engine.load_adapter(str(number), folder / f"adapter{number}")
    generator, marks = random.Random(1), []

    async def one(number: int) -> None:
        prompt = tuple(generator.randrange(100, 40_000) for _ in range(generator.choice([3, 20, 60])))
        adapter = generator.choice([None, "0", "1"])
        request = GenerationRequest(str(number), prompt, generator.choice([2, 5, 12]), adapter=adapter, ignore_eos=True)
        events = engine.submit(request)
        async for _ in events:
            if number % 10 == 0:  # some leave at once
                await events.aclose()
                break

    async def whole() -> None:
        for first in range(0, options.requests, 50):
            await asyncio.gather(*(one(number) for number in range(first, first + 50)))
            marks.append(resident_mb())

    asyncio.run(whole())
    engine.stop()
    early, late = marks[len(marks) // 10], marks[-1]
    return {"early_mb": early, "late_mb": late, "memory_ratio": late / early}


TARGETS = {"load_p95_ms": 150.0, "gap_ratio": 2.0, "memory_ratio": 1.05}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="load,memory")
    parser.add_argument("--loads", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8, help="of quiet before each round of loads")
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory(prefix="ftlib-adapters-") as folder:
            found |= {"load": measure_loads, "memory": measure_memory}[name](Path(folder), options)
        print(name, json.dumps(found), flush=True)
    missed = [name for name, limit in TARGETS.items() if found.get(name, 0) > limit]
    print(json.dumps({"bench": "serve_adapters", **found, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
