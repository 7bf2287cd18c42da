"""The audit report of a prepared dataset: `report.json` and a self-contained `report.html`.

In: `Facts`, plain counts that the pipeline's stages already have (never a record's text, never a found value).
Out: `Report`, the facts plus what is derived from them: a summary, label balance, and findings with a severity and
a suggested fix. Both files depend on the facts alone: they hold no time and no path but the inputs' names.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftlib.core.page import visible
from ftlib.core.storage import join, write_json, write_text
from ftlib.data import findings
from ftlib.data.report_facts import PERCENTILES, Facts, LabelBalance, LabelFacts, PiiFacts, Report, Summary


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
        "findings": findings.find(facts, summary, balance),
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
