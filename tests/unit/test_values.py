"""One value has one canonical text, however it is stored."""

import datetime
import decimal
import json
import math
import uuid

import numpy as np
import pytest

from ftlib.data.values import RowError, as_json, as_key, as_text, canonical_json, is_blank

MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5)
IDENTITY = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Jose\u0301 ", "Jos\u00e9 "),
        (4711, "4711"),
        (4711.0, "4711"),
        (-0.0, "0"),
        (np.float64(4711), "4711"),
        (0.5, "0.5"),
        (1e22, "10000000000000000000000"),
        (decimal.Decimal("4711.00"), "4711"),
        (decimal.Decimal("12.50"), "12.50"),
        (decimal.Decimal("1e-7"), "0.0000001"),
        (True, "true"),
        (b"caf\xc3\xa9", "caf\u00e9"),
        (memoryview(b"x"), "x"),
        (MOMENT, "2024-01-02T03:04:05"),
        (MOMENT.replace(tzinfo=datetime.UTC), "2024-01-02T03:04:05+00:00"),
        (MOMENT.date(), "2024-01-02"),
        (MOMENT.time(), "03:04:05"),
        (IDENTITY, str(IDENTITY)),
    ],
)
def test_one_text_for_a_value(value, expected):
    assert as_text(value) == expected


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "null_text"),
        (math.nan, "null_text"),
        (decimal.Decimal("NaN"), "null_text"),
        (math.inf, "not_finite"),
        ([1], "nested_text"),
        ({"a": 1}, "nested_text"),
        (b"\xff", "bad_utf8"),
    ],
)
def test_what_has_no_text_names_its_error(value, error):
    with pytest.raises(RowError, match=error):
        as_text(value)


@pytest.mark.parametrize("value", [4711, 4711.0, " 4711", "4711\n", "4711.0", "4711.00", b"4711", np.int64(4711)])
def test_one_person_has_one_key(value):
    assert as_key(value, "bad_subject") == "4711"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0123", "0123"), ("4711.5", "4711.5"), ("007.0", "007.0"), ("-0.0", "0"), ("1.0.0", "1.0.0")],
)
def test_other_keys_stay_as_they_are(value, expected):
    assert as_key(value, "bad_id") == expected


def test_key_of_null_and_of_nested_values():
    assert as_key(None, "bad_id") is None and as_key(math.nan, "bad_id") is None
    with pytest.raises(RowError, match="bad_id"):
        as_key([1], "bad_id")


def test_metadata_is_canonical_at_every_depth():
    value = {
        "a": [1.0, 1.5, math.nan, math.inf, 1e300],
        "e\u0301": {"n\u0303": "\n\u0303", "when": MOMENT, "raw": b"\xff\x00", "text": b"ok"},
        "price": decimal.Decimal("2.50"),
        "id": IDENTITY,
    }
    expected = {
        "a": [1, 1.5, None, None, 1e300],
        "\u00e9": {"\u00f1": "\n\u0303", "when": "2024-01-02T03:04:05", "raw": "ff00", "text": "ok"},
        "price": "2.50",
        "id": str(IDENTITY),
    }
    assert json.loads(as_json(value)) == canonical_json(value) == expected


def test_keys_that_differ_in_composition_alone_are_both_kept():
    assert len(json.loads(as_json({"\u00e9": 1, "e\u0301": 2}))) == 2


def test_blank():
    assert is_blank(None) and is_blank("") and is_blank(math.nan)
    assert not is_blank(0) and not is_blank(False) and not is_blank([]) and not is_blank(" ")
