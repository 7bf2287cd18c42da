"""The audit's counts and findings, without a cluster: parts add up, every finding can be provoked, no text gets out."""

import copy
import json
import re

import pyarrow as pa
import pytest

from ftlib.config.audit import AuditConfig
from ftlib.config.loader import validate
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.audit_report import AuditFacts, build_audit, inspected_facts, token_facts
from ftlib.data.fertility import TokenCounts, count_tokens
from ftlib.data.inspection import Inspected, in_order, inspect_table, turn_order
from ftlib.data.report import write_report
from tests.unit.test_report import FACTS


def table(rows):
    base = dict.fromkeys(s.READ.names) | {s.SOURCE: "in.jsonl", s.ID: "x", s.DERIVED: True, s.METADATA: "{}"}
    return pa.Table.from_pylist([{**base, s.ROW: i, **row} for i, row in enumerate(rows)], schema=s.READ)


def chat(*turns, **more):
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


ROWS = [
    chat(("user", "Where is the parcel of Jane Roe?"), ("assistant", "It is on its way to you.")),
    chat(("user", "n/a"), ("assistant", '{"broken": ')),
    chat(("user", "Both on 2024-01-31 and 31.01.2024"), ("assistant", '{"fine": true}')),
    chat(("assistant", "First I speak"), ("user", "Then you")),
    {"text": "Ich habe die Rechnung für meine Bestellung noch nicht erhalten."},
    {"text": "labelled", "metadata": json.dumps({"annotations": {"ann": "x", "bob": "y"}})},
    {"error": "bad_json"},
]


def test_parts_add_up_to_the_whole():
    whole = inspect_table(table(ROWS), "annotations")
    parts = [inspect_table(table(ROWS).slice(i, 1), "annotations") for i in range(len(ROWS))]
    assert sum(parts, Inspected()) == whole
    assert sum(reversed(parts), Inspected()) == whole
    assert whole.num_rows == 6


def test_facts_name_what_is_wrong_and_quote_nothing():
    facts = inspected_facts(inspect_table(table(ROWS), "annotations"), 3)
    assert facts["issues"] == [{"issue": "placeholder", "field": "user", "num_fields": 1}]
    assert {row["order"]: row["in_order"] for row in facts["turns"]} == {
        "user → assistant": True, "assistant → user": False
    }  # fmt: skip
    assert facts["answers"] == {"broken": 1, "text": 2, "valid": 1}
    assert {row["form"] for row in facts["dates"]} == {"2024-01-31", "31.01.2024"}
    assert {row["language"]: row["num_records"] for row in facts["languages"]}["de"] == 1
    assert facts["annotators"] == {"alpha": 0.0, "num_records": 1}
    assert facts["examples"]["placeholder"] == ["in.jsonl at 1: x/x"]
    assert not re.search("Jane|parcel|Rechnung|speak", json.dumps(facts))


def test_turns():
    assert turn_order(["system", "user", "assistant"] + ["user", "assistant"] * 30) == ("system", "user", "assistant")
    assert in_order(("system", "user", "assistant")) and in_order(("user", "tool", "assistant"))
    assert not any(map(in_order, [("user",), ("user", "user", "assistant"), ("system",), ("assistant", "user")]))


def words(texts):
    """A tokenizer that cuts words into pieces of two letters."""
    return [sum(-(-len(word) // 2) for word in text.split()) for text in texts]


def test_tokens_and_fragmented_words():
    records = [["a metformin b"]] * 5 + [["sertraline"]] * 4
    counts = count_tokens(records, words)
    assert counts == sum((count_tokens([record], words) for record in records), TokenCounts())
    facts = token_facts(counts, words, "tiny", 6)
    assert (facts["num_records"], facts["num_over"]) == (9, 5)
    assert facts["fertility"] == pytest.approx((5 * 7 + 4 * 5) / 19, abs=1e-3)
    assert facts["terms"] == [{"term": "metformin", "num_records": 5, "num_pieces": 5}], "rare words are not named"
    assert facts["histogram"] == [("0–15", 9)]


CLEAN: AuditFacts = {
    "num_inspected": 100, "issues": [], "turns": [], "answers": {}, "dates": [], "annotators": None, "tokens": None,
    "languages": [{"language": "en", "num_records": 99}, {"language": "und", "num_records": 1}], "contamination": [],
    "min_quality": 0.85, "examples": {},
}  # fmt: skip
TOKENS = {
    "tokenizer": "t", "num_records": 90, "percentiles": {}, "histogram": [("0–15", 90)], "max_seq_len": 8,
    "num_over": 3, "fertility": 1.2, "terms": [],
}  # fmt: skip
CROSSED = {"split": "test", "keeper_split": "train", "reason": "near duplicate", "num_rows": 3}


@pytest.mark.parametrize(
    ("change", "title", "severity"),
    [
        ({"min_quality": 0.95}, "are clean", "high"),
        ({"issues": [{"issue": "encoding", "field": "user", "num_fields": 2}]}, "broken characters", "medium"),
        ({"turns": [{"order": "user", "num_rows": 1, "in_order": False}]}, "out of order", "medium"),
        ({"answers": {"broken": 1}}, "do not parse", "medium"),
        ({"dates": [{"form": form, "num_records": 1} for form in "ab"]}, "2 forms", "low"),
        ({"languages": [{"language": "de", "num_records": 50}]}, "other languages", "medium"),
        ({"annotators": {"alpha": 0.5, "num_records": 9}}, "alpha 0.50", "high"),
        ({"contamination": [CROSSED]}, "repeat one of train", "high"),
        ({"tokens": TOKENS}, "longer than 8 tokens", "medium"),
        ({"tokens": {**TOKENS, "num_over": 0, "fertility": 3.0}}, "3.0 tokens a word", "low"),
    ],
)
def test_findings_follow_the_facts(change, title, severity):
    before = build_audit(copy.deepcopy(FACTS), copy.deepcopy(CLEAN), "en")
    assert not any(title in finding["title"] for finding in before["findings"])
    after = build_audit(copy.deepcopy(FACTS), {**copy.deepcopy(CLEAN), **change}, "en")
    assert [finding["severity"] for finding in after["findings"] if title in finding["title"]] == [severity]


def test_the_page_is_self_contained_and_shows_every_section(tmp_path):
    facts = {
        **copy.deepcopy(CLEAN),
        "tokens": TOKENS,
        "contamination": [CROSSED],
        "prepared": True,
        "annotators": {"alpha": None, "num_records": 2},
        "examples": {"contamination": ["a at 1: <x>"]},
    }
    write_report(tmp_path, build_audit(copy.deepcopy(FACTS), facts, "en"))
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"<script|<link|@import|url\(|https?://", page)
    for text in ("Data audit", "Across splits", "Words cut into most pieces", "cannot be told", "a at 1: &lt;x&gt;"):
        assert text in page


def test_one_source_is_needed():
    output = {"output": {"path": "o"}}
    for sources in ({}, {"input": {"paths": ["a"]}, "data": {"path": "d"}}):
        with pytest.raises(UserError, match=r"input\.paths.*or data\.path"):
            validate(AuditConfig, {**output, **sources})
