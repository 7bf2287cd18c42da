"""Dates, groups and ages from metadata; overlaps against plain sets of words; weights against their definition."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from ftlib.config.prepare import FilterConfig, MixConfig
from ftlib.data import schema as s
from ftlib.data.metadata import canonical, to_seconds, value_at
from ftlib.data.mix import genuine_factors, mix_factors, name_hashes
from ftlib.data.overlap import CLEAN, EXACT_COPY, NOTHING, SHARED_NGRAM, overlap_of
from ftlib.data.rowfacts import stale_rows
from ftlib.data.sign import FILTER_TIME, NO_TIME
from ftlib.text.words import words

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1970-01-02", 86400),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:01Z", 1),
        (" 1970-01-01 00:01 ", 60),
        (86400, 86400),
        (1_700_000_000_000, 1_700_000_000),
        ("yesterday", None),
        ("", None),
        (None, None),
        (True, None),
        (float("nan"), None),
        (["1970-01-01"], None),
    ],
)
def test_dates(value, expected):
    assert to_seconds(value) == expected


def test_values_by_path():
    metadata = {"a": {"b": 1, "c.d": 2}, "a.b": 3, "e": None}
    assert value_at(metadata, "a.b") == 3
    assert value_at(metadata, "a.c.d") == 2
    assert value_at(metadata, "a.x") is None
    assert value_at([1], "a") is None
    assert canonical({"x": 1, "y": 2}) == canonical({"y": 2, "x": 1}) != canonical("x")
    assert canonical("") is None and canonical(None) is None and canonical(0) == b"0"


def test_stale_rows_are_those_before_the_limit():
    config = FilterConfig(max_age_days=10, date_field="date", reference_date=datetime.date(1970, 1, 21))
    limit = 10 * 86400
    times = np.array([limit - 1, limit, NO_TIME, 10**12], dtype=np.int64)
    rows = np.array([5, 6, 7, 8], dtype=np.uint64)
    table = pa.table({s.ROW: rows, FILTER_TIME: times})
    assert stale_rows([table.slice(0, 2), table.slice(2)], config)[s.ROW].to_pylist() == [5]


def sentences(count, length, seed):
    generator = np.random.default_rng(seed)
    return [" ".join(f"w{number}" for number in generator.integers(0, 3000, length)) for _ in range(count)]


def test_overlaps_against_sets_of_words():
    """Exact copies and shared 13-grams as sets of tuples find them, with neighbours shorter than an n-gram."""
    benchmark = [[text] for text in sentences(20, 30, 0)] + [["a short question", "its answer"]]
    rows = [[text] for text in sentences(30, 40, 1)]
    for row, start in ((3, 0), (4, 10), (5, 17), (6, 18)):  # 30 - 18 = 12 words: one too few
        rows[row] = [rows[row][0] + " " + " ".join(benchmark[row][0].split()[start:])]
    rows += [[benchmark[0][0].upper() + " !"], ["A short  question", "another answer"], ["its answer"], [""], ["short"]]

    def grams(parts):
        found = words(" ".join(parts))
        return {tuple(found[i : i + 13]) for i in range(len(found) - 12)}

    known = set().union(*(grams(parts) for parts in benchmark))
    expected = [SHARED_NGRAM if grams(parts) & known else CLEAN for parts in rows]
    expected[31] = EXACT_COPY
    codes = overlap_of(benchmark, 13, KEY).codes(rows, 13, KEY)
    assert codes.tolist() == expected
    assert [expected[row] for row in (3, 4, 5, 6, 30)] == [SHARED_NGRAM] * 3 + [CLEAN, SHARED_NGRAM]
    assert overlap_of([["Same  Text"]], 13, KEY).codes([["same text"], ["same texts"]], 13, KEY).tolist() == [1, 0]
    assert not NOTHING.codes(rows, 13, KEY).any() and len(NOTHING.codes([], 13, KEY)) == 0


def test_merged_references_hold_both():
    left, right = [[text] for text in sentences(3, 20, 2)], [[text] for text in sentences(3, 20, 3)]
    merged = overlap_of(left, 13, KEY).merge(overlap_of(right, 13, KEY))
    whole = overlap_of([*left, *right], 13, KEY)
    assert np.array_equal(merged.texts, whole.texts) and np.array_equal(merged.grams, whole.grams)


def test_balance_gives_every_label_the_same_sum_and_weights_multiply():
    known = name_hashes(["a", "b"], "label")
    names = np.array([known["a"]] * 6 + [known["b"]] * 2 + [0], dtype=np.uint64)
    already = np.array([1, 1, 1, 1, 0.5, 0.5, 1, 1, 1])
    even = mix_factors(names, already, MixConfig(balance="inverse_frequency"))
    sums = [(even * already)[names == np.uint64(known[name])].sum() for name in "ab"]
    assert sums == pytest.approx([3.5, 3.5]) and even[-1] == 1
    both = mix_factors(names, already, MixConfig(balance="inverse_frequency", weights={"b": 3, "absent": 9}))
    assert both[6:].tolist() == pytest.approx([*(3 * even[6:8]), 1]) and both[:6].tolist() == even[:6].tolist()


def test_synthetic_sources_are_weighed_down_to_the_floor_and_never_up():
    hashes = name_hashes(["real", "made"], "source")
    sources = np.array([hashes["real"]] * 2 + [hashes["made"]] * 8, dtype=np.uint64)
    weights = np.array([3.0, 1.0] + [1.0] * 8)

    def share(floor, synthetic=("made",)):
        factors = genuine_factors(sources, weights, MixConfig(synthetic_sources=list(synthetic), min_genuine=floor))
        assert (factors[:2] == 1).all()
        return (weights * factors)[:2].sum() / (weights * factors).sum(), factors

    assert share(0.5)[0] == pytest.approx(0.5) and share(0.9)[0] == pytest.approx(0.9)
    assert (share(0.3)[1] == 1).all() and (share(0.0)[1] == 1).all()
    assert (share(0.9, ("absent",))[1] == 1).all()
    everything = genuine_factors(sources[2:], weights[2:], MixConfig(synthetic_sources=["made"], min_genuine=0.5))
    assert (everything == 1).all()
