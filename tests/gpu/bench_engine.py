"""Tokens a second of the embedded engine on one GPU, beside `generate` and transformers' continuous batching.

    python -m tests.gpu.bench_engine --size 1b|3b [--clients 1 16 64] [--prompt 128] [--answer 64] [--adapters 8]

One plain process, random weights in bfloat16, greedy, every answer of full length; contenders take turns. Continuous
batching is `model.generate_batch` of this transformers where it has it, else left out and said so. With `--adapters`
the same requests are spread over so many random LoRA adapters of rank 16. The last line is JSON; `--size tiny --device
cpu` tries the script without a GPU.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ftlib.inference.embedded import EmbeddedEngine
from ftlib.inference.protocol import GenerationRequest
from ftlib.inference.stepper import Stepper
from ftlib.models.load import load_model, load_tokenizer
from tests.bench.serving_peers import write_adapters
from tests.gpu.bench import SIZES
from tests.gpu.cases import write_llama


def prompts_of(count: int, options: argparse.Namespace, seed: int) -> list[list[int]]:
    generator, vocabulary = random.Random(seed), SIZES[options.size]["vocab_size"]
    return [[generator.randrange(4, vocabulary) for _ in range(options.prompt)] for _ in range(count)]


def ours(engine: EmbeddedEngine, prompts: list[list[int]], options: argparse.Namespace, adapters: int) -> float:
    """Tokens a second of all requests at once."""

    async def one(number: int) -> int:
        adapter = str(number % adapters) if adapters else None
        request = GenerationRequest(
            str(number), tuple(prompts[number]), options.answer, adapter=adapter, ignore_eos=True
        )
        return sum([1 async for _ in engine.submit(request)])

    async def together() -> int:
        return sum(await asyncio.gather(*(one(number) for number in range(len(prompts)))))

    began = time.monotonic()
    return asyncio.run(together()) / (time.monotonic() - began)


def plain(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> float:
    """`generate` on all prompts as one batch."""
    ids = torch.tensor(prompts, device=options.device)
    began = time.monotonic()
    with torch.inference_mode():
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=options.answer, max_new_tokens=options.answer,
        )  # fmt: skip
    if options.device == "cuda":
        torch.cuda.synchronize()
    return len(prompts) * options.answer / (time.monotonic() - began)


def continuous(model: Any, prompts: list[list[int]], options: argparse.Namespace) -> float | None:
    """transformers' continuous batching."""
    from transformers import GenerationConfig

    if not hasattr(model, "generate_batch"):
        return None
    config = GenerationConfig(max_new_tokens=options.answer, do_sample=False, eos_token_id=-1, pad_token_id=0)
    began = time.monotonic()
    # The first turn makes the manager and its cache; `main` has it forgotten when the number of clients changes.
    outputs = model.generate_batch(inputs=prompts, generation_config=config, persistent_manager=True)
    return sum(len(output.generated_tokens) for output in outputs.values()) / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, Any] = {"bench": "engine", "size": options.size, "device": options.device}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = write_llama(root / "base", torch.device(options.device), torch.bfloat16, **SIZES[options.size])
        write_adapters(folder, root, options.adapters)
        peer = load_model(folder, torch.bfloat16, options.device)
        stepper = Stepper(
            load_model(folder, torch.bfloat16, options.device), load_tokenizer(folder), folder,
            num_slots=max(options.clients), capacity=options.prompt + options.answer, max_adapters=options.adapters,
        )  # fmt: skip
        engine = EmbeddedEngine(lambda: stepper, max_rows=max(options.clients), prefill_tokens=2048)
        engine.start()
        for number in range(options.adapters):
            engine.load_adapter(str(number), root / f"adapter{number}")
        for clients in options.clients:
            rates: dict[str, list[float]] = {}
            for turn in range(options.rounds + 1):
                prompts = prompts_of(clients, options, turn)
                taken = {
                    "ours": ours(engine, prompts, options, 0),
                    "ours_mixed": ours(engine, prompts, options, options.adapters),
                    "generate": plain(peer, prompts, options), "continuous": continuous(peer, prompts, options),
                }  # fmt: skip
                for contender, rate in taken.items():
                    if turn and rate is not None:  # the first turn warms up
                        rates.setdefault(contender, []).append(rate)
            if "continuous" in rates:
                peer.destroy_cached_continuous_batching_manager()
            found[str(clients)] = {contender: statistics.median(taken) for contender, taken in rates.items()}
            print(clients, json.dumps(found[str(clients)]), flush=True)
        engine.stop()
    if options.device == "cuda":
        found["gpu"], found["peak_gb"] = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() / 1e9
    print(json.dumps(found))


if __name__ == "__main__":
    main()
