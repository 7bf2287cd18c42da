"""Review tasks and the decisions that come back: formats, malformed answers, and what they do to rows."""

import json

import numpy as np
import pyarrow as pa
import pytest

from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.review import (
    REVIEWED,
    Answer,
    Decision,
    Held,
    apply_decisions,
    apply_edits,
    as_task,
    read_decisions,
    resolve,
)

CHAT = [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "here"}]
RECORD = dict.fromkeys(REVIEWED) | {
    "id": "r1",
    "source": "a.jsonl",
    "position": 7,
    "reason": "label_conflict",
    "label": "x",
    "messages": CHAT,
    "metadata": '{"k": 1}',
}


def test_a_task_is_what_label_studio_imports():
    task = as_task(RECORD)
    assert set(task) == {"data", "predictions"}
    said = {key: value for key, value in RECORD.items() if value is not None}
    assert task["data"] == said | {"metadata": {"k": 1}}
    regions = task["predictions"][0]["result"]
    assert [(r["from_name"], r["to_name"], r["type"], r["value"]["text"]) for r in regions] == [
        ("answer", "record", "textarea", ["here"]),
        ("label", "record", "textarea", ["x"]),
    ]
    plain = as_task(RECORD | {"messages": None, "text": "only text", "label": None})
    assert plain["data"]["messages"] == [{"role": "text", "content": "only text"}]
    assert [r["value"]["text"] for r in plain["predictions"][0]["result"]] == [["only text"]]


def annotated(decision, **areas):
    regions = [{"from_name": "decision", "type": "choices", "value": {"choices": [decision]}}]
    regions += [{"from_name": name, "type": "textarea", "value": {"text": [text]}} for name, text in areas.items()]
    return {"id": 991, **as_task(RECORD), "annotations": [{"result": regions, "was_cancelled": False}]}


PLACE = ("a.jsonl", 7)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([annotated("accept", answer="here", label="x")], Answer("r1", PLACE, Decision("accept"))),
        ([annotated("edit", answer="there", label="x")], Answer("r1", PLACE, Decision("edit", answer="there"))),
        ([annotated("reject")], Answer("r1", PLACE, Decision("reject"))),
        (  # JSON-MIN: the task's number stands where the id was
            [{"id": 991, "source": "a.jsonl", "position": 7, "decision": "edit", "label": "y", "annotator": 1}],
            Answer("991", PLACE, Decision("edit", label="y")),
        ),
        ([{"id": "r1", "decision": "Accept"}], Answer("r1", None, Decision("accept"))),
        ([{"id": "r1", "decision": "edit", "text": "new"}], Answer("r1", None, Decision("edit", answer="new"))),
    ],
)
@pytest.mark.parametrize("lines", [True, False])
def test_every_format_is_read(tmp_path, items, expected, lines):
    path = tmp_path / "decisions"
    path.write_text("\n".join(map(json.dumps, items)) if lines else json.dumps(items, indent=1))
    assert read_decisions(str(path)) == [expected]


def test_undecided_tasks_stay_held(tmp_path):
    skipped = annotated("accept")
    skipped["annotations"][0]["was_cancelled"] = True
    untouched = {**as_task(RECORD | {"position": 8}), "annotations": []}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([skipped, untouched, annotated("reject")]))
    assert [answer.decision.verdict for answer in read_decisions(str(path))] == ["reject"]


def test_all_malformed_decisions_are_named_without_their_text(tmp_path):
    items = [
        {"id": "m1", "decision": "maybe secret"},
        {"id": "m2", "decision": "edit"},
        {"id": "m3", "decision": "edit", "answer": " "},
        {"id": "m4", "decision": "edit", "answer": {"secret": 1}},
        {"decision": "accept"},
        {"id": "m5", "decision": "accept"},
        {"id": "m5", "decision": "reject"},
        "secret",
        {"id": "good", "decision": "accept"},
    ]
    path = tmp_path / "decisions.jsonl"
    path.write_text("\n".join(map(json.dumps, items)))
    with pytest.raises(UserError, match="7 decisions are malformed") as caught:
        read_decisions(str(path))
    message = str(caught.value)
    assert all(name in message for name in ("m1", "m2", "m3", "m4", "m5", "number 5", "number 8"))
    assert "good" not in message and "secret" not in message
    path.write_text("{not json")
    with pytest.raises(UserError, match="neither a JSON list nor lines"):
        read_decisions(str(path))


HELD = Held(np.array([5, 9, 12], dtype=np.uint64), ["a", "twin", "twin"], np.array([5, 9, 9], dtype=np.uint64))


def test_answers_find_their_rows():
    ranks = {"first": 0, "second": 1}
    accept, reject = Decision("accept"), Decision("reject")
    answers = [Answer("a", None, accept), Answer("993", ("first", 9), reject), Answer("twin", ("first", 12), accept)]
    assert resolve(answers, HELD, ranks) == {5: accept, 9: reject, 12: accept}
    unknown = [Answer(f"u{n}", None, accept) for n in range(12)] + [Answer("gone", ("second", 9), accept)]
    with pytest.raises(UserError, match=r"13 ids are not among .* and 3 more"):
        resolve([*answers, *unknown], HELD, ranks)
    with pytest.raises(UserError, match="1 ids belong to several held rows: twin"):
        resolve([Answer("twin", None, accept)], HELD, ranks)
    with pytest.raises(UserError, match="z is decided twice"):
        resolve([Answer("a", None, accept), Answer("z", ("first", 5), reject)], HELD, ranks)


def table(schema, rows):
    return pa.Table.from_pylist(rows, schema=schema)


def test_edits_replace_the_last_answer_the_text_and_the_label():
    longer = [*CHAT, {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}]
    rows = [
        {s.ROW: 1, s.MESSAGES: longer, s.LABEL: "x"},
        {s.ROW: 2, s.TEXT: "old", s.LABEL: "x"},
        {s.ROW: 3, s.MESSAGES: CHAT, s.LABEL: "x"},
        {s.ROW: 4, s.MESSAGES: CHAT, s.LABEL: "x"},
    ]
    before = table(s.READ, rows)
    decisions = {
        1: Decision("edit", answer="no"),
        2: Decision("edit", answer="new", label="y"),
        3: Decision("accept", answer="not used"),
        99: Decision("edit", answer="elsewhere"),
    }
    after = apply_edits(before, decisions)
    assert after.schema == s.READ
    found = after.to_pylist()
    assert [turn["content"] for turn in found[0]["messages"]] == ["where?", "here", "sure?", "no"]
    assert (found[1]["text"], found[1]["label"], found[0]["label"]) == ("new", "y", "x")
    assert found[2:] == before.to_pylist()[2:]


def test_a_persons_word_stands_over_hold_and_filters_but_not_over_redaction():
    fates = [("review", "label_conflict"), ("filter", "too_short"), ("redact", "contains_pii"), (None, None)]
    rows = [{s.ROW: n, s.STAGE: stage, s.REASON: reason} for n, (stage, reason) in enumerate(fates)]
    after = apply_decisions(table(s.PROCESSED, rows), {n: Decision("accept") for n in range(3)})
    assert list(zip(after[s.STAGE].to_pylist(), after[s.REASON].to_pylist(), strict=True)) == [
        (None, None),
        (None, None),
        ("redact", "contains_pii"),
        (None, None),
    ]
    after = apply_decisions(table(s.PROCESSED, rows), {0: Decision("reject"), 3: Decision("reject")})
    assert after[s.REASON].to_pylist() == ["rejected", "too_short", "contains_pii", "rejected"]
