"""Streams through rolling updates, killed replicas and three times the load that the engine can take.

    python -m tests.bench.serve_reliability [--updates 10] [--kills 5] [--only streams,overload]

SmolLM2-135M in float32, two engine replicas of one thread behind one gateway on a Ray cluster of this bench's own.

- `streams`: clients ask the same prompts again and again, greedy, while the application is updated (every replica is
  replaced, the new one first) and replicas get SIGKILL. Every answer must be the one of the undisturbed run.
- `overload`: tokens a second with as many clients as rows, then requests come at three times that rate: how fast those
  in excess get their 429 (p99 ≤ 50 ms) and how many tokens a second the others get (≥ .9 of the former).

The last line is JSON; the exit code is 1 when a target is missed.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

import httpx

from tests.bench.serving_peers import ask, make_prompts
from tests.serving_cases import engine_pids, num_resumed

ROWS, QUEUE = 8, 8
REPLICAS = 2


def config(port: int, queue: int = QUEUE) -> Any:
    from ftlib.config.deploy import DeployConfig

    return DeployConfig.model_validate({
        "model": {"source": "embedded:smollm2-135m", "name": "model", "precision": "float32", "max_model_len": 512},
        "http": {"port": port},
        "replicas": {
            "num_replicas": REPLICAS, "num_cpus": 1, "max_ongoing_requests": ROWS, "max_queued_requests": queue
        },
        "cluster": {"address": "local", "num_cpus": 2 * REPLICAS + 1},
    })  # fmt: skip


def num_running() -> int:
    from ray import serve

    states = serve.status().applications["ftlib"].deployments["Engine"].replica_states
    return int(sum(count for state, count in states.items() if state == "RUNNING"))


def disturb(options: argparse.Namespace, port: int, log: list[str]) -> None:
    """Updates and kills, each waited for."""
    from serve_apps.deploy import deploy

    for number in range(options.updates):
        began = time.monotonic()
        deploy(config(port, QUEUE + 1 + number % 2))
        log.append(f"update {number}: {time.monotonic() - began:.0f} s")
        print(log[-1], flush=True)
        time.sleep(2)
    for number in range(options.kills):
        pid = random.choice(engine_pids())
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        while num_running() == REPLICAS and time.monotonic() - began < 20:  # Serve has not seen it yet
            time.sleep(0.1)
        while num_running() < REPLICAS:
            if time.monotonic() - began > 120:
                raise RuntimeError("the killed replica does not come back")
            time.sleep(0.5)
        log.append(f"kill {number}: two replicas again after {time.monotonic() - began:.0f} s")
        print(log[-1], flush=True)
        time.sleep(3)


def streams(url: str, port: int, options: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """The same answers, disturbed."""
    prompts = make_prompts(tokenizer, 12, 48, 1)
    outcome: Counter[str] = Counter()

    async def run(ended: threading.Event | None, expected: list[str]) -> list[str]:
        async with httpx.AsyncClient(timeout=300) as http:

            async def one(number: int) -> str:
                text = ""
                while True:
                    try:
                        text = (await ask(http, url, "model", prompts[number], options.tokens)).text
                    except (RuntimeError, httpx.HTTPError) as error:
                        outcome["failed"] += 1
                        print(f"failed: {type(error).__name__} {error}"[:300], flush=True)
                    else:
                        outcome["streams"] += 1
                        if expected and text != expected[number]:
                            outcome["differ"] += 1
                            print(f"differs: {text[-60:]!r} {expected[number][-60:]!r}", flush=True)
                    if ended is None or ended.is_set():
                        return text

            return await asyncio.gather(*(one(number) for number in range(len(prompts))))

    expected = asyncio.run(run(None, []))
    outcome.clear()
    ended, log = threading.Event(), []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            disturb(options, port, log)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    asyncio.run(run(ended, expected))
    thread.join()
    if failures:
        raise failures[0]
    return {
        "streams": outcome["streams"], "differ": outcome["differ"], "failed": outcome["failed"],
        "resumed": num_resumed(url), "updates": options.updates, "kills": options.kills,
    }  # fmt: skip


def overload(url: str, options: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """Goodput at the rows' number of clients and at three times the rate that this gave."""
    prompts = make_prompts(tokenizer, 64, 32, 2)
    tokens, generator = 16, random.Random(3)

    async def closed(seconds: float) -> tuple[float, float]:
        """Requests and answers' tokens a second."""
        done: list[int] = []
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as http:
            ends = time.monotonic() + seconds

            async def one() -> None:
                while time.monotonic() < ends:
                    answer = await ask(http, url, "model", generator.choice(prompts), tokens)
                    done.append(1 + len(answer.gaps_s))

            began = time.monotonic()
            await asyncio.gather(*(one() for _ in range(ROWS * REPLICAS)))
            took = time.monotonic() - began
        return len(done) / took, sum(done) / took

    async def opened(rate: float, seconds: float) -> dict[str, Any]:
        refused: list[float] = []
        statuses: Counter[int] = Counter()
        retry_after, in_time = set(), 0
        began = time.monotonic()
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as http:

            async def one() -> None:
                nonlocal in_time
                body = {"model": "model", "prompt": generator.choice(prompts), "max_tokens": tokens, "stream": True}
                asked = time.monotonic()
                async with http.stream("POST", f"{url}/v1/completions", json={**body, "temperature": 0}) as response:
                    statuses[response.status_code] += 1
                    if response.status_code != 200:
                        refused.append(time.monotonic() - asked)
                        retry_after.add(response.headers.get("retry-after"))
                        return
                    async for line in response.aiter_lines():
                        is_text = line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]
                        if is_text and seconds / 4 < time.monotonic() - began < seconds:
                            in_time += 1

            running = []
            while (now := time.monotonic() - began) < seconds:
                running.append(asyncio.create_task(one()))
                await asyncio.sleep(max(0.0, len(running) / rate - now))
            await asyncio.gather(*running)
        refused.sort()
        return {
            "goodput": in_time / (0.75 * seconds), "statuses": dict(statuses),
            "retry_after": sorted(map(str, retry_after)), "refused_p50_ms": 1e3 * refused[len(refused) // 2],
            "refused_p99_ms": 1e3 * refused[int(0.99 * (len(refused) - 1))],
        }  # fmt: skip

    asyncio.run(closed(10))
    rate, peak = asyncio.run(closed(options.seconds))
    found = asyncio.run(opened(3 * rate, options.seconds))
    _, peak_after = asyncio.run(closed(options.seconds))  # the machine may have become slower or faster
    ratio = found["goodput"] / ((peak + peak_after) / 2)
    return {"requests_per_s": rate, "peaks": [peak, peak_after], **found, "goodput_ratio": ratio}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--only", default="streams,overload")
    options = parser.parse_args()

    from ftlib.models.load import load_tokenizer
    from ftlib.models.source import resolve_source
    from ftlib.runtime.cluster import connect

    tokenizer = load_tokenizer(resolve_source("embedded:smollm2-135m"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url, found = f"http://127.0.0.1:{port}", {}
    with connect(config(port).cluster):
        from ray import serve

        from serve_apps.deploy import deploy

        deploy(config(port))
        if "overload" in options.only:
            found["overload"] = overload(url, options, tokenizer)
            print(json.dumps(found["overload"]), flush=True)
        if "streams" in options.only:
            found["streams"] = streams(url, port, options, tokenizer)
            print(json.dumps(found["streams"]), flush=True)
        serve.shutdown()
    missed = []
    if "streams" in found and (found["streams"]["differ"] or found["streams"]["failed"]):
        missed.append("streams")
    if "overload" in found:
        missed += ["refused_p99_ms"] if found["overload"]["refused_p99_ms"] > 50 else []
        missed += ["goodput_ratio"] if found["overload"]["goodput_ratio"] < 0.9 else []
    print(json.dumps({"bench": "serve_reliability", **found, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
