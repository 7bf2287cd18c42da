"""Servers that `serve_speed` compares, each a process of its own on loopback, and clients that measure them.

    python -m tests.bench.serving_peers ours|locked --model FOLDER --port N [--precision P] [--adapters DIR ...]

`ours` is the model app's routes over the embedded engine under plain uvicorn; `locked` is what a first version of such
a server looks like: FastAPI, transformers' `generate` and a lock.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftlib.runtime.local import free_ports

MAX_ROWS = 16


def serve_ours(options: argparse.Namespace) -> None:
    """The app's routes over the embedded engine, under uvicorn."""
    import torch
    import uvicorn

    from ftlib.inference.embedded import EmbeddedEngine
    from ftlib.inference.stepper import Stepper
    from ftlib.models.load import load_tokenizer
    from serve_apps.auth import KeyRing
    from serve_apps.endpoint import Endpoint, ServedName
    from serve_apps.http import build_http
    from serve_apps.metrics import EndpointMetrics

    torch.set_num_threads(options.threads)
    engine = EmbeddedEngine(
        lambda: Stepper.load(options.model, options.precision, num_slots=MAX_ROWS + 8, capacity=512),
        max_rows=MAX_ROWS,
    )
    engine.start()
    tokenizer = load_tokenizer(options.model)
    names = [ServedName("model", None, "model", tokenizer)]
    for number, path in enumerate(options.adapters):
        engine.load_adapter(f"adapter{number}", path)
        names.append(ServedName(f"adapter{number}", f"adapter{number}", f"adapter{number}", tokenizer, "model"))
    endpoint = Endpoint(engine, names, EndpointMetrics(engine, "bench", "model", len(options.adapters)))
    uvicorn.run(build_http(endpoint, KeyRing()), port=options.port, log_level="warning", access_log=False)


def serve_locked(options: argparse.Namespace) -> None:
    """One request at a time by `generate`, its text streamed."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse
    from transformers import TextIteratorStreamer

    from ftlib.models.load import load_model, load_tokenizer, pick_dtype

    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model, pick_dtype(options.precision, "cpu")), load_tokenizer(options.model)
    lock, app = asyncio.Lock(), FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {}

    @app.post("/v1/completions")
    async def completions(request: Request) -> StreamingResponse:
        body = await request.json()
        inputs = tokenizer(body["prompt"], return_tensors="pt")

        async def pieces() -> Any:
            async with lock:
                streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
                work = {"max_new_tokens": body["max_tokens"], "do_sample": False, "streamer": streamer}
                threading.Thread(target=model.generate, kwargs={**inputs, **work}).start()
                texts = iter(streamer)
                while (text := await asyncio.to_thread(next, texts, None)) is not None:
                    yield f"data: {json.dumps({'choices': [{'index': 0, 'text': text, 'finish_reason': None}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    uvicorn.run(app, port=options.port, log_level="warning", access_log=False)


def choose_proxy(name: str) -> None:
    """Have clusters that this process starts from now on take requests by `haproxy`, or by `serve`'s own proxy."""
    statistics_port, metrics_port = free_ports(2)
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1" if name == "haproxy" else "0"
    os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] = str(statistics_port)
    os.environ["RAY_SERVE_HAPROXY_METRICS_PORT"] = str(metrics_port)


@contextmanager
def server(command: Sequence[str], port: int, log: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    """Start a server, wait until it answers /health, stop it by its process id."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(environment or {})})
    try:
        deadline = time.monotonic() + 300
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[0]} does not serve\n{log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Answer:
    """What one client saw: seconds to the first text and between texts, and the whole text."""

    first_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    text: str = ""
    seconds: float = 0.0


async def ask(client: Any, url: str, model: str, prompt: str, max_tokens: int) -> Answer:
    """One streaming completion."""
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    answer, began = Answer(), time.monotonic()
    last = began
    async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{url}: {response.status_code} {(await response.aread())[:300]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            text = "".join(choice.get("text") or "" for choice in json.loads(line[6:]).get("choices", []))
            if not text:
                continue
            now = time.monotonic()
            if answer.text:
                answer.gaps_s.append(now - last)
            else:
                answer.first_s = now - began
            answer.text, last = answer.text + text, now
    answer.seconds = time.monotonic() - began
    return answer


@dataclass(frozen=True)
class Load:
    """A measured load."""

    tokens_per_s: float
    first_p50_s: float
    gap_p50_s: float
    gap_p99_s: float
    seconds_p50: float


def measure(url: str, models: Sequence[str], prompts: Sequence[str], clients: int, max_tokens: int, count: Any) -> Load:
    """Clients that each send their share of the prompts one after the other.

    Args:
        url: of the server.
        models: names, taken in turn by the prompts.
        prompts: texts.
        clients: how many stream at once.
        max_tokens: of each answer.
        count: number of tokens of a text.
    """
    import httpx

    async def all_of_them() -> tuple[list[Answer], float]:
        work = list(enumerate(prompts))
        answers: list[Answer] = []

        async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=clients)) as http:

            async def one() -> None:
                while work:
                    number, prompt = work.pop(0)
                    answers.append(await ask(http, url, models[number % len(models)], prompt, max_tokens))

            began = time.monotonic()
            await asyncio.gather(*(one() for _ in range(clients)))
            return answers, time.monotonic() - began

    answers, seconds = asyncio.run(all_of_them())
    gaps = sorted(gap for answer in answers for gap in answer.gaps_s) or [0.0]
    return Load(
        tokens_per_s=sum(count(answer.text) for answer in answers) / seconds,
        first_p50_s=statistics.median(answer.first_s for answer in answers),
        gap_p50_s=statistics.median(gaps),
        gap_p99_s=gaps[int(0.99 * (len(gaps) - 1))],
        seconds_p50=statistics.median(answer.seconds for answer in answers),
    )


def make_prompts(tokenizer: Any, count: int, tokens: int, seed: int) -> list[str]:
    """Texts of about so many tokens that differ from the first word on and go on for long."""
    words = ["river", "paper", "stone", "garden", "window", "copper", "letter", "winter", "market", "engine", "bread"]
    generator = random.Random(seed)
    prompts = []
    for _ in range(count):
        text = f"{generator.randrange(10**6)} A long story about"
        while len(tokenizer(text).input_ids) < tokens:
            text += f" a {generator.choice(words)} and {generator.randrange(100)} {generator.choice(words)}s,"
        prompts.append(tokenizer.decode(tokenizer(text).input_ids[:tokens]))
    return prompts


def write_adapters(model: Path, folder: Path, count: int) -> None:
    """Random LoRA adapters of rank 16 on all linear layers, small enough to leave a text a text: `adapter0`, …"""
    import torch
    from peft import LoraConfig, get_peft_model

    from ftlib.models.load import load_model

    for number in range(count):
        torch.manual_seed(number)
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(load_model(model), config)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.002)
        adapted.save_pretrained(folder / f"adapter{number}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["ours", "locked"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapters", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    {"ours": serve_ours, "locked": serve_locked}[options.kind](options)


if __name__ == "__main__":
    main()
