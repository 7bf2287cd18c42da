"""Signatures of records: equal whatever a process has signed before, and what the metadata adds to them."""

import json

import numpy as np
import pyarrow as pa
import pytest

from ftlib.config.prepare import DedupConfig
from ftlib.data import schema as s
from ftlib.data import sign as module
from ftlib.data.dedup import _equal_rows
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


PROMPT = [{"role": "user", s.CONTENT: " ".join(f"word{i}" for i in range(80))}]


def judged(answer=None, rejected=None, source="kto.jsonl", label=None, prompt=PROMPT):
    said = [] if answer is None else [{"role": "assistant", s.CONTENT: answer}]
    return {s.MESSAGES: [*prompt, *said], s.TEXT: None, s.REJECTED: rejected, s.SOURCE: source, s.LABEL: label}


def signed(records, judging=("kto.jsonl",)):
    rows = [{s.ROW: i, s.ID: str(i), s.DERIVED: True, **record} for i, record in enumerate(records)]
    settings = SignSettings(DedupConfig(), KEY, judged=frozenset(judging))
    return sign(pa.Table.from_pylist(rows, schema=s.READ), settings)


def decided(records, judging=("kto.jsonl",)):
    """Of each row: the reason for which it is dropped or held, `link` where it is linked."""
    table = signed(records, judging).append_column("later", pa.array([False] * len(records)))
    rows = _equal_rows(table, conflicts=True).to_pylist()
    return {row[s.ROW]: (row[s.REASON] or "link", row[s.KEEPER_ROW]) for row in rows}


def test_answers_that_are_judged_do_not_contradict_each_other():
    records = [
        judged("good"),
        judged(rejected="bad"),
        judged("another good one"),
        judged(rejected="good"),
        judged(rejected="bad"),
        judged("good"),
    ]
    expected = dict.fromkeys((1, 2, 3), ("link", 0)) | {4: ("exact_duplicate", 1), 5: ("exact_duplicate", 0)}
    assert decided(records) == expected
    verdicts = signed(records)["verdict_hash"].to_pylist()
    assert len(set(verdicts[:4])) == 4 and verdicts[4:] == [verdicts[1], verdicts[0]]


def test_good_answers_of_any_source_stand_beside_a_bad_or_compared_one():
    plain = [judged("one", source="a"), judged("two", source="a")]
    assert {reason for reason, _ in decided(plain).values()} == {"label_conflict"}
    for other in (judged(rejected="bad"), judged("one", "worse")):
        assert decided([*plain, other]) == {1: ("link", 0), 2: ("link", 0)}


def test_labels_of_judged_answers_still_contradict():
    found = decided([judged("one", "worse", label="x"), judged("two", "worse", label="y")])
    assert {reason for reason, _ in found.values()} == {"label_conflict"}


def test_pairs_differ_by_either_answer_and_plain_text_by_its_last_line():
    pairs = [judged("one", "two"), judged("one", "three"), judged("two", "one"), judged("One ", "TWO")]
    first, second, third, fourth = signed(pairs)["verdict_hash"].to_pylist()
    assert len({first, second, third}) == 3 and first == fourth

    def text(better, worse, prompt="Human: the same long question"):
        start = f"\n\n{prompt}\n\nAssistant: "
        return {s.MESSAGES: None, s.TEXT: start + better, s.REJECTED: start + worse, s.SOURCE: "a", s.LABEL: None}

    found = signed([text("I say yes", "I say no"), text("We say yes", "We say no"), text("I say yes", "I say no", "Q")])
    first, second, third = found["verdict_hash"].to_pylist()
    assert first != second and first == third


def test_records_that_are_not_judged_go_by_label():
    first, second, other = signed([judged("one"), judged("two"), judged("one", label="x")], ())[
        "verdict_hash"
    ].to_pylist()
    assert first == second != other
