"""The second look at redacted text: what was left is counted, what was replaced is not, and the sample is the rows'."""

import json

import pyarrow as pa
import pytest

from ftlib.config.prepare import PiiConfig
from ftlib.data import schema as s
from ftlib.data.redact import Redactor
from ftlib.data.residual import exceeds, refuse_residual, scan_tables
from ftlib.text.pii.residual import ResidualScanner, replaced_places

KEY = b"0123456789abcdef"
FAST = PiiConfig(profile="fast")
LEFT = "Card 4111 1111 1111 1111 and mail jane.roe@example.com"


@pytest.fixture(scope="module")
def scanner():
    return ResidualScanner(FAST)


def test_finds_what_was_left(scanner):
    found = {LEFT[item.start : item.end]: item.entity for item in scanner.scan(LEFT)}
    assert found["4111 1111 1111 1111"] == "CREDIT_CARD"
    assert found["jane.roe@example.com"] == "EMAIL_ADDRESS"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("信用卡号4539578763621486已过期", "4539578763621486"),
        ("Card 4539 5787\n6362-1486 was charged", "4539 5787\n6362-1486"),
        ("Card 4539\u20115787\u20116362\u20111486 was charged", "4539\u20115787\u20116362\u20111486"),
        ("写信给anna@firma-beispiel.de谢谢", "anna@firma-beispiel.de"),
        ("Write to anna@\u200bfirma-beispiel.de now", "anna@\u200bfirma-beispiel.de"),
        ("it says 536.22.8741 on the form", "536.22.8741"),
        ("Mein Kennwort: Sonne2024x, bitte", "Sonne2024x"),
        ("服务器地址是203.0.113.77，请检查", "203.0.113.77"),
    ],
)
def test_finds_what_was_left_in_any_spelling(scanner, text, value):
    assert value in {text[item.start : item.end] for item in scanner.scan(text)}


def test_leaves_replacements_and_vague_dates_alone(scanner):
    assert scanner.scan(LEFT, [(5, 24), (34, 54)]) == []
    assert scanner.scan("[REDACTED_PERSON] wrote to [EMAIL_ADDRESS_1] yesterday, in 24/7 style.") == []


def test_replacements_are_found_in_the_new_text():
    old, new = "ab CDE fg HI", "ab [X] fg [LONG]"
    places = replaced_places([(3, 6, "[X]"), (10, 12, "[LONG]")])
    assert [new[start:end] for start, end in places] == ["[X]", "[LONG]"] and old[3:6] == "CDE"


def processed(**config):
    record = dict.fromkeys(s.READ.names) | {s.ROW: 1, s.ID: "a", s.DERIVED: True, s.SOURCE: "x", s.TEXT: LEFT}
    record[s.METADATA] = json.dumps({"by": "jane.roe@example.com"})
    return Redactor(PiiConfig(profile="fast", **config), KEY)(pa.Table.from_pylist([record], schema=s.READ))


@pytest.mark.parametrize("replacement", ["token", "surrogate", "mask"])
def test_nothing_remains_of_what_was_replaced(replacement):
    findings, _, num_records, version = scan_tables([processed(replacement=replacement)], FAST)
    assert (findings, num_records) == ({}, 0)
    assert version.startswith("presidio-analyzer ") and version.endswith("patterns alone")


def test_counts_findings_and_records_by_entity():
    missed = processed(entities=["CREDIT_CARD"])
    findings, records, num_records, _ = scan_tables([missed, missed], FAST)
    assert findings["EMAIL_ADDRESS"] == 4 and records["EMAIL_ADDRESS"] == 2 and num_records == 2
    assert "CREDIT_CARD" not in findings


def test_the_gate_compares_the_share_of_records():
    facts = {"detector": "d", "num_scanned": 10, "num_records": 2, "entities": []}
    assert not exceeds(facts, FAST)
    assert not exceeds(facts, PiiConfig(max_residual=0.2))
    assert exceeds(facts, PiiConfig(max_residual=0.19))
    error = refuse_residual(facts, PiiConfig(max_residual=0.19), {"manifest": "m"})
    assert error.exit_code == 3 and error.result == {"manifest": "m"} and "2 of 10" in str(error)
