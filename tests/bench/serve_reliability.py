"""Streams through rolling updates, killed replicas and three times the load that the engine can take.

    python -m tests.bench.serve_reliability [--updates 10] [--kills 5] [--only streams,overload] [--proxy serve]

SmolLM2-135M in float32, two engine replicas of one thread behind one gateway on a Ray cluster of this bench's own, with
HAProxy before it as the README advises, or Ray Serve's own proxy.

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
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from ftlib.runtime.local import free_ports
from tests.bench.serving_peers import ask, choose_proxy, make_prompts
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
    """Goodput at the rows' number of clients and at three times the rate that this gave.

    The clients' CPU time is taken from the server's: aiohttp asks for a fourth of what httpx does.
    """
    import aiohttp

    prompts = make_prompts(tokenizer, 64, 32, 2)
    tokens, generator = 16, random.Random(3)

    @dataclass
    class Seen:
        """What clients saw between a quarter of the time, when all is under way, and its end."""

        seconds: float
        began: float = field(default_factory=time.monotonic)
        texts: int = 0
        answers: int = 0
        refused_s: list[float] = field(default_factory=list)
        retry_after: set[str | None] = field(default_factory=set)
        statuses: Counter[int] = field(default_factory=Counter)

        def is_in_time(self) -> bool:
            return self.seconds / 4 < time.monotonic() - self.began < self.seconds

        def a_second(self, number: int) -> float:
            return number / (0.75 * self.seconds)

    async def one(http: aiohttp.ClientSession, seen: Seen) -> None:
        body = {"model": "model", "prompt": generator.choice(prompts), "max_tokens": tokens, "stream": True}
        asked = time.monotonic()
        async with http.post(f"{url}/v1/completions", json={**body, "temperature": 0}) as response:
            seen.statuses[response.status] += 1
            if response.status != 200:
                await response.read()
                seen.refused_s.append(time.monotonic() - asked)
                seen.retry_after.add(response.headers.get("retry-after"))
                return
            async for line in response.content:
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
                    seen.texts += seen.is_in_time()
            seen.answers += seen.is_in_time()

    async def closed(seconds: float) -> Seen:
        """As many clients as rows, each with one request after the other."""
        async with _session() as http:
            seen = Seen(seconds)

            async def again_and_again() -> None:
                while time.monotonic() - seen.began < seconds:
                    await one(http, seen)

            await asyncio.gather(*(again_and_again() for _ in range(ROWS * REPLICAS)))
            return seen

    async def opened(rate: float, seconds: float) -> Seen:
        """So many requests a second, whatever becomes of them."""
        async with _session() as http:
            seen, running = Seen(seconds), []
            while (now := time.monotonic() - seen.began) < seconds:
                running.append(asyncio.create_task(one(http, seen)))
                await asyncio.sleep(max(0.0, len(running) / rate - now))
            await asyncio.gather(*running)
            return seen

    def _session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(300), connector=aiohttp.TCPConnector(limit=0, force_close=False)
        )

    asyncio.run(closed(10))
    before = asyncio.run(closed(options.seconds))
    rate = before.a_second(before.answers)
    found = asyncio.run(opened(3 * rate, options.seconds))
    after = asyncio.run(closed(options.seconds))  # the machine may have become slower or faster
    peaks, goodput = [seen.a_second(seen.texts) for seen in (before, after)], found.a_second(found.texts)
    found.refused_s.sort()
    return {
        "requests_per_s": rate, "peaks": peaks, "goodput": goodput, "statuses": dict(found.statuses),
        "retry_after": sorted(map(str, found.retry_after)),
        "refused_p50_ms": 1e3 * found.refused_s[len(found.refused_s) // 2],
        "refused_p99_ms": 1e3 * found.refused_s[int(0.99 * (len(found.refused_s) - 1))],
        "goodput_ratio": goodput / (sum(peaks) / 2),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--only", default="streams,overload")
    parser.add_argument("--proxy", choices=["haproxy", "serve"], default="haproxy")
    options = parser.parse_args()

    from ftlib.models.load import load_tokenizer
    from ftlib.models.source import resolve_source
    from ftlib.runtime.cluster import connect

    tokenizer = load_tokenizer(resolve_source("embedded:smollm2-135m"))
    choose_proxy(options.proxy)
    (port,) = free_ports(1)
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
    print(json.dumps({"bench": "serve_reliability", "proxy": options.proxy, **found, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
