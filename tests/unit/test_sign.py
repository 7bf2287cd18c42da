"""Signatures of records: equal whatever a process has signed before, and what the metadata adds to them."""

import json

import numpy as np
import pyarrow as pa
import pytest

from ftlib.config.prepare import DedupConfig
from ftlib.data import schema as s
from ftlib.data import sign as module
from ftlib.data.sign import NO_TIME, SIGNATURE, SignSettings, sign

KEY = b"k" * 32


def table(texts, metadata=None, **columns):
    rows = [
        {s.ROW: i, s.ID: str(i), s.DERIVED: True, s.SOURCE: "a", s.TEXT: text, s.METADATA: json.dumps(meta)}
        for i, (text, meta) in enumerate(zip(texts, metadata or [{}] * len(texts), strict=True))
    ]
    return pa.Table.from_pylist([{**row, **columns} for row in rows], schema=s.READ)


def long_texts(count, seed=0):
    generator = np.random.default_rng(seed)
    return [" ".join(f"w{number}" for number in generator.integers(0, 999, 400)) for _ in range(count)]


def test_what_was_signed_before_changes_nothing(monkeypatch):
    """Long texts come from memory, also when it is full; a fresh process gives the same."""
    texts = long_texts(12)
    settings = SignSettings(DedupConfig(), KEY)
    monkeypatch.setattr(module, "_REMEMBERED_CHARS", 5 * len(texts[0]))
    first = sign(table(texts), settings)
    mixed = [texts[11], "short", texts[0], texts[11], *long_texts(3, 1), texts[10], "short"]
    again = sign(table(mixed), settings)
    module._sketcher.cache_clear()
    assert again.equals(sign(table(mixed), settings))
    assert again["shingles"][0] == first["shingles"][11] and again["bands"][2] == first["bands"][0]
    assert again["exact_hash"][3] == first["exact_hash"][11] != first["exact_hash"][10]


def test_broken_and_no_rows():
    found = sign(table(["fine text", None], error=None), SignSettings(DedupConfig(), KEY))
    assert found.schema == SIGNATURE
    broken = pa.Table.from_pylist([{s.ROW: 1, s.SOURCE: "a", s.ERROR: "bad_json"}], schema=s.READ)
    assert sign(broken, SignSettings(DedupConfig(), KEY))["broken"].to_pylist() == [True]
    assert sign(s.READ.empty_table(), SignSettings(DedupConfig(), KEY)).num_rows == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"policy": "longest"}, [3, 1, 0, 2]),
        ({"policy": "quality"}, [0, 1, 2, 3]),
        ({"policy": "most_recent", "recency_field": "a.date"}, [2, 0, 1, 3]),
    ],
)
def test_order_of_preference(config, expected):
    texts = ["three words here", "rather more words here", "two words", "the most words of all of them"]
    dates = [{"a": {"date": "2024-01-02"}}, {}, {"a": {"date": "2024-01-02T00:00:01Z"}}, {"a": {"date": "soon"}}]
    found = sign(table(texts, dates), SignSettings(DedupConfig.model_validate(config), KEY))
    assert np.argsort(found["order"].to_numpy(), kind="stable").tolist() == expected


def test_metadata_columns():
    metadata = [{"day": "1970-01-02", "team": "x"}, {"day": None, "team": "y"}, {"team": "x"}, {"team": ""}]
    settings = SignSettings(DedupConfig(), KEY, group_field="team", split_time_field="day", filter_time_field="day")
    found = sign(table(list("abcd"), metadata), settings)
    assert found["split_time"].to_pylist() == found["filter_time"].to_pylist() == [86400, NO_TIME, NO_TIME, NO_TIME]
    groups = found["group_hash"].to_pylist()
    assert groups[0] == groups[2] != groups[1] and groups[3] == 0 and groups[1] != 0
