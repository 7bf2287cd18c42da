"""Redaction of whole records: every field is scanned, offsets point at the original, a failure keeps the row back."""

import json
from datetime import date

import pyarrow as pa
import pytest

from ftlib.config.prepare import PiiConfig
from ftlib.data import schema as s
from ftlib.data.records import turns
from ftlib.data.redact import FAILED, IdScanner, Redactor

KEY = b"0123456789abcdef"
MAIL = "jane.roe@example.com"


def record(**values):
    base = dict.fromkeys(s.READ.names) | {s.ROW: 1, s.ID: "r1", s.DERIVED: False, s.SOURCE: "a.jsonl", s.METADATA: "{}"}
    return base | values


def redact(records, **config):
    redactor = Redactor(PiiConfig(**({"profile": "fast"} | config)), KEY)
    return redactor(pa.Table.from_pylist(records, schema=s.READ)).to_pylist()


FULL = record(
    messages=[
        {"role": "system", "content": f"You help {MAIL}."},
        {"role": "user", "content": f"I am {MAIL}, call 212-555-0187. Again: {MAIL}"},
        {"role": "assistant", "content": "No names here."},
    ],
    rejected=f"Write to {MAIL}",
    metadata=json.dumps({"a/b": {"c~d": [1, f"by {MAIL}"]}, "phone": 2125550187, "n": 5, "ok": True}),
)


def test_every_field_is_scanned_and_offsets_point_at_the_original():
    (row,) = redact([FULL])
    assert MAIL not in json.dumps(row)
    assert {"messages[0].content", "messages[1].content", "rejected", "metadata/a~1b/c~0d/1"} <= {
        finding["field"] for finding in row[s.FINDINGS]
    }
    originals = {f"messages[{i}].content": message["content"] for i, message in enumerate(FULL[s.MESSAGES])}
    originals |= {"rejected": FULL[s.REJECTED], "metadata/a~1b/c~0d/1": f"by {MAIL}"}
    mails = [finding for finding in row[s.FINDINGS] if finding["entity"] == "EMAIL_ADDRESS"]
    assert len(mails) == 5
    for finding in mails:
        assert originals[finding["field"]][finding["start"] : finding["end"]] == MAIL
        assert finding["replacement"] == "[REDACTED_EMAIL_ADDRESS]"
    assert row[s.MESSAGES][2]["content"] == "No names here."
    metadata = json.loads(row[s.METADATA])
    assert metadata["n"] == 5 and metadata["ok"] is True


def test_dates_of_one_subject_keep_their_distance_and_subjects_differ():
    days = [("a", "2024-02-27"), ("a", "2024-03-05"), ("b", "2024-02-27"), ("c", "2024-02-27")]
    rows = redact(
        [record(text=f"Date of birth: {day}", subject=subject) for subject, day in days],
        profile="enterprise", ner_model="none", replacement="surrogate",
    )  # fmt: skip
    first, second, *others = (date.fromisoformat(row[s.TEXT].split()[-1]) for row in rows)
    assert (second - first).days == 7
    assert len({first, *others}) > 1


def test_drop_removes_the_whole_record():
    kept, dropped = redact([record(text="nothing to see"), record(text=f"write {MAIL}")], replacement="drop")
    assert (kept[s.TEXT], kept[s.STAGE]) == ("nothing to see", None)
    assert (dropped[s.TEXT], dropped[s.METADATA], dropped[s.STAGE]) == (None, None, "redact")
    assert len(dropped[s.FINDINGS]) == 1


@pytest.mark.parametrize("where", ["analyze", "replace_record"])
def test_a_record_that_was_not_scanned_is_kept_back(monkeypatch, caplog, where):
    from ftlib.text.pii import Replacer
    from ftlib.text.pii.analyzer import PiiAnalyzer

    target = PiiAnalyzer if where == "analyze" else Replacer
    original = getattr(target, where)

    def fails(self, values, *rest):
        if "poison" in str(values):
            raise RuntimeError(f"cannot handle {values}")
        return original(self, values)

    monkeypatch.setattr(target, where, fails)
    records = [record(text=f"good {MAIL}"), record(text=f"poison {MAIL}", rejected=MAIL), record(text="also good")]
    first, second, third = redact(records)
    assert first[s.TEXT] == "good [REDACTED_EMAIL_ADDRESS]" and third[s.TEXT] == "also good"
    assert second[s.ERROR] == FAILED
    assert second[s.TEXT] is None and second[s.REJECTED] is None and not second[s.FINDINGS]
    assert MAIL not in caplog.text and "poison" not in caplog.text


def test_broken_rows_pass_through_unscanned():
    (row,) = redact([record(error="bad_json", metadata=None)])
    assert (row[s.ERROR], row[s.FINDINGS], row[s.ID]) == ("bad_json", [], "r1")


def test_given_ids_with_pii_become_keyed_hashes():
    scanner = IdScanner(PiiConfig(profile="fast"), KEY)
    stored = scanner.stored([MAIL, "t000123", MAIL, MAIL], [False, False, False, True])
    assert stored[0] == stored[2] != MAIL
    assert stored[1] == "t000123"
    assert stored[3] == MAIL
    assert IdScanner(PiiConfig(profile="fast"), b"another key of 16 bytes").stored([MAIL], [False])[0] != stored[0]


def test_profile_none_changes_nothing():
    (row,) = redact([FULL], profile="none")
    assert {name: row[name] for name in FULL} | {s.MESSAGES: turns(row)} == FULL


def test_batches_change_nothing():
    records = [record(row_key=i, text=f"row {i} of {MAIL}") for i in range(9)]
    assert redact(records, batch_size=2) == redact(records, batch_size=64)
