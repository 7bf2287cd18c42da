"""The audit report: derived figures, findings, and a page that needs nothing from outside."""

import copy
import json
import re

import pytest

from ftlib.data.report import build_report, label_balance, percentiles, write_report
from ftlib.data.report_facts import Facts

CONFLICT = {"labels": ["x", "y"], "num_groups": 1, "num_rows": 2}
FACTS: Facts = {
    "inputs": [{"source": "a <b>.jsonl", "shape": "input_output", "num_rows": 100}],
    "settings": {"pii_profile": "enterprise", "seed": 7},
    "stages": [
        {"stage": "read", "num_in": 100, "num_out": 98, "num_dropped": 0, "num_quarantined": 2},
        {"stage": "dedup", "num_in": 98, "num_out": 90, "num_dropped": 8, "num_quarantined": 0},
    ],
    "drops": [{"stage": "dedup", "reason": "exact_duplicate", "num_rows": 8}],
    "quarantine": [{"error": "JSONDecodeError", "num_rows": 2}],
    "pii": [
        {
            "entity": "US_SSN",
            "field": "messages.user",
            "num_findings": 4,
            "num_records": 3,
            "sample_lengths_chars": [11],
        },
        {"entity": "US_SSN", "field": "metadata", "num_findings": 1, "num_records": 1, "sample_lengths_chars": [9]},
    ],
    "num_records_scanned": 90,
    "num_records_with_pii": 9,
    "duplicates": {"num_exact": 8, "num_near": 0, "cluster_sizes": {"2": 8}},
    "labels": [{"label": "x", "num_rows": 60}, {"label": "y", "num_rows": 30}],
    "label_conflicts": [],
    "lengths": [{"field": "record", "unit": "characters", "percentiles": percentiles(range(1, 101))}],
    "splits": [
        {"split": "train", "num_rows": 80, "labels": {"x": 55, "y": 25}},
        {"split": "test", "num_rows": 10, "labels": {"x": 10}},
    ],
}


def test_summary_and_balance():
    report = build_report(FACTS)
    assert report["summary"]["accounted"]
    assert report["summary"]["num_kept"] == 90
    assert report["summary"]["quality_score"] == 0.9
    assert report["summary"]["share_records_with_pii"] == 0.1
    assert report["label_balance"] == {"num_labels": 2, "ratio": 2.0, "entropy": 0.9183}
    assert label_balance([]) is None


def test_percentiles():
    points = percentiles([1, 2, 3, 4, 5])
    assert (points["min"], points["p50"], points["max"], points["mean"]) == (1, 3, 5, 3)
    assert percentiles([]) == {}


@pytest.mark.parametrize(
    ("change", "title", "severity"),
    [
        (lambda facts: facts["settings"].update(pii_profile="none"), "Nothing was redacted", "high"),
        (lambda facts: facts.update(no_ner=[{"language": "fr", "num_records": 1}]), "languages: fr", "medium"),
        (lambda facts: facts.update(no_ner=[{"language": "fr", "num_records": 9}]), "No NER model", "high"),
        (lambda facts: facts["stages"][1].update(num_out=89), "does not add up", "high"),
        (lambda facts: facts["inputs"][0].update(num_rows=101), "does not add up", "high"),
        (lambda facts: facts["label_conflicts"].append(CONFLICT), "same input", "medium"),
        (lambda facts: facts["labels"][1].update(num_rows=2), "unbalanced", "medium"),
        (lambda facts: facts.update(warnings=["odd thing"]), "odd thing", "medium"),
    ],
)  # fmt: skip
def test_findings_follow_the_facts(change, title, severity):
    facts = copy.deepcopy(FACTS)
    assert not any(title in finding["title"] for finding in build_report(facts)["findings"])
    change(facts)
    found = [finding for finding in build_report(facts)["findings"] if title in finding["title"]]
    assert [finding["severity"] for finding in found] == [severity]


def test_files_are_equal_for_equal_facts_and_the_page_is_self_contained(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, build_report(copy.deepcopy(FACTS)))
    for name in ("report.json", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    page = (tmp_path / "one" / "report.html").read_text()
    assert not re.search(r"<script|<link|@import|url\(|https?://", page)
    assert "a &lt;b&gt;.jsonl" in page
    assert "US_SSN" in page
    assert json.loads((tmp_path / "one" / "report.json").read_text())["version"] == 1


def test_an_empty_dataset_still_has_a_page(tmp_path):
    facts = copy.deepcopy(FACTS)
    for name in ("inputs", "stages", "drops", "quarantine", "pii", "labels", "lengths", "splits"):
        facts[name] = []
    facts.update(num_records_scanned=0, num_records_with_pii=0)
    facts["duplicates"] = {"num_exact": 0, "num_near": 0, "cluster_sizes": {}}
    write_report(tmp_path, build_report(facts))
    assert "No value was found" in (tmp_path / "report.html").read_text()


def test_a_source_of_which_most_rows_are_no_records_is_named_with_reasons_and_places():
    facts = copy.deepcopy(FACTS)
    reasons = ["bad_json: 9 rows, the first at 0", "null_text: 1 rows, the first at 310"]
    facts["broken"] = [{"source": "b.jsonl", "num_rows": 10, "num_broken": 10, "reasons": reasons}]
    first = build_report(facts)["findings"][0]
    assert (first["severity"], first["count"], first["examples"]) == ("high", 10, reasons)
    assert first["title"] == "b.jsonl: all its rows are no records and went to quarantine"
    facts["broken"][0]["num_rows"] = 15
    assert "67% of its rows" in build_report(facts)["findings"][0]["title"]
