"""Small training jobs that several tests run: packed data without Ray, settings, and one run in plain processes."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

WORDS = ("invoice", "refund", "card", "login", "password", "account", "payment", "delay", "broken", "urgent", "router")


def conversations(num_rows: int, seed: int = 0) -> list[dict]:
    """Canonical records: a user's words, an answer made of two of them; some weighted, one of three turns."""
    rng = random.Random(seed)
    rows = []
    for number in range(num_rows):
        words = [rng.choice(WORDS) for _ in range(rng.randint(4, 30))]
        messages = [
            {"role": "user", "content": " ".join(words)},
            {"role": "assistant", "content": f"category: {words[0]}, {words[1]}"},
        ]
        if number % 7 == 3:
            messages += [{"role": "user", "content": "why?"}, {"role": "assistant", "content": words[2]}]
        weight = 2.0 if number % 5 == 0 else None
        rows.append({"id": f"row-{seed}-{number}", "messages": messages, "text": None, "weight": weight})
    return rows


def preferences(num_rows: int, seed: int = 0) -> list[dict]:
    """The conversations of one turn with a rejected answer each."""
    rows = [row | {"messages": row["messages"][:2]} for row in conversations(num_rows, seed)]
    return [row | {"rejected": f"I cannot say, {WORDS[number % 5]}"} for number, row in enumerate(rows)]


def packed_split(
    folder: Path, tokenizer, num_rows: int, max_seq_len: int = 128, seed: int = 0, rows=conversations, **options
) -> Path:
    """A packed split of generated records; `options` of TokenizeSettings."""
    from ftlib.data.pack import UNITS, write_file, write_index
    from ftlib.data.tokenize import TokenizeSettings, tokenize_rows

    folder.mkdir(parents=True)
    settings = TokenizeSettings("", max_seq_len, **options)
    sequences = tokenize_rows(rows(num_rows, seed), tokenizer, settings)
    written = write_file(folder, 0, sequences.tokens, sequences.weights, sequences.ids)
    samples = np.asarray(sequences.samples, dtype=np.float32) if settings.objective != "sft" else None
    copies = np.asarray(sequences.copies)
    counts = {"num_rows": num_rows}
    write_index(folder, written, max_seq_len, packing=settings.packing, counts=counts, copies=copies, samples=samples)
    if settings.units:
        np.save(folder / UNITS, np.array(sequences.units, dtype=np.uint64).reshape(-1, 2))
    return folder


def private_split(folder: Path, tokenizer, rows: list[dict], max_seq_len: int = 128) -> Path:
    """A split for private training: one sequence each, with privacy units."""
    return packed_split(folder, tokenizer, len(rows), max_seq_len, rows=lambda *_: rows, packing=False, units=True)


def loop_settings(run_dir: Path, model: Path, data: Path, val: Path, **changes):
    """Six float32 steps of four packs with dropout, validated and saved at 3 and 6."""
    from ftlib.models.adapt import AdapterSpec
    from ftlib.train.loop import LoopSettings
    from ftlib.train.schedule import Schedule
    from ftlib.train.strategy import OptimizerSettings

    settings = LoopSettings(
        run_dir=run_dir,
        model_folder=model,
        base_source=str(model),
        train_data=data,
        val_data=val,
        resume_key="case",
        schedule=Schedule(0.01, total_steps=6),
        adapter=AdapterSpec(rank=4, dropout=0.1),
        optimizer=OptimizerSettings(weight_decay=0.01, max_grad_norm=0.5),
        batch_size=4,
        eval_every_steps=3,
        checkpoint_every_steps=3,
        seed=11,
    )
    return replace(settings, **changes)


def train_alone(settings):
    """Run the loop in this process."""
    import torch

    from ftlib.train.loop import train
    from ftlib.train.private import PrivateDataParallel
    from ftlib.train.strategy import SingleProcess

    settings.run_dir.mkdir(parents=True, exist_ok=True)
    device, privacy = torch.device("cpu"), settings.privacy
    return train(settings, PrivateDataParallel(device, privacy) if privacy else SingleProcess(device))


def records(run_dir: Path, kind: str) -> list[dict]:
    """Records of one kind in a run's metrics."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]
