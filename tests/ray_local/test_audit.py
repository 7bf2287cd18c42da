"""The audit on a real cluster: planted defects are counted, the gate holds, and no text gets into a report."""

import json
import re

import pytest

from ftlib.config.audit import AuditConfig
from ftlib.config.loader import validate
from ftlib.core.errors import GateError
from ftlib.data.audit import audit
from tests.prepared_data import write_prepared

SUBJECTS = (
    "invoice",
    "parcel",
    "refund",
    "password",
    "delivery",
    "discount",
    "warranty",
    "address",
    "voucher",
    "order",
)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FTLIB_KEY", "0123456789abcdef")
    monkeypatch.setattr("ftlib.registry.manifest.code_version", lambda: "code")


def chat(question, answer, **more):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def clean(count):
    return [
        chat(f"Where can I see the {SUBJECTS[i % 10]} of case {i // 10}?", f"Open the page {SUBJECTS[i % 10]} {i}.")
        for i in range(count)
    ]


def run(output, **sections):
    values = {"pii": {"profile": "fast", "residual_sample": 0}, "execution": {"num_partitions": 2, "num_workers": 1}}
    return audit(validate(AuditConfig, {"output": {"path": str(output)}, **values, **sections}))


def test_planted_defects_are_found_and_the_gate_holds(ray_local, tmp_path):
    rows = clean(30)
    rows[0]["metadata"] = {"annotations": {"ann": "a", "bob": "a"}}
    rows[1]["metadata"] = {"annotations": ["a", "b"]}
    defects = [
        rows[2],  # an exact duplicate
        chat("Mail jane.roe@example.com about my case 77 please", "n/a and nothing more to say"),
        chat("How do I change the {{field}} in the form", '{"broken": '),
        chat("", "An answer to nothing"),
    ]
    path = tmp_path / "in.jsonl"
    lines = [json.dumps(row) for row in [*rows, *defects]]
    path.write_text("\n".join([*lines, "{not json"]) + "\n")
    result = run(tmp_path / "ok", input={"paths": [str(path)]}, audit={"min_quality": 0.9})
    assert result["quality"] == pytest.approx(32 / 35, abs=1e-4), "all but a duplicate and two broken rows"
    report = json.loads((tmp_path / "ok" / "report.json").read_text())
    assert report["summary"]["num_quarantined"] == 2 and report["summary"]["num_duplicates"] == 1
    assert report["audit"]["answers"]["broken"] == 1
    assert report["audit"]["annotators"] == {"alpha": 0.0, "num_records": 2}
    titles = " / ".join(finding["title"] for finding in report["findings"])
    for words in ("do not parse", "unfilled template variable", "Personal or secret values", "near duplicates"):
        assert words in titles
    page = (tmp_path / "ok" / "report.html").read_text()
    assert not re.search("jane|voucher|warranty", page + json.dumps(report), re.IGNORECASE)
    assert run(tmp_path / "ok", input={"paths": [str(path)]}, audit={"min_quality": 0.9})["reused"]
    with pytest.raises(GateError, match=r"audit\.min_quality") as refused:
        run(tmp_path / "bad", input={"paths": [str(path)]}, audit={"min_quality": 0.95})
    assert refused.value.result["quality"] == result["quality"] and (tmp_path / "bad" / "report.html").exists()


def test_a_prepared_dataset_with_a_record_on_both_sides(ray_local, tmp_path):
    rows = [{"id": f"r{i:02}", "weight": 1.0, **row} for i, row in enumerate(clean(12))]
    write_prepared(tmp_path / "data", train=rows[:9], test=[*rows[9:], {**rows[3], "id": "copied"}])
    run(tmp_path / "report", data={"path": str(tmp_path / "data")}, audit={"min_quality": None})
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["audit"]["contamination"] == [
        {"split": "test", "keeper_split": "train", "reason": "exact duplicate", "num_rows": 1}
    ]
    assert any("repeat one of train" in finding["title"] for finding in report["findings"])
