"""Mergeable counts of a prepared dataset: what manifest and report say about it, counted block by block.

In: tables of `schema.PROCESSED` with the split of their rows. Out: `Counts`, which add up in any order; the functions
below make parts of the report's dict of them. Never a record's text: labels, lengths and counts only.
"""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.data import schema as s
from ftlib.data.records import said
from ftlib.data.report import percentiles
from ftlib.data.report_facts import LengthFacts, PiiFacts, SplitFacts
from ftlib.text.quality import tokenize

NUM_SAMPLES = 5


@dataclass
class Counts:
    """Counters over rows. Tuples are keys; all values add up."""

    quarantined: Counter[str] = field(default_factory=Counter)
    """Error class → rows."""
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(stage, reason) → rows."""
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(split, label) → rows."""
    splits: Counter[str] = field(default_factory=Counter)
    """Split → rows."""
    lengths: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """(field, unit, length) → records."""
    findings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(entity, kind of field) → findings."""
    records_with: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(entity, kind of field) → records with at least one."""
    finding_lengths: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """(entity, kind of field, characters) → findings."""
    no_ner: Counter[str] = field(default_factory=Counter)
    """Language → records that no NER model could read."""
    scanned: Counter[str] = field(default_factory=Counter)
    """`records`, `with_pii`."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)})

    @property
    def num_kept(self) -> int:
        """Rows in the three splits."""
        return sum(self.splits.values())

    @property
    def num_dropped(self) -> int:
        """Rows in `dropped.parquet`, those for review included."""
        return sum(self.dropped.values())

    @property
    def num_quarantined(self) -> int:
        """Rows in `quarantine.parquet`."""
        return sum(self.quarantined.values())


def count_decisions(table: pa.Table) -> Counts:
    """Counts of a `DECISION` table's dropped rows."""
    pairs = zip(table[s.STAGE].to_pylist(), table[s.REASON].to_pylist(), strict=True)
    return Counts(dropped=Counter(pair for pair in pairs if pair[0] is not None))


def count_processed(table: pa.Table, splits: np.ndarray) -> Counts:
    """Counts of a `schema.PROCESSED` table. `splits`: index into `SPLITS` of each kept row, -1 of the others."""
    counts = Counts()
    for record, split in zip(table.to_pylist(), splits.tolist(), strict=True):
        if record.get(s.NO_NER) is not None:
            counts.no_ner[record[s.NO_NER]] += 1
        if record[s.ERROR] is not None:
            counts.quarantined[record[s.ERROR]] += 1
            continue
        _count_findings(counts, record)
        if record[s.STAGE] is not None:
            counts.dropped[record[s.STAGE], record[s.REASON]] += 1
            continue
        name = s.SPLITS[split]
        counts.splits[name] += 1
        if record[s.LABEL] is not None:
            counts.labels[name, record[s.LABEL]] += 1
        _count_lengths(counts, record)
    return counts


def _count_findings(counts: Counts, record: dict[str, Any]) -> None:
    findings, seen = record[s.FINDINGS], set()
    for finding in findings:
        key = (finding["entity"], _kind(finding["field"], record))
        counts.findings[key] += 1
        counts.finding_lengths[*key, finding["end"] - finding["start"]] += 1
        seen.add(key)
    counts.records_with.update(seen)
    counts.scanned.update(records=1, with_pii=int(bool(findings)))


def _kind(name: str, record: dict[str, Any]) -> str:
    """`messages[3].content` → `messages.user` by its role, `metadata/a/b` → `metadata`."""
    if name.startswith(f"{s.MESSAGES}[") and record[s.MESSAGES] is not None:
        return f"{s.MESSAGES}.{record[s.MESSAGES][int(name.split('[', 1)[1].split(']', 1)[0])]['role']}"
    return name.split("[", 1)[0].split("/", 1)[0]


def _count_lengths(counts: Counts, record: dict[str, Any]) -> None:
    if record[s.MESSAGES] is None:
        parts = {"text": record[s.TEXT]}
    else:
        spoken = [(message["role"], said(message)) for message in record[s.MESSAGES]]
        parts = {
            "input": "\n".join(text for role, text in spoken if role != "assistant"),
            "output": "\n".join(text for role, text in spoken if role == "assistant"),
        }
    words = {name: len(tokenize(text)) for name, text in parts.items()}
    for name, text in parts.items():
        counts.lengths[name, "characters", len(text)] += 1
        counts.lengths[name, "tokens", words[name]] += 1
    if len(parts) > 1:
        counts.lengths["record", "characters", sum(map(len, parts.values()))] += 1
        counts.lengths["record", "tokens", sum(words.values())] += 1


def length_facts(counts: Counts) -> list[LengthFacts]:
    """Percentiles by field and unit; tokens are words and punctuation marks."""
    found: list[LengthFacts] = []
    for name, unit in sorted({(name, unit) for name, unit, _ in counts.lengths}):
        values = {length: n for (field_, unit_, length), n in counts.lengths.items() if (field_, unit_) == (name, unit)}
        lengths = sorted(values)
        repeated = np.repeat(lengths, [values[length] for length in lengths])
        found.append({"field": name, "unit": unit, "percentiles": percentiles(repeated)})  # type: ignore[typeddict-item]
    return found


def pii_facts(counts: Counts) -> list[PiiFacts]:
    """Findings by entity and kind of field, most frequent first."""
    order = sorted(counts.findings, key=lambda key: (-counts.findings[key], key))
    return [
        {
            "entity": entity,
            "field": kind,
            "num_findings": counts.findings[entity, kind],
            "num_records": counts.records_with[entity, kind],
            "sample_lengths_chars": _samples(counts, entity, kind),
        }
        for entity, kind in order
    ]


def _samples(counts: Counts, entity: str, kind: str) -> list[int]:
    """The commonest lengths: a choice that does not depend on the order of rows."""
    found = [
        (-n, length)
        for (entity_, kind_, length), n in counts.finding_lengths.items()
        if (entity_, kind_) == (entity, kind)
    ]
    return [length for _, length in sorted(found)[:NUM_SAMPLES]]


def split_facts(counts: Counts) -> list[SplitFacts]:
    """Rows and labels of each split."""
    return [
        {
            "split": split,
            "num_rows": counts.splits[split],
            "labels": {label: n for (name, label), n in sorted(counts.labels.items()) if name == split},
        }
        for split in s.SPLITS
    ]


def stage_facts(counts: Counts, num_in: int, redaction_errors: tuple[str, ...]) -> list[dict[str, Any]]:
    """The row account of each stage, in the order of the flow."""
    failed = sum(counts.quarantined[error] for error in redaction_errors)
    quarantined = {"read": counts.num_quarantined - failed, "redact": failed}
    found = []
    for stage in ("read", "review", "dedup", "redact", "filter", "decontaminate"):
        dropped = sum(n for (name, _), n in counts.dropped.items() if name == stage)
        num_out = num_in - dropped - quarantined.get(stage, 0)
        found.append(
            {
                "stage": stage,
                "num_in": num_in,
                "num_out": num_out,
                "num_dropped": dropped,
                "num_quarantined": quarantined.get(stage, 0),
            }
        )
        num_in = num_out
    return found
