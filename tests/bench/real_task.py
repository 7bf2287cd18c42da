"""A real task from raw rows to a score: ten intents of banking77, and what tuning on them costs elsewhere.

    python -m tests.bench.real_task [--labels-seed 0] [--general-rows 1200] [--replay 0.3]

`jobs.prepare` (a fifth of the rows kept out), `jobs.train` (LoRA on SmolLM2-135M with general data replayed),
`jobs.evaluate` (exact match of greedy answers on the rows kept out). Then PIQA and ARC-Easy for base and tuned model by
the log-likelihood of each choice: the change in accuracy with a paired bootstrap interval. Targets: accuracy ≥ .95,
≤ 12 minutes of training, the interval's lower bound above −2 points in both. The last line is JSON; exit code 1 where a
target is missed.
"""

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftlib.models.adapt import load_adapter
from ftlib.models.load import load_model, load_tokenizer
from ftlib.models.source import resolve_source
from ftlib.runtime import local
from tests import faults
from tests.training_cases import records

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SOURCE = "embedded:smollm2-135m"
GENERAL = ("piqa", "arc_easy")
PACK_TOKENS = 512
TRAIN = """
model: {source: "embedded:smollm2-135m"}
method: {kind: lora, rank: 16, neftune_alpha: 5, dropout: 0.1}
optim: {learning_rate: 7.0e-4, beta2: 0.98}
train: {num_epochs: 1.75, global_batch_size: 2, micro_batch_size: 2, max_seq_len: 256, precision: float32,
  eval_every_steps: 60, max_eval_samples: 32}
parallel: {strategy: ddp}
scaling: {num_workers: 1, cpus_per_worker: 2}
seed: 7
"""


def rows_of(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def write_intents(path: Path, seed: int, count: int = 10) -> list[str]:
    """Rows of `count` labels drawn by a seed; returns the labels."""
    rows = rows_of("tickets/banking77_train")
    labels = sorted(random.Random(seed).sample(sorted({row["label"] for row in rows}), count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["label"] in labels))
    return labels


def job(name: str, arguments: list[str], nodes: faults.Nodes, log: Path) -> dict[str, Any]:
    result = faults.finish(faults.start(arguments, nodes, log, job=f"jobs.{name}"), timeout_s=3600)
    if result is None:
        sys.exit(f"jobs.{name} failed\n{log.read_text()[-3000:]}")
    return result


def encode(tokenizer: Any, item: dict[str, Any]) -> tuple[list[int], list[list[int]]]:
    """Ids of the question and of each choice after it."""
    question = tokenizer(item["query"].rstrip("\n") + "\nAnswer:").input_ids
    return question, [tokenizer(" " + choice).input_ids for choice in item["choices"]]


def score(model: Any, items: list[tuple[list[int], list[list[int]]]]) -> list[list[float]]:
    """Log-likelihood of each choice given its question; a row of the mask sees its question and its own choice."""
    ids: list[int] = []
    places, questions, choices = [], [], []
    spans: list[list[tuple[int, int, int]]] = []
    for number, (question, options) in enumerate(items):
        last, found = len(ids) + len(question) - 1, []
        ids += question
        places += range(len(question))
        questions += [number] * len(question)
        choices += [-1] * len(question)
        for option, tokens in enumerate(options):
            found.append((last, len(ids), len(tokens)))
            ids += tokens
            places += range(len(question), len(question) + len(tokens))
            questions += [number] * len(tokens)
            choices += [option] * len(tokens)
        spans.append(found)
    item, choice, order = np.array(questions), np.array(choices), np.arange(len(ids))
    sees = (item[:, None] == item) & ((choice == -1) | (choice[:, None] == choice)) & (order[:, None] >= order)
    mask = torch.zeros(1, 1, len(ids), len(ids)).masked_fill(~torch.from_numpy(sees), torch.finfo(torch.float32).min)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([ids]), position_ids=torch.tensor([places]), attention_mask=mask, use_cache=False
        ).logits[0].log_softmax(-1)  # fmt: skip
    scores = []
    for found in spans:
        sums = []
        for last, first, size in found:
            before = [last, *range(first, first + size - 1)]
            sums.append(float(logits[before, ids[first : first + size]].sum()))
        scores.append(sums)
    return scores


def accuracy(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    """Whether each question's likeliest choice is the right one, bool[n]."""
    hits, waiting, size = [], [], 0
    for row in [*rows, None]:
        item = encode(tokenizer, row) if row else None
        length = len(item[0]) + sum(map(len, item[1])) if item else 0
        if waiting and (item is None or size + length > PACK_TOKENS):
            scores = score(model, [item for item, _ in waiting])
            hits += [int(np.argmax(sums)) == gold for sums, (_, gold) in zip(scores, waiting, strict=True)]
            waiting, size = [], 0
        if item and row:
            waiting.append((item, row["gold"]))
            size += length
    return np.array(hits)


def change(before: np.ndarray, after: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Accuracies and the paired change in points with its 95 % bootstrap interval."""
    differences = after.astype(float) - before.astype(float)
    rng = np.random.default_rng(seed)
    means = rng.choice(differences, size=(10_000, len(differences))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "n": len(before), "base": float(before.mean()), "tuned": float(after.mean()),
        "change_points": 100 * float(differences.mean()), "low": 100 * float(low), "high": 100 * float(high),
    }  # fmt: skip


def tune(folder: Path, options: argparse.Namespace, labels_path: Path, log: Path) -> tuple[dict[str, Any], Path]:
    """Prepare, train and evaluate on a cluster of this bench's own; returns figures and the adapter."""
    with gzip.open(DATA / "general" / "p3_mix.jsonl.gz", "rb") as source:
        (folder / "general.jsonl").write_bytes(source.read())
    template = {"system": "Name the customer's intent.", "user": "{text}", "assistant": "{label}"}
    head = local.start(folder / "cluster", cpus=2, endpoint_port=0)
    try:
        nodes = faults.Nodes(head, 0, 0)
        prepared = ["split.test_fraction=0.2", "split.val_fraction=0.05", "pii.profile=fast", "seed=7"]
        intents = [
            f"input.paths=[{labels_path}]",
            f"output.path={folder}/intents",
            f"input.template={json.dumps(template)}",
        ]
        job("prepare", [*intents, *prepared], nodes, log)
        general = [f"input.paths=[{folder}/general.jsonl]", f"output.path={folder}/general", "split.test_fraction=0"]
        job("prepare", [*general, "split.val_fraction=0.01", "pii.profile=fast"], nodes, log)
        config = folder / "train.yaml"
        config.write_text(TRAIN)
        replay = json.dumps({"path": f"{folder}/general", "fraction": options.replay}) if options.replay else "null"
        result = job(
            "train",
            ["--config", str(config), f"data.path={folder}/intents", f"data.replay={replay}",
             f"output.path={folder}/runs", *options.set],
            nodes, log,
        )  # fmt: skip
        evaluated = job(
            "evaluate",
            [f"model.source={SOURCE}", f"model.adapter={result['path']}", f"data.path={folder}/intents",
             f"output.path={folder}/eval", "tasks=[answer]", "baseline.enabled=false", "gates=[]"],
            nodes, log,
        )  # fmt: skip
    finally:
        local.stop(folder / "cluster")
    metrics = json.loads(Path(evaluated["manifest"]).with_name("metrics.json").read_text())
    steps, validations = records(Path(result["path"]), "train"), records(Path(result["path"]), "val")
    return {
        "accuracy": metrics["exact_match"],
        "training_minutes": sum(record["seconds"] for record in [*steps, *validations]) / 60,
        "steps": len(steps),
        "tokens": sum(record["tokens"] for record in steps),
        "val_loss": result["val_loss"],
    }, Path(result["path"]) / "adapter"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels-seed", type=int, default=0)
    parser.add_argument("--general-rows", type=int, default=1200)
    parser.add_argument("--replay", type=float, default=0.1)
    parser.add_argument("--set", nargs="*", default=[], help="further key=value of jobs.train")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ftlib-task-"))
    labels = write_intents(folder / "intents.jsonl", options.labels_seed)
    began = time.monotonic()
    figures, adapter = tune(folder, options, folder / "intents.jsonl", folder / "log")
    print(json.dumps({"labels": labels, **figures, "minutes_in_all": (time.monotonic() - began) / 60}), flush=True)
    base = resolve_source(SOURCE)
    tokenizer, general = load_tokenizer(base), {}
    models = {"base": load_model(base), "tuned": load_adapter(load_model(base), adapter).merge_and_unload().eval()}
    for name in GENERAL:
        rows = rows_of(f"general/{name}")[: options.general_rows]
        hits = {which: accuracy(model, tokenizer, rows) for which, model in models.items()}
        general[name] = change(hits["base"], hits["tuned"])
        print(json.dumps({name: general[name]}), flush=True)
    holds = (
        figures["accuracy"]["value"] >= 0.95
        and figures["training_minutes"] <= 12
        and all(found["low"] > -2 for found in general.values())
    )
    print(json.dumps({"bench": "real_task", **figures, "general": general, "folder": str(folder), "holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
