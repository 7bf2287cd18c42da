"""Metrics against scikit-learn, SciPy and brute force."""

import math

import numpy as np
import pytest

from ftlib.text.metrics import (
    Resampler,
    class_scores,
    exact_match,
    extract_fields,
    format_compliance,
    macro_f1_statistic,
    mean_statistic,
    perplexity_statistic,
    share_metric,
    wilson,
)

CLASSES = ["billing", "shipping", "account"]


@pytest.fixture
def labels():
    generator = np.random.default_rng(3)
    expected = [CLASSES[i] for i in generator.integers(0, 3, 80)]
    options = [*CLASSES, "a class of its own", None]
    predicted = [options[i] if generator.random() < 0.4 else e for i, e in zip(generator.integers(0, 5, 80), expected)]
    return predicted, expected


def test_exact_match_forgives_white_space_alone():
    answers = ["a  b\n", "a b", "A b", ""]
    assert exact_match(answers, ["a b", "a b", "a b", ""]).tolist() == [1, 1, 0, 1]


def test_format_must_match_in_full():
    pattern = r"x=(?P<x>\w+)"
    assert format_compliance(["x=1", " x=1\n", "x=1 y", "the x=1", ""], pattern).tolist() == [1, 1, 0, 0, 0]
    assert extract_fields(["x=1", "no"], pattern) == [{"x": "1"}, None]


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 23), (199, 200), (1, 1)])
def test_wilson_agrees_with_scipy(successes, n):
    from scipy.stats import binomtest

    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    low, high = wilson(successes, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert low <= successes / n <= high


def test_wilson_without_rows_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_macro_f1_agrees_with_scikit_learn(labels):
    from sklearn.metrics import f1_score

    predicted, expected = labels
    filled = [p or "<none>" for p in predicted]
    oracle = f1_score(expected, filled, labels=sorted(set(expected)), average="macro", zero_division=0)
    assert macro_f1_statistic(predicted, expected)(np.ones((1, 80)))[0] == pytest.approx(oracle)


def test_weights_mean_repeated_rows(labels):
    """A resample given as weights must equal scikit-learn on the rows written out."""
    from sklearn.metrics import f1_score

    predicted, expected = labels
    generator = np.random.default_rng(0)
    weights = generator.multinomial(80, np.full(80, 1 / 80), size=5)
    values = macro_f1_statistic(predicted, expected)(weights.astype(float))
    for value, weight in zip(values, weights):
        rows = np.repeat(np.arange(80), weight)
        true, guess = [expected[i] for i in rows], [predicted[i] or "<none>" for i in rows]
        assert value == pytest.approx(f1_score(true, guess, labels=sorted(set(true)), average="macro", zero_division=0))


def test_class_scores_agree_with_scikit_learn(labels):
    from sklearn.metrics import precision_recall_fscore_support

    predicted, expected = labels
    names = sorted(set(expected))
    filled = [p or "<none>" for p in predicted]
    oracle = precision_recall_fscore_support(expected, filled, labels=names, zero_division=0)
    scores = class_scores(predicted, expected)
    for i, name in enumerate(names):
        found = [scores[name][key] for key in ("precision", "recall", "f1", "support")]
        assert found == pytest.approx([column[i] for column in oracle])


def test_perplexity_is_per_token():
    log_probs, num_tokens = np.array([-2.0, -9.0]), np.array([2.0, 3.0])
    assert perplexity_statistic(log_probs, num_tokens)(np.ones((1, 2)))[0] == pytest.approx(math.exp(11 / 5))


def test_bootstrap_interval_of_a_mean_is_near_the_normal_one():
    scores = (np.random.default_rng(1).random(400) < 0.3).astype(float)
    metric = Resampler(400, seed=1).metric(mean_statistic(scores))
    half = 1.96 * scores.std() / 20
    assert metric.low == pytest.approx(scores.mean() - half, abs=0.01)
    assert metric.high == pytest.approx(scores.mean() + half, abs=0.01)


def test_paired_difference_is_narrower_than_an_unpaired_one():
    """Two systems that agree on most rows: pairing takes the rows' own spread out."""
    generator = np.random.default_rng(2)
    base = (generator.random(300) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:30]] = 1.0
    resampler = Resampler(300, seed=0)
    paired = resampler.difference(mean_statistic(better), mean_statistic(base))
    assert paired.value == pytest.approx(0.1)
    low, high = share_metric(base).low, share_metric(base).high
    assert 0 < paired.low < paired.high and paired.high - paired.low < (high - low)


def test_same_system_twice_differs_by_nothing():
    scores = np.array([1.0, 0.0, 1.0])
    metric = Resampler(3).difference(mean_statistic(scores), mean_statistic(scores))
    assert (metric.value, metric.low, metric.high) == (0.0, 0.0, 0.0)


def test_a_seed_gives_the_same_interval():
    scores = np.random.default_rng(4).random(50)
    first, again, other = (Resampler(50, seed=s).metric(mean_statistic(scores)) for s in (1, 1, 2))
    assert first == again
    assert first != other
