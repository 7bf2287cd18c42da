"""Tokenised records: settings, the sequences of one file, and what a record weighs."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ftlib.data.schema import LABEL, WEIGHT
from ftlib.data.unsupervised import Unsupervised
from ftlib.models.chat import Encoded

LOST = ("num_turns_unlearnt", "num_reasoning_left_out", "num_tools_left_out")
"""Counters of what the chat template lost: turns that are to be learnt and are not (as history the template renders
them otherwise), turns whose reasoning it leaves out, and rows whose tools it does not render."""


@dataclass(frozen=True)
class TokenizeSettings:
    """How a split becomes sequences."""

    tokenizer_folder: str
    max_seq_len: int
    packing: bool = True
    max_unsupervised: float = 0.01
    """The share of rows without a learnt token above which `tokenize_split` raises."""
    max_rows: int | None = None
    """Only this many rows, those with the smallest hash of id."""
    objective: str = "sft"
    """`sft`; `dpo`: a chosen and a rejected answer a sample; `kto`: an answer, and one of the next sample."""
    truncation: str = "left"
    """What a conversation that is too long loses: `left` of its prompt, its `right` end, or `drop`: the whole of it."""
    weighting: str = "loss"
    """A record's weight scales its `loss`, or by `sampling` says how often an epoch shows it."""
    class_weights: tuple[tuple[str, float], ...] = ()
    """Factors of the weights of records with a label."""
    units: bool = False
    """Also write `units.npy`, which private training needs."""


@dataclass
class Sequences:
    """Sequences of one file with their counters."""

    tokens: list[list[int]] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    """How often an epoch shows each sequence."""
    samples: list[tuple[float, float]] = field(default_factory=list)
    """Of preferences: weight and whether the answer is desirable, of each pair of sequences."""
    units: list[tuple[int, int]] = field(default_factory=list)
    """Of each sequence the hashes of its record's id and of its data subject (0: none)."""
    num_rows: int = 0
    num_truncated: int = 0
    num_too_long: int = 0
    unsupervised: Unsupervised = field(default_factory=Unsupervised)
    lost: Counter[str] = field(default_factory=Counter)
    """`LOST` → number."""

    def count_lost(self, encoded: Encoded) -> None:
        """Count what the chat template lost of a record."""
        numbers = (encoded.num_turns_unlearnt, encoded.num_reasoning_left_out, int(encoded.tools_left_out))
        self.lost.update({name: number for name, number in zip(LOST, numbers, strict=True) if number})

    def add(
        self, record_id: str, ids: list[int], weights: list[float], copies: int = 1, unit: tuple[int, int] = (0, 0)
    ) -> None:
        """Append a sequence."""
        self.tokens.append(ids)
        self.weights.append(weights)
        self.ids.append(record_id)
        self.copies.append(copies)
        self.units.append(unit)


def id_hash(record_id: str) -> int:
    """64 bits of SHA-256 of a record's id."""
    return int.from_bytes(hashlib.sha256(record_id.encode()).digest()[:8], "big")


def num_copies(record_id: str, weight: float) -> int:
    """How often an epoch shows a record of a weight: its whole part, and once more for the fraction of all such ids."""
    whole = int(weight)
    return whole + (id_hash(f"copies:{record_id}") / 2**64 < weight - whole)


def record_weight(row: dict[str, Any], factors: dict[str, float]) -> float:
    """A record's weight times its label's factor."""
    weight = 1.0 if row.get(WEIGHT) is None else float(row[WEIGHT])
    return weight * factors.get(row.get(LABEL) or "", 1.0)
