"""Greedy answers of a running endpoint against those of transformers and PEFT alone (no ftlib), in float32.

    python -m tests.bench.served_equals_peft --state .ftlib --rows 20

It reads the quickstart's folder: the endpoint in `STATE/env`, the winner in `quickstart/sweep/best.json`, questions of
the held-out test split. Base and winner are asked. The last line is JSON; the exit code is 1 when an answer differs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

MAX_NEW_TOKENS = 32


def questions(dataset: Path, count: int) -> list[list[dict[str, str]]]:
    """The first conversations of the test split by id, without their last answer."""
    import pyarrow.parquet as pq

    from ftlib.data.records import turns

    rows = sorted(pq.read_table(dataset / "test", columns=["id", "messages"]).to_pylist(), key=lambda row: row["id"])
    return [turns(row)[:-1] for row in rows[:count]]


def ask_endpoint(values: dict[str, str], model: str, messages: list[list[dict[str, str]]]) -> list[str]:
    from openai import OpenAI

    key = Path(values["FTLIB_API_KEYS_FILE"]).read_text().split()[0]
    client = OpenAI(base_url=values["FTLIB_ENDPOINT_URL"], api_key=key, timeout=300)
    answers = []
    for conversation in messages:
        given: Any = conversation
        reply = client.chat.completions.create(model=model, messages=given, max_tokens=MAX_NEW_TOKENS, temperature=0)
        answers.append(reply.choices[0].message.content or "")
    return answers


def ask_peers(base: Path, adapter: Path | None, messages: list[list[dict[str, str]]]) -> list[str]:
    """What `generate` of transformers, with PEFT's adapter on it, answers row by row."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter or base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    answers = []
    for conversation in messages:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answers.append(tokenizer.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))
    return answers


def main() -> int:
    from ftlib.models.source import resolve_source
    from ftlib.runtime.envfile import read_env

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=Path(".ftlib"))
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--source", default="embedded:smollm2-135m")
    arguments = parser.parse_args()
    values = read_env(arguments.state / "env")
    folder = arguments.state / "quickstart"
    winner = Path(json.loads((folder / "sweep" / "best.json").read_text())["run_path"])
    base = resolve_source(arguments.source)
    asked = questions(folder / "data", arguments.rows)
    result: dict[str, Any] = {"rows": len(asked)}
    for name, model, adapter in (("winner", "tickets", winner / "adapter"), ("base", "smollm2-135m", None)):
        served, alone = ask_endpoint(values, model, asked), ask_peers(base, adapter, asked)
        result[f"{name}_equal"] = sum(ours == theirs for ours, theirs in zip(served, alone, strict=True))
        for row, (ours, theirs) in enumerate(zip(served, alone, strict=True)):
            if ours != theirs:
                print(f"{name}, row {row}\n  endpoint {ours!r}\n  alone    {theirs!r}", file=sys.stderr)
    result["equal"] = all(result[f"{name}_equal"] == len(asked) for name in ("winner", "base"))
    print(json.dumps(result))
    return 0 if result["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
