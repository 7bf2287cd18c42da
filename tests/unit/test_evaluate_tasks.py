"""Rows, prompts, metrics and gates of an evaluation, with no model."""

import math

import pytest

from ftlib.config.evaluate import BaselineConfig, EvaluateConfig, GateConfig
from ftlib.config.loader import validate
from ftlib.core.errors import UserError
from ftlib.evaluate.gates import gates_of, judge
from ftlib.evaluate.report import build_report
from ftlib.evaluate.tasks import (
    Answer,
    EvalRow,
    baseline_question,
    choose_examples,
    compute_metrics,
    measured_metrics,
    rows_from_records,
    sample_rows,
)
from ftlib.text.metrics import Metric

PATTERN = r"category=(?P<category>\w+) priority=(?P<priority>\w+)"


def _config(**changes):
    values = {
        "model": {"source": "embedded:smollm2-135m"},
        "data": {"path": "/data"},
        "output": {"path": "/out"},
        "tasks": [{"kind": "answer", "pattern": PATTERN}, "perplexity"],
    }
    return validate(EvaluateConfig, values | changes)


def _row(i, category="a", system=None):
    question = [{"role": "system", "content": system}] if system else []
    question.append({"role": "user", "content": f"question {i}"})
    return EvalRow(f"id{i:03d}", tuple(question), f"category={category} priority=p{i % 2}", category)


def _answer(row, text, log_prob=-1.0, num_tokens=4):
    return Answer(row.id, text, "stop", "hash", log_prob, num_tokens)


def test_only_rows_that_end_in_an_answer_are_scored():
    def record(i, *roles):
        return {"id": str(i), "messages": [{"role": r, "content": f"{r} says"} for r in roles], "label": None}

    records = [
        record(0, "user", "assistant"),
        record(1, "user", "assistant", "user"),
        record(2, "assistant"),
        {"id": "3", "messages": None, "text": "plain", "label": None},
        record(4, "system", "user", "assistant", "user", "assistant"),
    ]
    rows = rows_from_records(records)
    assert [row.id for row in rows] == ["0", "4"]
    assert [m["role"] for m in rows[1].question] == ["system", "user", "assistant", "user"]


def test_the_sample_does_not_depend_on_order_and_grows_by_addition():
    rows = [_row(i) for i in range(50)]
    ten = {row.id for row in sample_rows(rows, 10, seed=1)}
    assert ten == {row.id for row in sample_rows(rows[::-1], 10, seed=1)}
    assert ten < {row.id for row in sample_rows(rows, 20, seed=1)}
    assert ten != {row.id for row in sample_rows(rows, 10, seed=2)}


def test_examples_show_different_labels():
    rows = [_row(i, category) for i, category in enumerate("aaaaaabbc" * 3)]
    assert {example.label for example in choose_examples(rows, 3, seed=0)} == set("abc")
    assert len(choose_examples(rows, 5, seed=0)) == 5
    assert choose_examples([], 3, seed=0) == []


def test_baseline_prompt_has_instruction_examples_and_question_in_order():
    config = BaselineConfig(instruction="One line.", num_examples=1)
    turns = baseline_question(_row(1, system="Triage."), [_row(2, "b", system="Triage.")], config)
    assert turns == [
        {"role": "system", "content": "Triage.\n\nOne line."},
        {"role": "user", "content": "question 2"},
        {"role": "assistant", "content": "category=b priority=p0"},
        {"role": "user", "content": "question 1"},
    ]


def test_metrics_by_hand():
    rows = [_row(0, "a"), _row(1, "a"), _row(2, "b"), _row(3, "b")]
    candidate = [
        _answer(rows[0], rows[0].reference),
        _answer(rows[1], "category=b priority=p1"),
        _answer(rows[2], rows[2].reference + "\n"),
        _answer(rows[3], "I think category=b"),
    ]
    baseline = [_answer(row, "no idea", log_prob=-2.0) for row in rows]
    metrics = compute_metrics(_config(), rows, {"candidate": candidate, "baseline": baseline})
    assert set(metrics) == set(measured_metrics(_config()))
    values = {name: metric.value for name, metric in metrics.items()}
    assert values["exact_match"] == 0.5 and values["baseline_exact_match"] == 0.0 and values["exact_match_gain"] == 0.5
    assert values["format_compliance"] == 0.75 and values["baseline_format_compliance"] == 0.0
    # a: 1 hit of 2, no false alarm; b: 1 hit of 2, one false alarm
    assert values["f1_category"] == pytest.approx((2 * 1 / (2 + 1) + 2 * 1 / (2 + 2)) / 2)
    assert values["perplexity"] == pytest.approx(math.exp(1 / 4))
    assert values["perplexity_gain"] == pytest.approx(math.exp(2 / 4) - math.exp(1 / 4))
    for metric in metrics.values():
        assert metric.low <= metric.value <= metric.high and metric.n == 4
    assert metrics["f1_category"].details["classes"]["b"]["precision"] == 0.5


def test_perplexity_skips_rows_that_one_system_could_not_score():
    rows = [_row(0), _row(1)]
    candidate = [_answer(rows[0], "x", -1.0), _answer(rows[1], "x", -100.0)]
    baseline = [_answer(rows[0], "x", -1.0), _answer(rows[1], "x", None, 0)]
    metrics = compute_metrics(_config(), rows, {"candidate": candidate, "baseline": baseline})
    assert metrics["perplexity"].n == 1 and metrics["perplexity"].value == pytest.approx(math.exp(1 / 4))


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ({"min": 0.7}, True),
        ({"min": 0.71}, False),  # the value is above, the safe end is not
        ({"max": 0.9}, True),
        ({"max": 0.85}, False),
        ({"min": 0.5, "max": 0.95}, True),
    ],
)
def test_gates_look_at_the_safe_end(gate, passed):
    metrics = {"exact_match": Metric(0.8, 0.7, 0.9, 100)}
    (verdict,) = judge([GateConfig(metric="exact_match", **gate)], metrics)
    assert verdict["passed"] is passed
    assert (verdict["value"], verdict["low"], verdict["high"]) == (0.8, 0.7, 0.9)


def test_a_tie_is_no_gain():
    tie, gain = Metric(0.0, 0.0, 0.0, 9), Metric(0.2, 0.01, 0.4, 9)
    gates = [GateConfig(metric="exact_match_gain", min=0.0)]
    assert [judge(gates, {"exact_match_gain": m})[0]["passed"] for m in (tie, gain)] == [False, True]


def test_what_was_not_measured_passes_no_gate():
    assert [v["passed"] for v in judge([GateConfig(metric="f1_x")], {})] == [False]
    assert [v["passed"] for v in judge([GateConfig(metric="f1_x")], {"f1_x": Metric(0, 0, 0, 0)})] == [False]


def test_gates_on_unknown_metrics():
    config = _config(gates=[{"metric": "exact_matc", "min": 0.5}])
    with pytest.raises(UserError, match=r"exact_matc is not measured.*exact_match"):
        gates_of(config, measured_metrics(config))
    no_baseline = _config(baseline={"enabled": False})
    assert gates_of(no_baseline, measured_metrics(no_baseline)) == [], "a default gate is dropped, not an error"


def test_a_task_is_named_once():
    with pytest.raises(UserError, match="each kind of task once"):
        _config(tasks=["answer", "answer"])


def test_report_escapes_what_models_say():
    row = EvalRow("id", ({"role": "user", "content": "<script>alert(1)</script>"},), "category=a priority=p0")
    answers = {"candidate": [_answer(row, "<img src=x>")], "baseline": [_answer(row, "b")]}
    metrics = compute_metrics(_config(), [row], answers)
    page = build_report({"model": "m"}, metrics, judge([], metrics), [row], answers)
    assert "<script>" not in page and "<img" not in page and "&lt;img src=x&gt;" in page
    assert "http" not in page.replace("http-equiv", ""), "the page must open offline"
