"""`inspect=N`: what training would read, printed for a person. Prepared, redacted text goes to standard output alone.

Samples are those with the smallest hash of id: a random choice that is the same on every call. Counts are of the whole
training split, or of the `MAX_ROWS` rows with the smallest hashes where there are more.
"""

import heapq
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TextIO

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError

MAX_ROWS = 100_000
_MARKS = ("⟦", "⟧")
_COLOURS = ("\x1b[1;32m", "\x1b[0m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def inspect_samples(config: TrainConfig, out: TextIO | None = None) -> dict[str, Any]:
    """Print `config.inspect` samples and a summary; returns the summary, which holds no text.

    Supervised tokens stand between ⟦ and ⟧, or in green on a terminal. Control characters are shown as escapes.

    Args:
        config: a training configuration; no cluster and no weights are needed.
        out: where to print; default: standard output.

    Raises:
        UserError: the configuration does not fit the data or the model.
    """
    from ftlib.data.prepared import open_prepared
    from ftlib.data.schema import ID, MESSAGES, TEXT, WEIGHT
    from ftlib.data.tokenize import hash_limit, id_hash, tokenize_rows
    from ftlib.models.load import load_tokenizer
    from ftlib.train.preflight import check_run

    out = out or sys.stdout
    inputs = check_run(config)
    prepared, tokenizer = open_prepared(config.data.path), load_tokenizer(inputs.model_folder)
    num_rows = prepared.num_rows("train")
    limit = hash_limit(inputs.files["train"], MAX_ROWS if num_rows > MAX_ROWS else None)
    counts, shown = _Counts(), list[tuple[int, int, dict[str, Any]]]()
    for number, row in enumerate(prepared.rows("train", [ID, MESSAGES, TEXT, WEIGHT])):
        key = id_hash(row[ID])
        if limit is not None and key > limit:
            continue
        counts.add(tokenize_rows([row], tokenizer, config.train.max_seq_len))
        item = (-key, -number, row)
        if len(shown) < (config.inspect or 0):
            heapq.heappush(shown, item)
        else:
            heapq.heappushpop(shown, item)
    marks = _COLOURS if out.isatty() else _MARKS
    chosen = [row for *_, row in sorted(shown, key=lambda item: item[:2], reverse=True)]
    for turn, row in enumerate(chosen, 1):
        sequences = tokenize_rows([row], tokenizer, config.train.max_seq_len)
        print(_sample(row[ID], f"{turn}/{len(chosen)}", sequences, tokenizer, marks), file=out)
    summary = {"num_rows": num_rows, "num_rows_read": counts.num_rows} | counts.summary(config)
    print(_summary_text(summary, config), file=out, flush=True)
    return summary


@dataclass
class _Counts:
    num_rows: int = 0
    num_truncated: int = 0
    num_supervised: int = 0
    lengths: list[int] = field(default_factory=list)
    unsupervised: Counter[str] = field(default_factory=Counter)

    def add(self, sequences: Any) -> None:
        self.num_rows += sequences.num_rows
        self.num_truncated += sequences.num_truncated
        self.unsupervised.update(sequences.unsupervised.counts)
        self.lengths += map(len, sequences.tokens)
        self.num_supervised += sum(_num_learnt(weights) for weights in sequences.weights)

    def summary(self, config: TrainConfig) -> dict[str, Any]:
        from ftlib.data.pack import best_fit
        from ftlib.train.schedule import num_steps

        if not self.lengths:
            raise UserError(f"data.path={config.data.path}: no row of its train split supervises a token")
        loop, num_tokens = config.train, sum(self.lengths)
        num_packs = len(best_fit(self.lengths, loop.max_seq_len)) if config.data.packing else len(self.lengths)
        return {
            "num_truncated": self.num_truncated,
            "num_unsupervised": self.unsupervised.total(),
            "unsupervised": dict(self.unsupervised.most_common()),
            "num_sequences": len(self.lengths),
            "num_tokens": num_tokens,
            "longest_sequence_tokens": max(self.lengths),
            "supervised_share": round(self.num_supervised / num_tokens, 4),
            "num_packs": num_packs,
            "fill": round(num_tokens / (num_packs * loop.max_seq_len), 4),
            "num_steps": num_steps(num_packs, loop.global_batch_size, loop.num_epochs, loop.max_steps),
        }


def _num_learnt(weights: list[float]) -> int:
    return sum(weight > 0 for weight in weights[1:])


def _sample(record_id: str, place: str, sequences: Any, tokenizer: Any, marks: tuple[str, str]) -> str:
    """One record: a line of facts for each of its sequences, then its text."""
    if not sequences.tokens:
        (reason,) = sequences.unsupervised.counts
        return f"── {place}  {record_id}: supervises nothing, {reason}\n"
    blocks = []
    for number, (ids, weights) in enumerate(zip(sequences.tokens, sequences.weights, strict=True), 1):
        facts = [f"{len(ids)} tokens", f"{_num_learnt(weights)} supervised", f"weight {max(weights):g}"]
        if len(sequences.tokens) > 1:
            facts.insert(0, f"piece {number} of {len(sequences.tokens)}")
        if sequences.num_truncated:
            facts.append("truncated")
        blocks.append(f"── {place}  {record_id}: {', '.join(facts)}\n{_marked(ids, weights, tokenizer, marks)}\n")
    return "\n".join(blocks)


def _marked(ids: list[int], weights: list[float], tokenizer: Any, marks: tuple[str, str]) -> str:
    """A sequence as text, special tokens included, its learnt stretches between marks; a first token is not learnt."""
    learnt = [index > 0 and weight > 0 for index, weight in enumerate(weights)]
    parts = []
    for is_learnt, run in groupby(zip(learnt, ids, strict=True), key=lambda pair: pair[0]):
        text = tokenizer.decode(
            [token for _, token in run], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
        parts.append(f"{marks[0]}{text}{marks[1]}" if is_learnt else text)
    return "".join(parts)


def _summary_text(summary: dict[str, Any], config: TrainConfig) -> str:
    read, rows = summary["num_rows_read"], summary["num_rows"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary["unsupervised"].items())
    length = config.train.max_seq_len
    lines = [
        f"{rows:,} rows" + (f", counts of {read:,} of them" if read < rows else ""),
        f"{summary['num_tokens']:,} tokens, {summary['supervised_share']:.1%} supervised; the longest sequence has "
        f"{summary['longest_sequence_tokens']:,}",
        f"{summary['num_unsupervised']:,} rows supervise nothing" + (f" ({reasons})" if reasons else ""),
        f"{summary['num_truncated']:,} rows truncated to {length:,} tokens",
        f"{summary['num_packs']:,} {'packs' if config.data.packing else 'sequences'} of up to {length:,} tokens, "
        f"{summary['fill']:.1%} full; {summary['num_steps']:,} steps of {config.train.global_batch_size}",
    ]
    return "\n".join(lines)
