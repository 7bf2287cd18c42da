"""Mergeable counts of raw records for the audit: fields, formats, dates, languages, annotators.

In: tables of `schema.READ`. Out: `Inspected`, which adds up in any order and holds no text: counts, masks (letters as
x, digits as 9) and places of the first examples.
"""

import heapq
import json
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa

from ftlib.data import schema as s
from ftlib.data.records import is_bad_answer_alone
from ftlib.text.agreement import Pairs, annotations, label_pairs
from ftlib.text.hygiene import date_forms, issues, json_state, masked
from ftlib.text.language import detect_language

Example = tuple[int, str, str]
"""Row key, source and place, mask."""
MAX_EXAMPLES = 20


@dataclass
class Inspected:
    """Counters over rows; tuples are keys."""

    num_rows: int = 0
    """Readable rows."""
    issues: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(issue, kind of field) → fields."""
    turns: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Roles in their order, repeated exchanges once → rows."""
    answers: Counter[str] = field(default_factory=Counter)
    """`text`, `valid` (JSON), `broken` (JSON) → answers."""
    dates: Counter[str] = field(default_factory=Counter)
    """Form of dates → records that use it."""
    languages: Counter[str] = field(default_factory=Counter)
    """Language → records."""
    pairs: Pairs = field(default_factory=Counter)
    """For Krippendorff's alpha."""
    annotated: Counter[int] = field(default_factory=Counter)
    """Number of annotators → records."""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """Finding → the first examples by row key."""

    def __add__(self, other: "Inspected") -> "Inspected":
        names = [item.name for item in fields(self) if item.name != "examples"]
        merged = Inspected(**{name: getattr(self, name) + getattr(other, name) for name in names})
        for key in (*self.examples, *other.examples):
            both = {*self.examples.get(key, ()), *other.examples.get(key, ())}
            merged.examples[key] = heapq.nsmallest(MAX_EXAMPLES, both)
        return merged

    def note(self, key: str, record: dict[str, Any], text: str) -> None:
        """Keep an example of a finding."""
        kept = self.examples.setdefault(key, [])
        if len(kept) < MAX_EXAMPLES:
            place = record[s.ROW] & s.MAX_POSITION
            kept.append((record[s.ROW], f"{record[s.SOURCE]} at {place}", masked(text)))


def inspect_table(table: pa.Table, annotations_key: str) -> Inspected:
    """Counts of one table; rows in the order of their keys."""
    counts = Inspected()
    for record in table.to_pylist():
        if record[s.ERROR] is None:
            _inspect_record(counts, record, annotations_key)
    return counts


def _inspect_record(counts: Inspected, record: dict[str, Any], annotations_key: str) -> None:
    counts.num_rows += 1
    parts = _parts(record)
    for kind, text in parts:
        for issue in issues(text):
            counts.issues[issue, kind] += 1
            counts.note(issue, record, text)
    if record[s.MESSAGES] is not None:
        alone = ["assistant"] if is_bad_answer_alone(record) else []
        turns = turn_order([message["role"] for message in record[s.MESSAGES]] + alone)
        counts.turns[turns] += 1
        if not in_order(turns):
            counts.note("turns", record, " ".join(turns))
        for kind, text in parts:
            if kind == "assistant":
                state = json_state(text)
                counts.answers[state or "text"] += 1
                if state == "broken":
                    counts.note("broken_json", record, text)
    whole = "\n".join(text for kind, text in parts if kind != "system")
    forms = date_forms(whole)
    counts.dates.update(forms)
    counts.languages[detect_language(whole)] += 1
    given = _annotations(record[s.METADATA], annotations_key)
    if given:
        counts.annotated[len(given)] += 1
        counts.pairs.update(label_pairs(given))


def _parts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind of field, text) of what a record says, and its label."""
    found = [
        (message["role"], text)
        for message in record[s.MESSAGES] or ()
        for text in (message[s.REASONING], message[s.CONTENT])
        if text is not None
    ]
    found += [(name, record[name]) for name in (s.TEXT, s.REJECTED, s.LABEL) if record[name] is not None]
    return found


def turn_order(roles: list[str]) -> tuple[str, ...]:
    """Roles with repeated user-assistant exchanges written once: short for conversations of any length."""
    order = list(roles)
    while len(order) >= 4 and order[-4:-2] == order[-2:]:
        del order[-2:]
    return tuple(order[:12])


def in_order(turns: tuple[str, ...]) -> bool:
    """An optional instruction, then user and assistant in turn, the assistant last; it may call tools in between."""
    spoken = [role for role in turns if role != "tool"]
    if spoken[:1] in (["system"], ["developer"]):
        spoken = spoken[1:]
    # After a tool's result the assistant goes on.
    again = [role == "assistant" and spoken[i - 1 : i] == [role] for i, role in enumerate(spoken)]
    if "tool" in turns:
        spoken = [role for role, repeated in zip(spoken, again, strict=True) if not repeated]
    expected = ["user", "assistant"] * (len(spoken) // 2)
    return bool(spoken) and spoken == expected


def _annotations(metadata: str | None, key: str) -> list[str]:
    if not metadata or f'"{key.split(".", maxsplit=1)[0]}"' not in metadata:
        return []
    value: Any = json.loads(metadata)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return annotations(value)
