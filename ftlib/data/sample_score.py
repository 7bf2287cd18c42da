"""Compares a prepared dataset with the truth of the sample corpus.

Rows are joined by id. A row counts for PII when it reached redaction: it is in a split, or a stage after redaction
dropped it. A planted value is found when redactions of its row cover all its letters and digits, and gone when the
row's text in the split does not hold it any more.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.storage import filesystem, join, read_json
from ftlib.data.records import said

SPLITS = ("train", "val", "test")
_BEFORE_REDACTION = ("dup", "exact", "near", "validate", "read", "conflict")
Span = tuple[int, int]


def covers(value: str, start: int, spans: Sequence[Span]) -> bool:
    """Whether every letter and digit of a value that begins at `start` lies in one of the spans."""
    return all(
        any(low <= start + offset < high for low, high in spans)
        for offset, character in enumerate(value)
        if character.isalnum()
    )


def score_prepared(truth_path: str | Path, dataset_path: str | Path) -> dict[str, Any]:
    """Shares of planted values and duplicates that a prepared dataset found.

    Returns `pii_found` (found and gone, over all kinds), `pii_by_entity` (kind → found, planted, share),
    `num_pii_planted`, `duplicates_dropped`, `exact_duplicates_dropped`, `near_duplicates_dropped`,
    `contradictions_held` (pairs of which at least one row is in no split).
    Raises UserError when the truth or the dataset is absent.
    """
    truth = read_json(str(truth_path))
    texts = {row["id"]: _row_text(row) for split in SPLITS for row in _rows(str(dataset_path), split)}
    dropped = {
        row["id"]: f"{row['stage']} {row['reason']}".lower() for row in _rows(str(dataset_path), "dropped.parquet")
    }
    spans: dict[str, list[Span]] = {}
    for row in _rows(str(dataset_path), "redactions.parquet"):
        if row["field"] == "text" or row["field"].startswith("messages"):
            spans.setdefault(row["id"], []).append((row["start"], row["end"]))
    reached = set(texts) | {name for name, reason in dropped.items() if not _before_redaction(reason)}
    planted, found = Counter[str](), Counter[str]()
    for name, row in truth["pii"].items():
        for value in row["values"] if name in reached else []:
            planted[value["entity"]] += 1
            hidden = covers(value["value"], value["start"], spans.get(name, []))
            found[value["entity"]] += hidden and value["value"] not in texts.get(name, "")
    exact = _dropped_share(truth["exact_duplicates"], dropped)
    near = _dropped_share(truth["near_duplicates"], dropped)
    pairs = truth["contradictions"]
    return {
        "pii_found": _share(sum(found.values()), sum(planted.values())),
        "num_pii_planted": sum(planted.values()),
        "pii_by_entity": {
            kind: {"found": found[kind], "planted": count, "share": _share(found[kind], count)}
            for kind, count in sorted(planted.items())
        },
        "duplicates_dropped": _dropped_share([*truth["exact_duplicates"], *truth["near_duplicates"]], dropped),
        "exact_duplicates_dropped": exact,
        "near_duplicates_dropped": near,
        "contradictions_held": _share(
            sum(any(name not in texts for name in pair["ids"]) for pair in pairs), len(pairs)
        ),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 1.0


def _before_redaction(reason: str) -> bool:
    return any(word in reason for word in _BEFORE_REDACTION)


def _dropped_share(groups: Iterable[dict[str, Any]], dropped: dict[str, str]) -> float:
    """Share of the surplus rows of groups that were dropped: of a group of n rows, n - 1 are surplus."""
    surplus = gone = 0
    for group in groups:
        surplus += len(group["ids"]) - 1
        gone += min(sum(name in dropped for name in group["ids"]), len(group["ids"]) - 1)
    return _share(gone, surplus)


def _row_text(row: dict[str, Any]) -> str:
    messages = row.get("messages") or []
    return "\n".join([row.get("text") or "", *(said(message) for message in messages)])


def _rows(dataset: str, name: str) -> list[dict[str, Any]]:
    """All rows of a Parquet file or of the files in a split's folder; an absent split is empty."""
    import pyarrow.parquet as pq

    fs, path = filesystem(join(dataset, name))
    if not fs.exists(path):
        if name in SPLITS:
            return []
        raise UserError(f"{dataset}: no {name}, so this is not a prepared dataset")
    files = [path] if fs.isfile(path) else sorted(fs.glob(f"{path}/*.parquet"))
    rows: list[dict[str, Any]] = []
    for file in files:
        with fs.open(file, "rb") as opened:
            rows += pq.read_table(opened).to_pylist()
    return rows
