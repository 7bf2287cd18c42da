"""The audit report of a prepared dataset: `report.json` and a self-contained `report.html`.

In: `Facts`, plain counts that the pipeline's stages already have (never a record's text, never a found value).
Out: `Report`, the facts plus what is derived from them: a summary, label balance, and findings with a severity and
a suggested fix. Both files depend on the facts alone: they hold no time and no path but the inputs' names.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from ftlib.core.page import visible
from ftlib.core.storage import join, write_json, write_text
from ftlib.data.broken import BrokenFacts
from ftlib.data.leftout import MOST, LeftOutFacts

Severity = Literal["high", "medium", "low", "info"]
_MUCH_RESIDUAL = 0.1
_NUM_SHARED = 5
_SHOWN_NAMES = 20
PERCENTILES = ("min", "p5", "p25", "p50", "p75", "p95", "p99", "max")


class InputFacts(TypedDict):
    """One input file."""

    source: str
    """Its name."""
    shape: str
    """The shape that was detected or set."""
    num_rows: int
    """Rows read, broken ones included."""


class StageFacts(TypedDict):
    """One stage's row account: `num_in = num_out + num_dropped + num_quarantined`."""

    stage: str
    num_in: int
    num_out: int
    num_dropped: int
    num_quarantined: int


class DropFacts(TypedDict):
    """Rows that one stage left out for one reason."""

    stage: str
    reason: str
    num_rows: int


class QuarantineFacts(TypedDict):
    """Rows that could not be read or processed, by error class."""

    error: str
    num_rows: int


class PiiFacts(TypedDict):
    """Findings of one entity type in one kind of field."""

    entity: str
    field: str
    """`text`, `messages.user`, `messages.assistant`, `rejected`, `metadata` …: the kind of field, not its position."""
    num_findings: int
    num_records: int
    """Records with at least one."""
    sample_lengths_chars: list[int]
    """Lengths in characters of a few findings: all that the report shows of them."""


class ResidualEntity(TypedDict):
    """What the second detector found of one entity type."""

    entity: str
    num_findings: int
    num_records: int


class ResidualFacts(TypedDict):
    """What an independent detector still finds in redacted records."""

    detector: str
    """Its name and version."""
    num_scanned: int
    """Records in the sample."""
    num_records: int
    """Records of these with at least one finding."""
    entities: list[ResidualEntity]
    """Most frequent first."""


_MANY_UNREAD = 0.05
"""Share of the records without NER from which on it is a grave finding."""


class NoNerFacts(TypedDict):
    """Records in one language that no NER model could read: rules alone looked for names in them."""

    language: str
    num_records: int


class DuplicateFacts(TypedDict):
    """What deduplication found."""

    num_exact: int
    """Rows dropped as exact duplicates."""
    num_near: int
    """Rows dropped as near-duplicates."""
    cluster_sizes: dict[str, int]
    """Number of records in a cluster, keeper included (`"2"`, `"3"` …) → number of clusters."""
    num_in_reference: NotRequired[int]
    """Rows dropped as near-duplicates of the reference corpus."""
    expected_recall: NotRequired[dict[str, float]]
    """Jaccard similarity → share of such pairs that the chosen bands find, by the S-curve."""


class LossFacts(TypedDict):
    """Rows that one source lost to one reason, more than a third of them."""

    source: str
    stage: str
    reason: str
    num_rows: int
    num_in: int
    """Rows read of the source."""
    examples: list[str]
    """Records or pairs of records by place, with redacted text."""


class CommonTextFacts(TypedDict):
    """Text that most records of a source share."""

    source: str
    num_rows: int
    """Kept records that have at least half of it."""
    text: str
    """A passage of it, redacted; empty where it is not shown."""


class SemanticFacts(TypedDict):
    """How alike the kept records are in meaning, by `dedup.semantic`."""

    num_records: int
    """Kept records that were embedded."""
    num_alike: int
    """Records of these that reach the threshold with another one."""
    num_cells: int
    """Cells of k-means."""
    effective_num_cells: float
    """Coverage: the exponential of the entropy of the cells' sizes; `num_cells` where all are of one size, 1 where one
    holds everything."""
    mean_distance_to_nearest: float | None
    """Diversity: the mean of 1 - cosine to the nearest other record of the cell; 0 where each has a twin."""


class LabelFacts(TypedDict):
    """Records of one label among those that were kept."""

    label: str
    num_rows: int


class ConflictFacts(TypedDict):
    """Groups of records with the same input and these different labels or answers."""

    labels: list[str]
    num_groups: int
    num_rows: int


class LengthFacts(TypedDict):
    """Length percentiles of the kept records."""

    field: str
    """`record`, `input`, `output`, `text` …"""
    unit: Literal["characters", "tokens"]
    percentiles: dict[str, float]
    """As `percentiles` gives them."""


class MixFacts(TypedDict):
    """Records of train of one label or source, and what they weigh."""

    name: str
    num_rows: int
    weight: float
    """Sum of the factors that duplicates, balance and weights give."""


class SplitFacts(TypedDict):
    """One split and the labels in it."""

    split: str
    num_rows: int
    labels: dict[str, int]


class Facts(TypedDict):
    """What the data plane hands over. Lists are shown in the order given."""

    inputs: list[InputFacts]
    settings: dict[str, str | int | float | bool | None]
    """What a reader must know: `pii_profile`, `pii_replacement`, `ner_model`, `dedup_threshold`, `seed` …"""
    stages: list[StageFacts]
    drops: list[DropFacts]
    quarantine: list[QuarantineFacts]
    pii: list[PiiFacts]
    num_records_scanned: int
    num_records_with_pii: int
    duplicates: DuplicateFacts
    labels: list[LabelFacts]
    label_conflicts: list[ConflictFacts]
    lengths: list[LengthFacts]
    splits: list[SplitFacts]
    no_ner: NotRequired[list[NoNerFacts]]
    residual: NotRequired[ResidualFacts | None]
    """None or absent: not scanned again."""
    left_out: NotRequired[list[LeftOutFacts]]
    """Columns and keys of the inputs that no record carries on."""
    broken: NotRequired[list[BrokenFacts]]
    """Sources of whose rows more than half are no records."""
    mix: NotRequired[list[MixFacts]]
    replay: NotRequired[dict[str, str | float]]
    warnings: NotRequired[list[str]]
    losses: NotRequired[list[LossFacts]]
    common_text: NotRequired[list[CommonTextFacts]]
    semantic: NotRequired[SemanticFacts | None]


class Summary(TypedDict):
    """The figures at the head of the report."""

    num_in: int
    num_kept: int
    num_dropped: int
    num_quarantined: int
    accounted: bool
    """Whether every input row is in exactly one of kept, dropped, quarantined, in every stage and in all."""
    num_pii_findings: int
    share_records_with_pii: float
    num_duplicates: int
    quality_score: float
    """Share of the input rows that were kept."""


class LabelBalance(TypedDict):
    """How evenly labels are spread."""

    num_labels: int
    ratio: float
    """Largest class over smallest."""
    entropy: float
    """Normalised to 0 (one class only) … 1 (all classes alike)."""


class Finding(TypedDict):
    """Something a reader should know or do."""

    severity: Severity
    title: str
    count: int
    fix: str
    examples: NotRequired[list[str]]
    """Places, masks and redacted text, never a value."""


class Report(Facts):
    """`report.json`."""

    version: int
    summary: Summary
    label_balance: LabelBalance | None
    findings: list[Finding]


def percentiles(values: Sequence[int] | np.ndarray) -> dict[str, float]:
    """min, p5 … p99, max and mean of lengths; empty for no values."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        return {}
    points = np.percentile(array, [0, 5, 25, 50, 75, 95, 99, 100])
    found = {name: round(float(point), 2) for name, point in zip(PERCENTILES, points, strict=True)}
    return {**found, "mean": round(float(array.mean()), 2)}


def label_balance(labels: Sequence[LabelFacts]) -> LabelBalance | None:
    """Ratio and normalised entropy of a label distribution; None without labels."""
    counts = [label["num_rows"] for label in labels if label["num_rows"]]
    if not counts:
        return None
    total = sum(counts)
    entropy = -sum(count / total * math.log(count / total) for count in counts)
    return {
        "num_labels": len(counts),
        "ratio": round(max(counts) / min(counts), 2),
        "entropy": round(entropy / math.log(len(counts)), 4) if len(counts) > 1 else 0.0,
    }


def build_report(facts: Facts) -> Report:
    """Derive the summary, the label balance and the findings."""
    summary, balance = _summary(facts), label_balance(facts["labels"])
    return {
        "version": 1,
        "summary": summary,
        "findings": _findings(facts, summary, balance),
        "label_balance": balance,
        **facts,
    }


def write_report(folder: str | Path, report: Report | dict[str, Any]) -> None:
    """Write `report.json` and `report.html` into a folder or prefix."""
    write_json(join(str(folder), "report.json"), report)
    write_text(join(str(folder), "report.html"), render_html(report))


def render_html(report: Report | dict[str, Any]) -> str:
    """The report as one HTML page without scripts or outside resources."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ftlib.data", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=visible,
    )
    environment.filters.update(n=_thousands, pct=_percent, words=_words)
    return environment.get_template("report.html.j2").render(report=report, pii_table=_pii_table(report["pii"]))


def _summary(facts: Facts) -> Summary:
    num_in = sum(source["num_rows"] for source in facts["inputs"])
    num_kept = sum(split["num_rows"] for split in facts["splits"])
    num_dropped = sum(drop["num_rows"] for drop in facts["drops"])
    num_quarantined = sum(error["num_rows"] for error in facts["quarantine"])
    balanced = all(
        stage["num_in"] == stage["num_out"] + stage["num_dropped"] + stage["num_quarantined"]
        for stage in facts["stages"]
    )
    scanned, duplicates = facts["num_records_scanned"], facts["duplicates"]
    return {
        "num_in": num_in,
        "num_kept": num_kept,
        "num_dropped": num_dropped,
        "num_quarantined": num_quarantined,
        "accounted": balanced and num_in == num_kept + num_dropped + num_quarantined,
        "num_pii_findings": sum(row["num_findings"] for row in facts["pii"]),
        "share_records_with_pii": round(facts["num_records_with_pii"] / scanned, 4) if scanned else 0.0,
        "num_duplicates": duplicates["num_exact"] + duplicates["num_near"] + duplicates.get("num_in_reference", 0),
        "quality_score": round(num_kept / num_in, 4) if num_in else 0.0,
    }


def _findings(facts: Facts, summary: Summary, balance: LabelBalance | None) -> list[Finding]:
    """What a reader should act on, gravest first."""
    found: list[Finding] = []

    def add(condition: bool, severity: Severity, title: str, count: int, fix: str) -> None:
        if condition:
            found.append({"severity": severity, "title": title, "count": count, "fix": fix})

    num_in = max(summary["num_in"], 1)
    add(
        facts["settings"].get("pii_profile") == "none",
        "high",
        "Nothing was redacted: pii.profile is none",
        summary["num_kept"],
        "Set pii.profile to enterprise or safe_harbor unless the records hold no personal data.",
    )
    add(
        not summary["accounted"],
        "high",
        "The row account does not add up",
        summary["num_in"],
        "Do not use this dataset; report the defect with this file.",
    )
    quarantined = summary["num_quarantined"]
    add(
        quarantined > 0,
        "high" if quarantined / num_in > 0.05 else "medium",
        "Rows could not be read or processed",
        quarantined,
        "See quarantine.parquet for the source and position of each, mend the export and run again.",
    )
    conflicts = sum(conflict["num_rows"] for conflict in facts["label_conflicts"])
    add(
        conflicts > 0,
        "medium",
        "Records with the same input and different labels or answers",
        conflicts,
        "Decide them in review.jsonl; a model cannot learn both.",
    )
    add(
        summary["num_duplicates"] > 0,
        "low" if summary["num_duplicates"] / num_in < 0.3 else "medium",
        "Exact and near duplicates were dropped",
        summary["num_duplicates"],
        "None needed. Many duplicates hint at a repeated export or a template.",
    )
    add(
        balance is not None and balance["ratio"] > 10,
        "medium",
        "Labels are unbalanced (largest over smallest above 10)",
        balance["num_labels"] if balance else 0,
        "Collect more of the rare classes or weight them.",
    )
    for split in facts["splits"]:
        missing = len(facts["labels"]) - len(split["labels"])
        add(
            bool(split["labels"]) and missing > 0,
            "low",
            f"Labels that do not occur in {split['split']}",
            missing,
            "Raise the split's fraction or collect more records of these labels.",
        )
    add(
        summary["num_pii_findings"] > 0 and facts["settings"].get("pii_profile") != "none",
        "info",
        "Personal or secret values were found and replaced",
        summary["num_pii_findings"],
        "None needed. redactions.parquet lists entity and place of each, never the value.",
    )
    unread = sorted(facts.get("no_ner") or [], key=lambda row: (-row["num_records"], row["language"]))
    num_unread = sum(row["num_records"] for row in unread)
    languages = ", ".join(row["language"] for row in unread[:8])
    add(
        num_unread > 0,
        "high" if num_unread > _MANY_UNREAD * max(facts["num_records_scanned"], 1) else "medium",
        f"No NER model read these records, so rules alone looked for names in them (languages: {languages})",
        num_unread,
        "Name a model for the languages in pii.models or pii.ner_engines, or set pii.require_ner=true.",
    )
    residual = facts.get("residual")
    if residual:
        share = residual["num_records"] / max(residual["num_scanned"], 1)
        add(
            residual["num_records"] > 0,
            "high" if share > _MUCH_RESIDUAL else "medium",
            "Redacted records in which a second detector still finds something",
            residual["num_records"],
            "Look at records of these types; cover what is personal with pii.patterns or pii.deny_list, "
            "and set pii.max_residual to gate the job.",
        )
    found += [_broken(item) for item in facts.get("broken", [])]
    for source in {row["source"]: None for row in facts.get("left_out", [])}:
        rows = [row for row in facts.get("left_out", []) if row["source"] == source]
        share = sum(row["share_of_text"] for row in rows)
        found.append(
            {
                "severity": "high" if share > MOST else "medium",
                "title": f"{source}: columns or keys that no record carries on, {share:.1%} of the file's text",
                "count": max(row["num_rows"] for row in rows),
                "fix": "Bring what matters into the records (metadata, input.template, or a shape that knows it); "
                "input.strict=true refuses such files.",
                "examples": [
                    f"{row['name']}: {row['num_rows']} rows, {row['share_of_text']:.1%} of the text"
                    for row in rows[:_SHOWN_NAMES]
                ],
            }
        )
    found += [_loss(loss) for loss in facts.get("losses", [])]
    shared = facts.get("common_text", [])
    if shared:
        found.append(
            {
                "severity": "info",
                "title": "Text that most records of a source share was left out when they were compared",
                "count": sum(item["num_rows"] for item in shared),
                "fix": "None needed. Put a shared instruction into input.system_prompt to train on it once a record.",
                "examples": [_shared_text(item) for item in shared[:_NUM_SHARED]],
            }
        )
    if meant := facts.get("semantic"):
        found.append(_semantic(meant))
    for warning in facts.get("warnings", []):
        add(True, "medium", warning, 1, "See the message.")
    return sorted_findings(found)


_LOSS_FIXES = {
    "near_duplicate": "If these pairs are different records, raise dedup.threshold, keep variants with "
    "dedup.preset=keep_variants, or set dedup.enabled=false; if they are copies, nothing is needed.",
    "exact_duplicate": "The source repeats itself: was it exported more than once?",
    "in_reference": "These records are in dedup.against: is that the right reference?",
}


def _broken(item: BrokenFacts) -> Finding:
    share = "all" if item["num_broken"] == item["num_rows"] else f"{item['num_broken'] / item['num_rows']:.0%} of"
    return {
        "severity": "high",
        "title": f"{item['source']}: {share} its rows are no records and went to quarantine",
        "count": item["num_broken"],
        "fix": "Look at these places of the file: is input.shape, input.template or the file's encoding right?",
        "examples": item["reasons"][:_SHOWN_NAMES],
    }


def _loss(loss: LossFacts) -> Finding:
    share, reason = loss["num_rows"] / max(loss["num_in"], 1), loss["reason"]
    default = f"Look at the examples; if they should be kept, loosen what drops them as {reason} ({loss['stage']}.*)."
    return {
        "severity": "high",
        "title": f"{loss['source']} lost {share:.0%} of its records as {_words(reason)}",
        "count": loss["num_rows"],
        "fix": _LOSS_FIXES.get(reason, default),
        "examples": loss["examples"],
    }


def _shared_text(item: CommonTextFacts) -> str:
    shown = f": “{item['text']}”" if item["text"] else ""
    return f"{item['source']}, {item['num_rows']} records{shown}"


def _semantic(meant: SemanticFacts) -> Finding:
    distance = meant["mean_distance_to_nearest"]
    return {
        "severity": "info",
        "title": f"{meant['num_alike']} of {meant['num_records']} kept records say what another one says",
        "count": meant["num_alike"],
        "fix": "None needed: they stay on one side of the split. Few effective cells mean that the data covers little.",
        "examples": [
            f"records spread over {meant['effective_num_cells']} effective of {meant['num_cells']} cells",
            "mean distance to the nearest other record: " + ("unknown" if distance is None else f"{distance}"),
        ],
    }


def sorted_findings(found: Sequence[Finding]) -> list[Finding]:
    """Gravest first, else in the order given."""
    order: dict[Severity, int] = {"high": 0, "medium": 1, "low": 2, "info": 3}
    return sorted(found, key=lambda finding: order[finding["severity"]])


def _pii_table(rows: Sequence[PiiFacts]) -> list[dict[str, Any]]:
    """One row an entity: all findings, findings by field, and masked samples, most frequent first."""
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = table.setdefault(row["entity"], {"entity": row["entity"], "total": 0, "fields": {}, "lengths": []})
        entry["total"] += row["num_findings"]
        entry["fields"][row["field"]] = entry["fields"].get(row["field"], 0) + row["num_findings"]
        entry["lengths"].extend(row["sample_lengths_chars"])
    for entry in table.values():
        entry["samples"] = ["•" * min(length, 12) + f" ({length})" for length in entry["lengths"][:3]]
    return sorted(table.values(), key=lambda entry: (-entry["total"], entry["entity"]))


def _thousands(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _words(name: str) -> str:
    return name.replace("_", " ")
