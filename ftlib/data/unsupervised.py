"""Rows that teach a model nothing: why each does, how many of each reason, and when they are too many.

Only ids and reasons are kept, never text.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ftlib.core.errors import UserError
from ftlib.data.records import is_bad_answer_alone, said, tool_definitions, turns
from ftlib.data.schema import MESSAGES, TOOL_CALLS, TRAIN_TURN
from ftlib.models.chat import encode_example
from ftlib.models.template import traits_of

WEIGHT_ZERO = "weight 0"
EMPTY_TEXT = "empty text"
NO_ASSISTANT = "no assistant message"
EMPTY_ANSWER = "empty answer"
NO_REJECTED = "no rejected answer, which dpo needs"
BAD_ANSWER_ALONE = "undesirable answer alone, which objective.kind kto alone learns from"
NOT_TO_LEARN = "every answer is marked not to be learnt"
NO_CALLS = "calls of tools, which the chat template does not render"
REFUSED = "refused by the chat template"
CUT_OFF = "nothing left after truncation"
NOT_RENDERED = "answer not found in what the chat template renders"
SHOWN_IDS = 5
"""Ids kept for each reason."""


def why_unsupervised(row: dict[str, Any], weight: float, tokenizer: Any) -> str:
    """The reason why a canonical record supervises no token. Encodes it once more: such rows are rare."""
    answers = [message for message in turns(row) if message["role"] == "assistant"]
    plain = (
        (WEIGHT_ZERO, weight <= 0),
        (EMPTY_TEXT, not row.get(MESSAGES)),
        (BAD_ANSWER_ALONE, is_bad_answer_alone(row)),
        (NO_ASSISTANT, not answers),
        (NOT_TO_LEARN, all(answer.get(TRAIN_TURN) is False for answer in answers)),
    )
    for reason, holds in plain:
        if holds:
            return reason
    try:
        _, mask = encode_example(tokenizer, turns(row), tool_definitions(row))
    except UserError:
        return refusal(row, tokenizer)
    if any(mask[1:]):
        return CUT_OFF
    return NOT_RENDERED if any(said(answer).strip() for answer in answers) else EMPTY_ANSWER


def refusal(row: dict[str, Any], tokenizer: Any) -> str:
    """Why the chat template does not render a record."""
    calls = any(message.get(TOOL_CALLS) for message in row[MESSAGES])
    return NO_CALLS if calls and traits_of(tokenizer).arguments is None else REFUSED


@dataclass
class Unsupervised:
    """Counts and the first ids of each reason."""

    counts: dict[str, int] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows that supervise nothing, for whatever reason."""
        return sum(self.counts.values())

    def add(self, record_id: str, reason: str) -> None:
        """Count one row."""
        self._add(reason, 1, [record_id])

    def as_json(self) -> str:
        """One string, so that Ray Data need not find a column type for it."""
        return json.dumps({"counts": self.counts, "ids": self.ids})

    @classmethod
    def merged(cls, parts: Iterable[str]) -> "Unsupervised":
        """The sum of several, each as `as_json` gives it; ids stay in the order of the parts."""
        total = cls()
        for part in map(json.loads, parts):
            for reason, count in part["counts"].items():
                total._add(reason, count, part["ids"][reason])
        return total

    def _add(self, reason: str, count: int, ids: list[str]) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count
        shown = self.ids.setdefault(reason, [])
        shown += ids[: SHOWN_IDS - len(shown)]

    def by_reason(self) -> str:
        """`3 weight 0 (a, b, c); 1 empty answer (d)`, the most frequent reason first."""
        parts = []
        for reason, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            more = ", …" if count > len(self.ids[reason]) else ""
            parts.append(f"{count} {reason} ({', '.join(self.ids[reason])}{more})")
        return "; ".join(parts)

    def check(self, num_rows: int, allowed: float) -> None:
        """Raise UserError when more than the share `allowed` of `num_rows` supervises nothing."""
        if self.num_rows > allowed * num_rows:
            raise UserError(
                f"{self.num_rows} of {num_rows} rows supervise no token, more than data.max_unsupervised {allowed:g} "
                f"allows. Reasons, with ids: {self.by_reason()}. inspect=5 shows how rows reach the model"
            )
