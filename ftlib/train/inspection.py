"""`inspect=N`: what training would read, printed for a person. Prepared, redacted text goes to standard output alone.

Samples are those with the smallest hash of id: a random choice that is the same on every call. Counts are of the whole
training split, or of the `MAX_ROWS` rows with the smallest hashes where there are more.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.train.preflight import RunInputs, check_run

if TYPE_CHECKING:
    from ftlib.data.tokenize import Sequences

MAX_ROWS = 100_000
_ROWS_AT_ONCE = 1000
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
    from ftlib.data.schema import ID
    from ftlib.data.tokenize import tokenize_rows
    from ftlib.train.driver import token_settings

    out = out or sys.stdout
    inputs = check_run(config)
    tokenizer = _tokenizer(config, inputs)
    settings = token_settings(config, inputs.model_folder)
    summary, shown = read_split(config, inputs, config.inspect or 0)
    marks = _COLOURS if out.isatty() else _MARKS
    for turn, row in enumerate(shown, 1):
        sequences = tokenize_rows([row], tokenizer, settings)
        print(_sample(row[ID], f"{turn}/{len(shown)}", sequences, tokenizer, marks), file=out)
    print(_summary_text(summary, config), file=out, flush=True)
    return summary


def read_split(config: TrainConfig, inputs: RunInputs, num_shown: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Counts of the training split, and the `num_shown` rows with the smallest hashes of id."""
    from ftlib.data.prepared import open_prepared
    from ftlib.data.schema import ID, LABEL
    from ftlib.data.tokenize import hash_limit, id_hash, tokenize_rows
    from ftlib.train.driver import token_settings

    tokenizer = _tokenizer(config, inputs)
    settings = token_settings(config, inputs.model_folder)
    num_rows = open_prepared(config.data.path).num_rows("train")
    limit = hash_limit(inputs.files["train"], MAX_ROWS) if num_rows > MAX_ROWS else None
    counts, shown, labels = _Counts(), list[tuple[int, str, dict[str, Any]]](), Counter[str]()
    with TemporaryDirectory() as folder:
        for number, rows in enumerate(_batches(config, limit)):
            counts.add(tokenize_rows(rows, tokenizer, settings), Path(folder), number)
            labels.update(row[LABEL] for row in rows if row[LABEL])
            shown = nsmallest(num_shown, [*shown, *((id_hash(row[ID]), row[ID], row) for row in rows)], _order)
        summary = {"num_rows": num_rows, **counts.summary(config, Path(folder))}
    summary |= {"num_labels": len(labels), "rarest_label_rows": min(labels.values(), default=0)}
    return summary, [row for *_, row in shown]


def _tokenizer(config: TrainConfig, inputs: RunInputs) -> Any:
    """The model's tokenizer, with the words that the run adds."""
    from ftlib.models.load import load_tokenizer
    from ftlib.models.vocabulary import grow_tokenizer

    tokenizer = load_tokenizer(inputs.model_folder)
    if config.method.new_tokens:
        grow_tokenizer(tokenizer, config.method.new_tokens)
    return tokenizer


def _batches(config: TrainConfig, limit: int | None) -> Iterator[list[dict[str, Any]]]:
    """Rows of the training split up to a hash of id, some at a time."""
    from ftlib.data.prepared import open_prepared
    from ftlib.data.schema import ID
    from ftlib.data.tokenize import COLUMNS, id_hash

    rows = open_prepared(config.data.path).rows("train", COLUMNS)
    wanted = (row for row in rows if limit is None or id_hash(row[ID]) <= limit)
    while batch := list(islice(wanted, _ROWS_AT_ONCE)):
        yield batch


def _order(item: tuple[int, str, dict[str, Any]]) -> tuple[int, str]:
    return item[:2]


@dataclass
class _Counts:
    """Sums over all sequences, which are written like a packed split, so that packing is the one that training uses."""

    num_rows: int = 0
    num_truncated: int = 0
    num_too_long: int = 0
    num_tokens: int = 0
    num_supervised: int = 0
    longest: int = 0
    unsupervised: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    index: list[Any] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    samples: list[tuple[float, float]] = field(default_factory=list)

    def add(self, sequences: "Sequences", folder: Path, number: int) -> None:
        """Count a batch of rows and write its tokens."""
        from ftlib.data.pack import write_file

        self.num_rows += sequences.num_rows
        self.num_truncated += sequences.num_truncated
        self.num_too_long += sequences.num_too_long
        self.unsupervised.update(sequences.unsupervised.counts)
        self.lost.update(sequences.lost)
        lengths = [len(ids) for ids in sequences.tokens]
        self.num_tokens, self.longest = self.num_tokens + sum(lengths), max(self.longest, *lengths, 0)
        self.num_supervised += sum(_num_learnt(weights) for weights in sequences.weights)
        self.index.append(write_file(folder, number, sequences.tokens, sequences.weights, sequences.ids))
        self.copies += sequences.copies
        self.samples += sequences.samples

    def summary(self, config: TrainConfig, folder: Path) -> dict[str, Any]:
        """The counts with those of packing and steps."""
        import numpy as np

        from ftlib.data.pack import write_index
        from ftlib.data.tokenize import LOST
        from ftlib.train.schedule import num_steps

        if not self.num_tokens:
            raise UserError(f"data.path={config.data.path}: no row of its train split supervises a token")
        loop = config.train
        samples = np.asarray(self.samples, dtype=np.float32) if config.objective.kind != "sft" else None
        info = write_index(
            folder, np.concatenate(self.index), loop.max_seq_len, packing=config.data.packing, counts={},
            copies=np.asarray(self.copies), samples=samples,
        )  # fmt: skip
        return {
            "num_rows_read": self.num_rows,
            "num_truncated": self.num_truncated,
            "num_too_long": self.num_too_long,
            "num_unsupervised": self.unsupervised.total(),
            "unsupervised": dict(self.unsupervised.most_common()),
            **{name: self.lost[name] for name in LOST},
            "supervised_share": round(self.num_supervised / self.num_tokens, 4),
            "longest_sequence": self.longest,
            "fill": round(info["num_tokens"] / (info["num_packs"] * loop.max_seq_len), 4),
            "num_steps": num_steps(info["num_packs"], loop.global_batch_size, loop.num_epochs, loop.max_steps),
            **info,
        }


def _num_learnt(weights: list[float]) -> int:
    return sum(weight > 0 for weight in weights[1:])


def _sample(record_id: str, place: str, sequences: "Sequences", tokenizer: Any, marks: tuple[str, str]) -> str:
    """One record: a line of facts for each of its sequences, then its text."""
    if not sequences.tokens:
        reason = next(iter(sequences.unsupervised.counts), "too long")
        return f"── {place}  {record_id}: left out, {reason}\n"
    blocks, total = [], len(sequences.tokens)
    for number, (ids, weights, copies) in enumerate(
        zip(sequences.tokens, sequences.weights, sequences.copies, strict=True)
    ):
        facts = [f"{len(ids)} tokens", f"{_num_learnt(weights)} supervised"]
        if sequences.samples:
            facts.insert(0, "rejected" if number % 2 else "chosen")
            facts.append(f"weight {sequences.samples[number // 2][0]:g}")
        else:
            facts.append(f"weight {max(weights):g}")
            facts += [f"piece {number + 1} of {total}"] if total > 1 else []
        facts += [f"seen {copies} times in an epoch"] if copies != 1 else []
        facts += ["truncated"] if sequences.num_truncated else []
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
        f"{summary['longest_sequence']:,}",
        f"{summary['num_unsupervised']:,} rows supervise nothing" + (f" ({reasons})" if reasons else ""),
        f"{summary['num_turns_unlearnt']:,} turns that are to be learnt are not, {summary['num_reasoning_left_out']:,} "
        f"lose their reasoning, {summary['num_tools_left_out']:,} rows their tools: the chat template leaves them out",
        f"{summary['num_truncated']:,} rows have more than {length:,} tokens (truncation {config.data.truncation})",
        f"{summary['num_packs']:,} {'packs' if config.data.packing else 'sequences'} of up to {length:,} tokens, "
        f"{summary['fill']:.1%} full; {summary['num_steps']:,} steps of {config.train.global_batch_size}",
    ]
    return "\n".join(lines)
