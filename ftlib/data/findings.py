"""What a reader of the report should know or do, derived from its facts."""

from collections.abc import Iterator, Sequence

from ftlib.data.broken import BrokenFacts
from ftlib.data.leftout import MOST, LeftOutFacts
from ftlib.data.report_facts import (
    CommonTextFacts,
    Facts,
    Finding,
    LabelBalance,
    LossFacts,
    NoNerFacts,
    ResidualFacts,
    SemanticFacts,
    Severity,
    Summary,
)

_MUCH_RESIDUAL = 0.1
_NUM_SHARED = 5
_SHOWN_NAMES = 20
_MANY_UNREAD = 0.05
"""Share of the scanned records above which those that no NER model read are a grave finding."""
_MANY_QUARANTINED, _MANY_DUPLICATES, _UNBALANCED = 0.05, 0.3, 10


def find(facts: Facts, summary: Summary, balance: LabelBalance | None) -> list[Finding]:
    """Return the findings of a prepared dataset, gravest first."""
    return sorted_findings(
        [
            *_about_rows(facts, summary),
            *_about_labels(facts, balance),
            *_about_personal_data(facts, summary),
            *map(_broken, facts.get("broken", [])),
            *_about_left_out(facts.get("left_out", [])),
            *map(loss_of, facts.get("losses", [])),
            *_about_shared_text(facts.get("common_text", [])),
            *([_semantic(meant)] if (meant := facts.get("semantic")) else []),
            *(finding("medium", warning, 1, "See the message.") for warning in facts.get("warnings", [])),
        ]
    )


def finding(severity: Severity, title: str, count: int, fix: str, examples: list[str] | None = None) -> Finding:
    """Return a finding; without examples it has no such key."""
    found: Finding = {"severity": severity, "title": title, "count": count, "fix": fix}
    if examples is not None:
        found["examples"] = examples
    return found


def _about_rows(facts: Facts, summary: Summary) -> Iterator[Finding]:
    num_in = max(summary["num_in"], 1)
    if facts["settings"].get("pii_profile") == "none":
        yield finding(
            "high",
            "Nothing was redacted: pii.profile is none",
            summary["num_kept"],
            "Set pii.profile to enterprise or safe_harbor unless the records hold no personal data.",
        )
    if not summary["accounted"]:
        yield finding(
            "high",
            "The row account does not add up",
            summary["num_in"],
            "Do not use this dataset; report the defect with this file.",
        )
    if quarantined := summary["num_quarantined"]:
        yield finding(
            "high" if quarantined / num_in > _MANY_QUARANTINED else "medium",
            "Rows could not be read or processed",
            quarantined,
            "See quarantine.parquet for the source and position of each, mend the export and run again.",
        )
    if conflicts := sum(conflict["num_rows"] for conflict in facts["label_conflicts"]):
        yield finding(
            "medium",
            "Records with the same input and different labels or answers",
            conflicts,
            "Decide them in review.jsonl; a model cannot learn both.",
        )
    if duplicates := summary["num_duplicates"]:
        yield finding(
            "low" if duplicates / num_in < _MANY_DUPLICATES else "medium",
            "Exact and near duplicates were dropped",
            duplicates,
            "None needed. Many duplicates hint at a repeated export or a template.",
        )


def _about_labels(facts: Facts, balance: LabelBalance | None) -> Iterator[Finding]:
    if balance is not None and balance["ratio"] > _UNBALANCED:
        yield finding(
            "medium",
            "Labels are unbalanced (largest over smallest above 10)",
            balance["num_labels"],
            "Collect more of the rare classes or weight them.",
        )
    for split in facts["splits"]:
        missing = len(facts["labels"]) - len(split["labels"])
        if split["labels"] and missing > 0:
            yield finding(
                "low",
                f"Labels that do not occur in {split['split']}",
                missing,
                "Raise the split's fraction or collect more records of these labels.",
            )


def _about_personal_data(facts: Facts, summary: Summary) -> Iterator[Finding]:
    if summary["num_pii_findings"] and facts["settings"].get("pii_profile") != "none":
        yield finding(
            "info",
            "Personal or secret values were found and replaced",
            summary["num_pii_findings"],
            "None needed. redactions.parquet lists entity and place of each, never the value.",
        )
    yield from _about_unread(facts.get("no_ner") or [], facts["num_records_scanned"])
    yield from _about_residual(facts.get("residual"))


def _about_unread(rows: Sequence[NoNerFacts], num_scanned: int) -> Iterator[Finding]:
    ordered = sorted(rows, key=lambda row: (-row["num_records"], row["language"]))
    if num_unread := sum(row["num_records"] for row in ordered):
        languages = ", ".join(row["language"] for row in ordered[:8])
        yield finding(
            "high" if num_unread > _MANY_UNREAD * max(num_scanned, 1) else "medium",
            f"No NER model read these records, so rules alone looked for names in them (languages: {languages})",
            num_unread,
            "Name a model for the languages in pii.models or pii.ner_engines, or set pii.require_ner=true.",
        )


def _about_residual(residual: ResidualFacts | None) -> Iterator[Finding]:
    if residual and residual["num_records"]:
        share = residual["num_records"] / max(residual["num_scanned"], 1)
        yield finding(
            "high" if share > _MUCH_RESIDUAL else "medium",
            "Redacted records in which a second detector still finds something",
            residual["num_records"],
            "Look at records of these types; cover what is personal with pii.patterns or pii.deny_list, "
            "and set pii.max_residual to gate the job.",
        )


def _about_left_out(left_out: Sequence[LeftOutFacts]) -> Iterator[Finding]:
    for source in {row["source"]: None for row in left_out}:
        rows = [row for row in left_out if row["source"] == source]
        share = sum(row["share_of_text"] for row in rows)
        yield finding(
            "high" if share > MOST else "medium",
            f"{source}: columns or keys that no record carries on, {share:.1%} of the file's text",
            max(row["num_rows"] for row in rows),
            "Bring what matters into the records (metadata, input.template, or a shape that knows it); "
            "input.strict=true refuses such files.",
            [
                f"{row['name']}: {row['num_rows']} rows, {row['share_of_text']:.1%} of the text"
                for row in rows[:_SHOWN_NAMES]
            ],
        )


def _about_shared_text(shared: Sequence[CommonTextFacts]) -> Iterator[Finding]:
    if shared:
        yield finding(
            "info",
            "Text that most records of a source share was left out when they were compared",
            sum(item["num_rows"] for item in shared),
            "None needed. Put a shared instruction into input.system_prompt to train on it once a record.",
            [shared_text(item) for item in shared[:_NUM_SHARED]],
        )


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


def loss_of(loss: LossFacts) -> Finding:
    """Return the finding of a source that lost many rows to one reason."""
    share, reason = loss["num_rows"] / max(loss["num_in"], 1), loss["reason"]
    default = f"Look at the examples; if they should be kept, loosen what drops them as {reason} ({loss['stage']}.*)."
    return {
        "severity": "high",
        "title": f"{loss['source']} lost {share:.0%} of its records as {reason.replace('_', ' ')}",
        "count": loss["num_rows"],
        "fix": _LOSS_FIXES.get(reason, default),
        "examples": loss["examples"],
    }


def shared_text(item: CommonTextFacts) -> str:
    """Return a line about text that records share."""
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
