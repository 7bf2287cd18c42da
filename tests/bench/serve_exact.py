"""Answers of the embedded engine against PEFT's `generate`, token for token, in float32.

    python -m tests.bench.serve_exact [--rows 24] [--adapters 8]

SmolLM2-135M with random adapters, 128 tokens in, 64 out, greedy. Half of the prompts begin alike. Each row alone by
`generate` on its adapter is the reference; the engine gets all rows at once, adapters mixed, with reuse of prompts and
without, and then each row by itself. The last line is JSON; the exit code is 1 when a token differs.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.serving_peers import MAX_ROWS, make_prompts, write_adapters


def reference(model: Path, adapters: list[Path], prompts: list[list[int]], limit: int) -> list[list[int]]:
    """`generate` of PEFT on each row's adapter, without ftlib."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapters[0], "0"
    )
    for number, path in enumerate(adapters[1:], 1):
        base.load_adapter(path, str(number))
    base.eval()
    answers = []
    for row, prompt in enumerate(prompts):
        base.set_adapter(str(row % len(adapters)))
        ids = torch.tensor([prompt])
        with torch.no_grad():
            output = base.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
            )
        answers.append(output[0, len(prompt) :].tolist())
        print(".", end="", flush=True)
    print()
    return answers


def engine_answers(
    model: Path, adapters: list[Path], prompts: list[list[int]], limit: int, reuse: bool, alone: bool
) -> Any:
    """Tokens of each row and how many prompt tokens were reused."""
    from ftlib.inference.embedded import EmbeddedEngine
    from ftlib.inference.protocol import GenerationRequest
    from ftlib.inference.stepper import Stepper

    engine = EmbeddedEngine(
        lambda: Stepper.load(model, "float32", num_slots=MAX_ROWS + 8, capacity=512), reuse_prefixes=reuse
    )
    engine.start()
    for number, path in enumerate(adapters):
        engine.load_adapter(str(number), path)

    async def one(row: int) -> list[int]:
        request = GenerationRequest(str(row), tuple(prompts[row]), limit, adapter=str(row % len(adapters)))
        return [event.token async for event in engine.submit(request) if event.token is not None]

    async def together() -> list[list[int]]:
        if alone:
            return [await one(row) for row in range(len(prompts))]
        return list(await asyncio.gather(*(one(row) for row in range(len(prompts)))))

    answers = asyncio.run(together())
    reused = engine.stats().prefix_cache_hits_total
    engine.stop()
    return answers, reused


def main() -> int:
    from ftlib.models.load import load_tokenizer
    from ftlib.models.source import resolve_source

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    model = resolve_source("embedded:smollm2-135m")
    tokenizer = load_tokenizer(model)
    texts = make_prompts(tokenizer, options.rows, 128, 0)
    shared = texts[0][: len(texts[0]) // 2]
    prompts = [tokenizer(text if row % 2 else shared + text[len(shared) :]).input_ids for row, text in enumerate(texts)]
    found: dict[str, Any] = {"rows": options.rows, "adapters": options.adapters, "tokens": options.tokens}
    with tempfile.TemporaryDirectory(prefix="ftlib-exact-") as folder:
        write_adapters(model, Path(folder), options.adapters)
        adapters = [Path(folder) / f"adapter{number}" for number in range(options.adapters)]
        expected = reference(model, adapters, prompts, options.tokens)
        found["distinct_answers"] = len({tuple(answer) for answer in expected})
        for name, reuse, alone in (("mixed_reuse", True, False), ("mixed", False, False), ("alone", True, True)):
            answers, reused = engine_answers(model, adapters, prompts, options.tokens, reuse, alone)
            equal = sum(mine == theirs for mine, theirs in zip(answers, expected, strict=True))
            found[name] = {"equal": equal, "reused_tokens": reused}
            print(name, json.dumps(found[name]), flush=True)
    holds = all(found[name]["equal"] == options.rows for name in ("mixed_reuse", "mixed", "alone"))
    print(json.dumps({"bench": "serve_exact", **found, "holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
