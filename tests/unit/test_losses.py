"""Sources that lose much: what is counted, and how examples read. Presets of deduplication. Passages of common text."""

import numpy as np
import pyarrow as pa
import pytest

from ftlib.config.loader import validate
from ftlib.config.prepare import DedupConfig, PrepareConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.broken import BrokenRows, mostly_broken
from ftlib.data.common import passage
from ftlib.data.findings import loss_of, shared_text
from ftlib.data.losses import NUM_EXAMPLES, Lost, _example, first_difference, lost_rows
from ftlib.text.keyed import KeyedHash
from ftlib.text.minhash import shingle

KEY = b"k" * 32


def decided(rows):
    columns = [s.SOURCE, s.STAGE, s.REASON, s.ROW, s.KEEPER_ROW]
    return pa.table({name: [row[i] for row in rows] for i, name in enumerate(columns)})


def test_lost_rows_are_counted_by_source_and_add_up_in_any_order():
    rows = [("a", "dedup", "near_duplicate", number, 0) for number in range(9, 0, -1)]
    rows += [
        ("b", "dedup", "exact_duplicate", 20, 19),
        ("b", "review", "label_conflict", 21, 20),
        ("b", None, None, 22, 1),
    ]
    whole = lost_rows(decided(rows))
    assert whole.counts == {("a", "dedup", "near_duplicate"): 9, ("b", "dedup", "exact_duplicate"): 1}
    assert whole.first["a", "dedup", "near_duplicate"] == [(1, 0), (2, 0), (3, 0)]
    parts = [lost_rows(decided(rows[i::3])) for i in range(3)]
    assert sum(parts, Lost()) == sum(reversed(parts), Lost()) == whole
    assert len(whole.first["a", "dedup", "near_duplicate"]) == NUM_EXAMPLES


def test_a_pair_is_shown_where_it_differs():
    texts = {1: "same words " * 30 + "left end", 2: "same words " * 30 + "right end"}
    shown = _example(1, 2, texts, {0: "file.jsonl"})
    assert "left end" in shown and "right end" in shown and len(shown) < 400
    assert shown.startswith("file.jsonl:1") and "file.jsonl:2" in shown
    assert first_difference("abc", "abd") == 2 and first_difference("ab", "abc") == 2


def test_a_record_that_was_not_scanned_is_named_by_its_place():
    assert _example(1, 2, {1: "text"}, {0: "file"}) == "file:1 and file:2"
    assert _example(1, -1, {}, {0: "file"}) == "file:1"
    assert _example(1, -1, {1: "too short"}, {0: "file"}) == "file:1 “too short”"


def test_a_large_loss_is_a_high_finding():
    loss = {
        "source": "a",
        "stage": "dedup",
        "reason": "near_duplicate",
        "num_rows": 40,
        "num_in": 100,
        "examples": ["x"],
    }
    found = loss_of(loss)
    assert found["severity"] == "high" and "40%" in found["title"] and found["examples"] == ["x"]
    assert "keep_variants" in found["fix"]
    assert "filter.*" in loss_of({**loss, "stage": "filter", "reason": "too_short"})["fix"]


def test_a_passage_is_the_longest_run_of_common_text():
    text = "Ticket: the lamp broke. Choose Billing, where money was charged wrongly! Reset my phone now."
    common = np.unique(shingle(["choose billing where money was charged wrongly"], 5, KeyedHash(KEY, "token")).values)
    assert passage(text, common, KEY, 5) == "Choose Billing, where money was charged wrongly"
    assert passage("something else altogether in these words", common, KEY, 5) == ""
    long = " ".join(f"word{i}" for i in range(100))
    every = np.unique(shingle([long], 5, KeyedHash(KEY, "token")).values)
    assert passage(long, every, KEY, 5).endswith("…")
    assert shared_text({"source": "a", "num_rows": 3, "text": ""}) == "a, 3 records"


def test_keep_variants():
    config = DedupConfig.model_validate({"preset": "keep_variants"})
    assert (config.threshold, config.drop_above) == (0.85, 0.99)
    assert DedupConfig.model_validate(config.model_dump()) == config
    assert DedupConfig().threshold == 0.8


@pytest.mark.parametrize("other", [{"threshold": 0.8}, {"drop_above": 0.9}, {"action": "weight"}])
def test_keep_variants_excludes_other_values(other):
    values = {"input": {"paths": ["x"]}, "output": {"path": "y"}, "dedup": {"preset": "keep_variants", **other}}
    with pytest.raises(UserError, match="keep_variants"):
        validate(PrepareConfig, values)


def test_reasons_of_broken_rows_add_up_by_source_with_the_first_place_of_each():
    def read(source, *errors):
        rows = [(7 << s.ROW_POSITION_BITS) | position for position, _ in errors]
        table = pa.table({s.ROW: pa.array(rows, pa.uint64()), s.ERROR: pa.array([e for _, e in errors], pa.string()),
                          s.SOURCE: [source] * len(errors)})  # fmt: skip
        found = BrokenRows()
        found.add(table)
        return found

    parts = [read("a", (90, "bad_json"), (95, None), (99, "null_text")), read("a", (10, "bad_json")),
             read("b", (0, "null_text"))]  # fmt: skip
    expected = ["bad_json: 2 rows, the first at 10", "null_text: 1 rows, the first at 99"]
    assert BrokenRows.merge(parts).reasons_of("a") == BrokenRows.merge(parts[::-1]).reasons_of("a") == expected
    assert mostly_broken({"a": 3, "b": 1, "c": 2}, {"a": 4, "b": 1, "c": 4, "d": 9}) == ["a", "b"]
