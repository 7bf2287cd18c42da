"""Tokens a second and time to the first one of the embedded engine and its peers, for 16 streaming clients.

    python -m tests.bench.serve_speed [--precision bfloat16] [--peers transformers locked vllm] [--rounds 2]

SmolLM2-135M, 128 tokens in, 64 out, greedy; servers take turns on the same threads, a server at a time, each measured
after a warm-up. Tokens are counted by the model's tokenizer in what clients got.

- `peers`: `transformers serve --continuous-batching`, FastAPI with a locked `generate`, vLLM's CPU build (where
  FTLIB_VLLM_PYTHON names the interpreter of its environment), in the same precision. A CPU without bfloat16 emulates it
  in transformers; ours then computes in float32, so `--precision float32` says what the engines themselves are worth.
- `int8`: INT8 weights against the same engine without, one client; quality as bits a token on MedQuAD's answers.
- `adapters`: 8 adapters mixed against all requests on one.
- `ray`: Ray Serve against plain uvicorn around the same engine, one client and 16, with HAProxy before the gateway as
  the README advises, or (`--proxy serve`) Serve's own. Ray's daemons are stopped while uvicorn is measured; what Serve
  costs where they run in either case is `serve_ms` and `serve_tokens`.

The last line is JSON; the exit code is 1 when a target is missed.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from ftlib.runtime.local import free_ports
from tests.bench.serving_peers import Load, choose_proxy, make_prompts, measure, server, write_adapters

TARGETS = {
    "tokens_vs_transformers": (">=", 2.0), "first_vs_transformers": ("<=", 0.5), "tokens_vs_locked": (">=", 8.0),
    "tokens_vs_vllm": (">=", 1.2), "int8_alone": (">=", 1.8), "mixed_vs_one": (">=", 0.85), "ray_ms": ("<=", 6.0),
    "ray_tokens": (">=", 0.9),
}  # fmt: skip


class Bench:
    """What all parts share."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        from ftlib.models.load import load_tokenizer
        from ftlib.models.source import resolve_source

        self.options, self.folder = options, folder
        self.model = resolve_source("embedded:smollm2-135m")
        self.tokenizer = load_tokenizer(self.model)
        self.seed = 0

    def count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def load(self, url: str, models: list[str], clients: int, requests: int) -> Load:
        """A warm-up and a measured load, each of fresh prompts."""
        for number in (min(clients, 2), requests):
            self.seed += 1
            prompts = make_prompts(self.tokenizer, number, 128, self.seed)
            result = measure(url, models, prompts, clients, 64, self.count)
        return result

    def command(self, peer: str, port: int, precision: str, adapters: list[Path]) -> tuple[list[str], dict[str, str]]:
        threads = {"OMP_NUM_THREADS": str(self.options.threads), "TOKENIZERS_PARALLELISM": "false"}
        if peer == "transformers":
            command = [str(Path(sys.executable).with_name("transformers")), "serve", str(self.model)]
            extra = ["--continuous-batching", "--device", "cpu", "--dtype", precision, "--port", str(port)]
            return [*command, *extra, *self.options.transformers_options], threads
        if peer == "vllm":
            command = [os.environ["FTLIB_VLLM_PYTHON"], "-m", "vllm.entrypoints.openai.api_server"]
            extra = ["--model", str(self.model), "--dtype", precision, "--port", str(port), "--max-model-len", "512"]
            extra += ["--host", "127.0.0.1", "--max-num-seqs", "16", "--no-enable-prefix-caching"]
            environment = {**threads, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB: plenty
            return [*command, *extra, *self.options.vllm_options], environment
        command = [sys.executable, "-m", "tests.bench.serving_peers", peer, "--model", str(self.model)]
        extra = ["--port", str(port), "--precision", precision, "--threads", str(self.options.threads)]
        return [*command, *extra, "--adapters", *map(str, adapters)], threads

    def measure(self, peer: str, precision: str, clients: int, requests: int, models: int = 0) -> Load:
        """Start a server, load it, stop it. `models`: adapters that the requests are spread over."""
        (port,) = free_ports(1)
        adapters = [self.folder / f"adapter{number}" for number in range(8)] if models else []
        command, environment = self.command(peer, port, precision, adapters)
        name = str(self.model) if peer in ("transformers", "vllm") else "model"
        names = [f"adapter{number}" for number in range(models)] or [name]
        with server(command, port, self.folder / f"{peer}.log", environment):
            result = self.load(f"http://127.0.0.1:{port}", names, clients, requests)
        print(f"{peer:14} {precision:9} {clients:2} clients, {models} adapters: {result.tokens_per_s:6.1f} tok/s, "
              f"first {result.first_p50_s:.2f} s, between {1e3 * result.gap_p50_s:.0f} ms", flush=True)  # fmt: skip
        return result


def compare_peers(bench: Bench) -> dict[str, Any]:
    """16 clients; each peer beside ours in every round."""
    peers = [peer for peer in bench.options.peers if peer != "vllm" or os.environ.get("FTLIB_VLLM_PYTHON")]
    loads: dict[str, list[Load]] = {peer: [] for peer in ("ours", *peers)}
    for turn in range(bench.options.rounds):
        for peer in loads if turn % 2 == 0 else reversed(loads):
            requests = 16 if peer == "locked" else bench.options.requests
            loads[peer].append(bench.measure(peer, bench.options.precision, 16, requests))
    found = {
        f"tokens_vs_{peer}": statistics.median(
            mine.tokens_per_s / other.tokens_per_s for mine, other in zip(loads["ours"], loads[peer], strict=True)
        )
        for peer in peers
    }
    if "transformers" in peers:
        found["first_vs_transformers"] = statistics.median(
            mine.first_p50_s / other.first_p50_s
            for mine, other in zip(loads["ours"], loads["transformers"], strict=True)
        )
    rates = {peer: statistics.median(load.tokens_per_s for load in taken) for peer, taken in loads.items()}
    firsts = {peer: statistics.median(load.first_p50_s for load in taken) for peer, taken in loads.items()}
    return {**found, "tokens_per_s": rates, "first_p50_s": firsts}


def compare_int8(bench: Bench) -> dict[str, Any]:
    """One client; and what it costs."""
    ratios, rates = [], {"int8": [], bench.options.precision: []}
    for _ in range(bench.options.rounds):
        for precision, taken in rates.items():
            taken.append(bench.measure("ours", precision, 1, 4).tokens_per_s)
        ratios.append(rates["int8"][-1] / rates[bench.options.precision][-1])
    return {"int8_alone": statistics.median(ratios), "tokens_per_s": rates, **bits_per_token(bench)}


def bits_per_token(bench: Bench) -> dict[str, Any]:
    """Of MedQuAD's first answers given their questions, plain and INT8."""
    import gzip

    from ftlib.inference.slots import Segment
    from ftlib.inference.stepper import Stepper

    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "medical" / "medquad_3000.jsonl.gz"
    if not path.exists():
        return {"bits_skipped": f"no {path.name}"}
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for _, line in zip(range(24), file, strict=False)]
    found = {}
    for precision in ("float32", "int8"):
        stepper = Stepper.load(bench.model, precision, num_slots=1, capacity=512)
        bits, tokens = 0.0, 0
        for row in rows:
            question = bench.tokenizer(row["input"] + "\n").input_ids
            answer = bench.tokenizer(row["output"]).input_ids[:200]
            ids = (question + answer)[:500]
            # A segment a token: the engine's own way, and logits after each of them.
            logits = _all_logits(stepper, ids, Segment)
            chosen = logits[len(question) - 1 : -1].log_softmax(-1)
            for at, token in enumerate(ids[len(question) :]):
                bits -= float(chosen[at, token]) / 0.6931471805599453
                tokens += 1
        found[precision] = bits / tokens
    return {"bits_per_token": found, "bits_tokens": tokens}


def _all_logits(stepper: Any, ids: list[int], segment: Any) -> Any:
    """Logits after every token, `[tokens, vocabulary]`."""
    hidden = stepper.step([segment(0, 0, len(ids))], ids, [], True)[1]
    return stepper.model.get_output_embeddings()(hidden[None].to(stepper.bank.like.dtype))[0].float()


def compare_adapters(bench: Bench) -> dict[str, Any]:
    """16 clients on eight adapters, and all on one of the eight."""
    write_adapters(bench.model, bench.folder, 8)
    ratios = []
    for _ in range(bench.options.rounds):
        one = bench.measure("ours", bench.options.precision, 16, bench.options.requests, models=1)
        mixed = bench.measure("ours", bench.options.precision, 16, bench.options.requests, models=8)
        ratios.append(mixed.tokens_per_s / one.tokens_per_s)
    return {"mixed_vs_one": statistics.median(ratios)}


@contextmanager
def suspended(processes: list[psutil.Process]) -> Iterator[None]:
    """Take the CPU from processes for a while."""
    alive = [process for process in processes if process.is_running()]
    for process in alive:
        process.suspend()
    try:
        yield
    finally:
        for process in alive:
            process.resume()
        time.sleep(1)


def compare_ray(bench: Bench) -> dict[str, Any]:
    """The app under Ray Serve, and the same routes and engine under uvicorn, in turns of a few seconds.

    Both run all the time. While uvicorn is measured `alone`, all of Ray is stopped: what its daemons cost is Ray's.
    `beside` them it tells what Serve adds on a node of a Ray cluster.
    """
    from ftlib.config.deploy import DeployConfig
    from ftlib.runtime.cluster import connect

    precision, threads = bench.options.precision, bench.options.threads
    bare, port = free_ports(2)
    command, environment = bench.command("ours", bare, precision, [])
    config = DeployConfig.model_validate({
        "model": {"source": "embedded:smollm2-135m", "name": "model", "precision": precision, "max_model_len": 512},
        "http": {"port": port}, "replicas": {"num_cpus": threads},
        "cluster": {"address": "local", "num_cpus": threads + 1},
    })  # fmt: skip
    choose_proxy(bench.options.proxy)
    found: dict[str, list[float]] = {"ray_ms": [], "ray_tokens": [], "serve_ms": [], "serve_tokens": []}
    # As nice as Ray makes its workers and a replica of the engine itself: only Ray is compared.
    with server(["nice", "-n", "19", *command], bare, bench.folder / "ours.log", environment):
        others = psutil.Process().children(recursive=True)
        with connect(config.cluster):
            from ray import serve

            from serve_apps.deploy import deploy

            deploy(config)
            rays = [process for process in psutil.Process().children(recursive=True) if process not in others]
            for _ in range(4 * bench.options.rounds):
                loads: dict[str, list[Load]] = {}
                for kind in random.sample(("alone", "beside", "ray"), 3):
                    url = f"http://127.0.0.1:{port if kind == 'ray' else bare}"
                    with suspended(rays if kind == "alone" else []):
                        time.sleep(1)  # Ray catches up with its timers
                        loads[kind] = [bench.load(url, ["model"], clients, 8 + 2 * clients) for clients in (1, 16)]
                for name, kind in (("ray", "alone"), ("serve", "beside")):
                    found[f"{name}_ms"].append(1e3 * (loads["ray"][0].first_p50_s - loads[kind][0].first_p50_s))
                    found[f"{name}_tokens"].append(loads["ray"][1].tokens_per_s / loads[kind][1].tokens_per_s)
                print(json.dumps({name: taken[-1] for name, taken in found.items()}), flush=True)
            serve.shutdown()
    medians = {name: statistics.median(taken) for name, taken in found.items()}
    return {**medians, "proxy": bench.options.proxy}


PARTS = {"peers": compare_peers, "int8": compare_int8, "adapters": compare_adapters, "ray": compare_ray}


def misses(found: dict[str, Any]) -> list[str]:
    """Targets that are not met."""
    missed = []
    for part, figures in found.items():
        for name, value in figures.items():
            if name in TARGETS:
                sign, limit = TARGETS[name]
                holds = value >= limit if sign == ">=" else value <= limit
                print(f"{part}.{name:26} {value:7.2f} {sign} {limit}  {'holds' if holds else 'MISSED'}")
                missed += [] if holds else [f"{part}.{name}"]
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--peers", nargs="*", default=["transformers", "locked", "vllm"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=48, help="of a load of 16 clients")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--proxy", choices=["haproxy", "serve"], default="haproxy")
    parser.add_argument("--transformers-options", nargs="*", default=[])
    parser.add_argument("--vllm-options", nargs="*", default=[])
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ftlib-serve-") as folder:
        bench = Bench(options, Path(folder))
        for name in options.only.split(","):
            found[name] = PARTS[name](bench)
            print(name, json.dumps(found[name]), flush=True)
    missed = misses(found)
    print(json.dumps({"bench": "serve_speed", "precision": options.precision, **found, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
