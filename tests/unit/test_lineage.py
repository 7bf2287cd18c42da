"""Where a row came from and what touched it, also where ids repeat."""

import json

import pytest

from ftlib.core.errors import UserError
from ftlib.data.lineage import main, trace
from tests.prepared_case import hashed, row, write_case


@pytest.fixture
def dataset(tmp_path):
    rows = [
        row("a", 0, "train", "ann", findings=["EMAIL_ADDRESS", "PERSON", "PERSON"]),
        row("b", 10, "dropped", "bob", stage="dedup", reason="near_duplicate", keeper_id="a", score=0.75),
        row("same", 20, "dropped", "ann", stage="filter", reason="too_short", findings=["PERSON"]),
        row("same", 30, "test", "bob", findings=["URL", "URL"]),
        row("same", 40, "dropped", "bob", stage="dedup", reason="exact_duplicate", keeper_id="same", score=1.0),
        row("q", 50, "quarantine", "ann", error="empty_answer"),
    ]
    return str(write_case(tmp_path / "data", rows))


def test_a_kept_row_names_its_findings_and_what_was_dropped_for_it(dataset):
    found = trace(dataset, "a")
    assert found["rows"] == [
        {
            "source": "a.jsonl",
            "position": 0,
            "subject": hashed("ann"),
            "place": "train",
            "findings": [
                {"field": "text", "entity": "EMAIL_ADDRESS", "count": 1},
                {"field": "text", "entity": "PERSON", "count": 2},
            ],
        }
    ]
    assert found["duplicates"] == [{"id": "b", "source": "a.jsonl", "reason": "near_duplicate", "score": 0.75}]


def test_rows_that_share_an_id_keep_their_own_fates(dataset):
    rows = trace(dataset, "same")["rows"]
    assert [(r["position"], r["place"], r.get("reason"), r.get("keeper_id")) for r in rows] == [
        (20, "dropped", "too_short", None),
        (30, "test", None, None),
        (40, "dropped", "exact_duplicate", "same"),
    ]
    assert [[(f["entity"], f["count"]) for f in r["findings"]] for r in rows] == [[("PERSON", 1)], [("URL", 2)], []]


def test_quarantine_tells_the_error_and_unknown_ids_are_refused(dataset, capsys):
    assert trace(dataset, "q")["rows"][0]["error"] == "empty_answer"
    with pytest.raises(UserError, match="no row has this id"):
        trace(dataset, "nobody")
    assert main([dataset, "a"]) == 0
    assert json.loads(capsys.readouterr().out) == trace(dataset, "a")
    assert main([dataset]) == 2
