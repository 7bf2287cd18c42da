"""The rule of promotion, as a table."""

import pytest

from ftlib.registry.candidate import Run
from ftlib.registry.promotion import describe_gate, refusals

SHA = "a" * 64
BASE = "b" * 64
RUN = Run("/runs/r1", "r1", "adapter", SHA, "m", BASE, chat_template=None, dataset=None, val_loss=0.5)
GATE = {
    "metric": "exact_match_gain",
    "min": 0.0,
    "max": None,
    "value": 0.7,
    "low": 0.6,
    "high": 0.8,
    "passed": True,
}


def evaluation(**model):
    return {"model": {"adapter_sha256": SHA, "base_fingerprint": BASE, **model}}


@pytest.mark.parametrize(
    ("scored", "gates", "reason"),
    [
        (evaluation(), [GATE], None),
        (evaluation(), [GATE, {**GATE, "metric": "f1"}], None),
        (evaluation(adapter_sha256=None, result_sha256=SHA), [GATE], None),
        # A full fine-tune is its own base: the base's fingerprint is not the one it was trained on.
        (evaluation(adapter_sha256=None, result_sha256=SHA, base_fingerprint="c" * 64), [GATE], None),
        (evaluation(adapter_sha256="c" * 64), [GATE], "another model"),
        (evaluation(adapter_sha256=None), [GATE], "base model"),
        ({}, [GATE], "base model"),
        (evaluation(base_fingerprint="c" * 64), [GATE], "trained on"),
        (evaluation(), [], "no gate"),
        (evaluation(), [GATE, {**GATE, "passed": False, "low": -0.1}], "exact_match_gain"),
        (evaluation(), [{**GATE, "passed": None}], "exact_match_gain"),
        (evaluation(), [{"metric": "f1", "min": 0.5}], "not measured"),
    ],
)
def test_rule(scored, gates, reason):
    reasons = refusals(RUN, scored, gates)
    if reason is None:
        assert reasons == []
    else:
        assert len(reasons) == 1
        assert reason in reasons[0]


def test_every_reason_is_given():
    reasons = refusals(RUN, evaluation(adapter_sha256="c" * 64, base_fingerprint="d" * 64), [{**GATE, "passed": False}])
    assert len(reasons) == 3


def test_a_failed_gate_names_value_interval_and_limit():
    line = describe_gate({**GATE, "value": 0.12, "low": -0.03, "high": 0.27, "max": 0.9})
    assert line == "gate exact_match_gain: 0.12 (95 % interval -0.03 to 0.27), needed at least 0 and at most 0.9"
