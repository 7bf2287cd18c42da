"""The audit's part of the report: formats, dates, languages, tokens, agreement, contamination, and the gate.

In: the facts of `ftlib.data.report` and those that the audit counts on top. Out: one `report.json` and `report.html`
with all findings, gravest first, each with masked examples.
"""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np

from ftlib.data.fertility import Encode, TokenCounts, fragmented
from ftlib.data.findings import sorted_findings
from ftlib.data.inspection import Inspected, in_order
from ftlib.data.report import build_report, percentiles
from ftlib.data.report_facts import Facts, Finding, Report, Severity
from ftlib.text.agreement import alpha
from ftlib.text.hygiene import ENCODING, FIXES, ISSUES, PLACEHOLDER
from ftlib.text.language import UNKNOWN

_GOOD_ALPHA, _FAIR_ALPHA = 0.8, 0.667
_FERTILE = 2.0
_MIN_LANGUAGE_SHARE = 0.01
_AMBIGUOUS = "first?"


class TokenFacts(TypedDict):
    """What a tokenizer makes of the records."""

    tokenizer: str
    num_records: int
    percentiles: dict[str, float]
    histogram: list[tuple[str, int]]
    """Range of tokens → records."""
    max_seq_len: int
    num_over: int
    """Records longer than `max_seq_len`."""
    fertility: float
    """Tokens a word."""
    terms: list[dict[str, Any]]
    """Words cut into most pieces: `term`, `num_records`, `num_pieces`."""


class AuditFacts(TypedDict):
    """What the audit adds to the facts of a preparation. Lists are most frequent first."""

    num_inspected: int
    issues: list[dict[str, Any]]
    """`issue`, `field`, `num_fields`."""
    turns: list[dict[str, Any]]
    """`order`, `num_rows`, `in_order`."""
    answers: dict[str, int]
    dates: list[dict[str, Any]]
    """`form`, `num_records`."""
    languages: list[dict[str, Any]]
    """`language`, `num_records`."""
    annotators: dict[str, Any] | None
    """`alpha` (None: cannot be told), `num_records`."""
    tokens: TokenFacts | None
    contamination: list[dict[str, Any]]
    """`split`, `keeper_split`, `reason`, `num_rows`: records of one split that repeat one of another."""
    min_quality: float | None
    examples: dict[str, list[str]]
    """Finding → places with masks."""
    prepared: NotRequired[bool]
    """The records are those of a prepared dataset."""


def inspected_facts(counts: Inspected, num_examples: int) -> dict[str, Any]:
    """The parts of `AuditFacts` that come from inspection."""
    annotated = sum(n for size, n in counts.annotated.items() if size > 1)
    return {
        "num_inspected": counts.num_rows,
        "issues": [{"issue": issue, "field": kind, "num_fields": n} for (issue, kind), n in _ranked(counts.issues)],
        "turns": [
            {"order": " → ".join(turns), "num_rows": n, "in_order": in_order(turns)}
            for turns, n in _ranked(counts.turns)[:12]
        ],
        "answers": dict(sorted(counts.answers.items())),
        "dates": [{"form": form, "num_records": n} for form, n in _ranked(counts.dates)],
        "languages": [{"language": language, "num_records": n} for language, n in _ranked(counts.languages)],
        "annotators": {"alpha": _rounded(alpha(counts.pairs)), "num_records": annotated} if annotated else None,
        "examples": {
            key: [f"{place}: {mask}" for _, place, mask in examples[:num_examples]]
            for key, examples in sorted(counts.examples.items())
        },
    }


def token_facts(counts: TokenCounts, encode: Encode, tokenizer: str, max_seq_len: int) -> TokenFacts:
    """Percentiles, a histogram over powers of two, and fertility."""
    lengths = sorted(counts.lengths)
    repeated = np.repeat(lengths, [counts.lengths[length] for length in lengths])
    bins: dict[str, int] = {}
    for length in lengths:
        low = 0 if length < 16 else 1 << (length.bit_length() - 1)
        name = f"{low}–{max(15, 2 * low - 1)}"
        bins[name] = bins.get(name, 0) + counts.lengths[length]
    return {
        "tokenizer": tokenizer,
        "num_records": len(repeated),
        "percentiles": percentiles(repeated),
        "histogram": list(bins.items()),
        "max_seq_len": max_seq_len,
        "num_over": int((repeated > max_seq_len).sum()),
        "fertility": round(float(repeated.sum()) / max(counts.num_words, 1), 3),
        "terms": fragmented(counts, encode),
    }


def build_audit(facts: Facts, audit: AuditFacts, language: str) -> dict[str, Any]:
    """`report.json`: the report of the records with the audit's facts and findings."""
    report: Report = build_report(facts)
    # A preparation says what it did; the audit says what there is.
    own = [finding for finding in report["findings"] if not finding["title"].startswith(_OF_PREPARATION)]
    report["findings"] = sorted_findings([*own, *_findings(report, audit, language)])
    return {**report, "audit": audit}


_OF_PREPARATION = ("Personal or secret values were", "Exact and near duplicates were", "Labels that do not occur in")


class _Findings(list[Finding]):
    def __init__(self, examples: Mapping[str, list[str]]) -> None:
        super().__init__()
        self._examples = examples

    def note(self, severity: Severity, title: str, count: int, fix: str, key: str = "") -> None:
        """Add a finding when it has a count."""
        if count:
            examples = self._examples.get(key, [])
            self.append({"severity": severity, "title": title, "count": count, "fix": fix, "examples": examples})


def _findings(report: Report, audit: AuditFacts, language: str) -> list[Finding]:
    found = _Findings(audit["examples"])
    summary, rows = report["summary"], max(audit["num_inspected"], 1)
    quality, wanted = summary["quality_score"], audit["min_quality"]
    if wanted is not None and quality < wanted:
        found.note(
            "high",
            f"Only {quality:.1%} of the records are clean, {wanted:.0%} are wanted",
            summary["num_in"] - summary["num_kept"],
            "Mend what the findings below name; lower audit.min_quality only knowingly.",
        )
    prepared = audit.get("prepared", False)
    found.note(
        "high" if prepared or report["settings"].get("pii_profile") == "none" else "medium",
        "Personal or secret values" + (" in a prepared dataset" if prepared else ""),
        summary["num_pii_findings"],
        "Look at them: prepare again with a wider profile or pii.patterns." if prepared else
        "Train on the output of jobs.prepare, which replaces them, never on these records.",
    )  # fmt: skip
    found.note(
        "medium" if summary["num_duplicates"] > 0.1 * rows else "low",
        "Exact and near duplicates",
        summary["num_duplicates"],
        "jobs.prepare keeps one of each cluster; many hint at a repeated export or a template.",
        "duplicates",
    )
    for split in audit["contamination"]:
        found.note(
            "high",
            f"Records of {split['split']} that repeat one of {split['keeper_split']} ({split['reason']})",
            split["num_rows"],
            "Scores on such a split are not to be believed: prepare again from the raw records.",
            "contamination",
        )
    _text_findings(found, audit)
    _language_findings(found, audit, language, rows)
    _token_findings(found, audit)
    return found


def _text_findings(found: _Findings, audit: AuditFacts) -> None:
    for issue, title in ISSUES.items():
        count = sum(row["num_fields"] for row in audit["issues"] if row["issue"] == issue)
        found.note("medium" if issue in (PLACEHOLDER, ENCODING) else "low", title, count, FIXES[issue], issue)
    found.note(
        "medium",
        "Conversations whose turns are out of order",
        sum(row["num_rows"] for row in audit["turns"] if not row["in_order"]),
        "A conversation is an optional system message, then user and assistant in turn, the assistant last.",
        "turns",
    )
    found.note(
        "medium",
        "Answers that set out to be JSON and do not parse",
        audit["answers"].get("broken", 0),
        "Repair or leave them out; a model that learns broken JSON writes it.",
        "broken_json",
    )
    ambiguous = [row for row in audit["dates"] if _AMBIGUOUS in row["form"]]
    if len(audit["dates"]) > 1:
        found.note(
            "medium" if ambiguous else "low",
            f"Dates are written in {len(audit['dates'])} forms" + (", one ambiguous" if ambiguous else ""),
            sum(row["num_records"] for row in audit["dates"]),
            "Write dates as 2024-01-31 at the source, so that a model learns one form.",
        )
    agreement = audit["annotators"]
    if agreement and agreement["alpha"] is not None and agreement["alpha"] < _GOOD_ALPHA:
        found.note(
            "high" if agreement["alpha"] < _FAIR_ALPHA else "medium",
            f"Annotators agree too little: Krippendorff's alpha {agreement['alpha']:.2f}",
            agreement["num_records"],
            "Below .667 labels support no conclusion, below .8 tentative ones: sharpen the guideline, label again.",
        )


def _language_findings(found: _Findings, audit: AuditFacts, language: str, rows: int) -> None:
    known, few = (language, UNKNOWN), _MIN_LANGUAGE_SHARE * rows
    counts = {row["language"]: row["num_records"] for row in audit["languages"]}
    others = {name: n for name, n in counts.items() if name not in known and n >= few}
    found.note(
        "medium",
        f"Records in other languages than pii.language={language}: {', '.join(others)}",
        sum(others.values()),
        "Names are found by a pipeline of one language: set pii.models for these, or leave the records out.",
    )


def _token_findings(found: _Findings, audit: AuditFacts) -> None:
    tokens = audit["tokens"]
    if tokens is None:
        return
    found.note(
        "medium" if tokens["num_over"] > 0.01 * tokens["num_records"] else "low",
        f"Records longer than {tokens['max_seq_len']} tokens, which training would cut",
        tokens["num_over"],
        "Raise train.max_seq_len, split long records, or lower filter.max_tokens.",
    )
    if tokens["fertility"] > _FERTILE:
        found.note(
            "low",
            f"The tokenizer needs {tokens['fertility']} tokens a word: it was made for other texts",
            tokens["num_records"],
            "Training and serving cost as many times more; compare the tokenizers of other base models.",
        )


def _ranked(counts: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
