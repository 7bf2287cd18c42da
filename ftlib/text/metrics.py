"""Scores of answers against references, each with a 95 % interval. NumPy alone, deterministic for a seed.

A `Metric` is a value, its interval and the number of rows behind it. Shares (exact match, format compliance) get
Wilson's score interval, which is right at 0 and 1 and for few rows. F1, perplexity and differences between two systems
on the same rows get percentile bootstrap intervals over rows (Efron, 1979); both systems are resampled together, which
is what makes a difference paired. Cost: resamples × rows × classes multiplications.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z95 = 1.959963984540054
NUM_RESAMPLES = 2000
_CHUNK = 250  # resamples at once: bounds the memory of the weights to 250 × rows


@dataclass(frozen=True)
class Metric:
    """`value` with its 95 % interval [`low`, `high`] over `n` rows; `details` is shown, never judged."""

    value: float
    low: float
    high: float
    n: int
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it stands in `metrics.json`."""
        return {"value": self.value, "interval": [self.low, self.high], "n": self.n, **self.details}


def normalise_answer(text: str) -> str:
    """Surrounding white space off, runs of it as one space."""
    return " ".join(text.split())


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Floats:
    """1.0 where an answer equals its reference up to white space, else 0.0; shape `[n]`."""
    pairs = zip(answers, references, strict=True)
    return np.array([normalise_answer(a) == normalise_answer(r) for a, r in pairs], dtype=np.float64)


def format_compliance(answers: Sequence[str], pattern: str) -> Floats:
    """1.0 where the answer, without surrounding white space, matches the pattern in full; shape `[n]`."""
    compiled = re.compile(pattern)
    return np.array([compiled.fullmatch(answer.strip()) is not None for answer in answers], dtype=np.float64)


def extract_fields(texts: Sequence[str], pattern: str) -> list[dict[str, str] | None]:
    """The named groups of each text, None where the pattern does not match in full; values stripped."""
    compiled = re.compile(pattern)
    matches = [compiled.fullmatch(text.strip()) for text in texts]
    return [match and {k: (v or "").strip() for k, v in match.groupdict().items()} for match in matches]


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    denominator = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / denominator
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / denominator
    # Exactly 0 and 1 at the ends, where rounding would put the value outside its interval.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def share_metric(scores: Floats) -> Metric:
    """The mean of 0/1 scores with Wilson's interval."""
    n = len(scores)
    low, high = wilson(float(scores.sum()), n)
    return Metric(float(scores.mean()) if n else 0.0, low, high, n)


class Resampler:
    """Bootstrap resamples of n rows, the same ones for every statistic: differences between them are paired."""

    def __init__(self, n: int, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> None:
        self.n, self._seed, self._num_resamples = n, seed, num_resamples

    def distribution(self, statistic: Callable[[Floats], Floats]) -> Floats:
        """Values of a statistic over the resamples.

        Args:
            statistic: from weights `[r, n]` (how often each row was drawn) to values `[r]`.
        """
        generator = np.random.default_rng(self._seed)
        parts = []
        for start in range(0, self._num_resamples, _CHUNK):
            size = min(_CHUNK, self._num_resamples - start)
            weights = generator.multinomial(self.n, np.full(self.n, 1 / self.n), size=size)
            parts.append(statistic(weights.astype(np.float64)))
        return np.concatenate(parts)

    def metric(self, statistic: Callable[[Floats], Floats], **details: Any) -> Metric:
        """A statistic on all rows with its percentile interval."""
        if self.n == 0:
            return Metric(0.0, 0.0, 0.0, 0, details)
        value = float(statistic(np.ones((1, self.n)))[0])
        low, high = np.quantile(self.distribution(statistic), [0.025, 0.975])
        return Metric(value, min(value, float(low)), max(value, float(high)), self.n, details)

    def difference(self, first: Callable[[Floats], Floats], second: Callable[[Floats], Floats]) -> Metric:
        """first − second on the same rows."""
        return self.metric(lambda weights: first(weights) - second(weights))


def mean_statistic(scores: Floats) -> Callable[[Floats], Floats]:
    """The weighted mean of scores `[n]`."""
    return lambda weights: np.asarray(weights @ scores / weights.sum(1))


def perplexity_statistic(log_probs: Floats, num_tokens: Floats) -> Callable[[Floats], Floats]:
    """exp(−Σ log-probability / Σ tokens): perplexity per token, long answers weighing more."""
    return lambda weights: np.exp(-(weights @ log_probs) / (weights @ num_tokens))


def macro_f1_statistic(predicted: Sequence[str | None], expected: Sequence[str]) -> Callable[[Floats], Floats]:
    """Mean F1 over the classes that occur in `expected`; None (no well-formed answer) is a miss and no false alarm.

    In a resample without a class, that class is left out of the mean.
    """
    classes = sorted(set(expected))
    truth = _one_hot(expected, classes)
    guess = _one_hot(predicted, classes)
    hits = truth * guess

    def statistic(weights: Floats) -> Floats:
        support, denominator = weights @ truth, weights @ (truth + guess)
        f1 = np.divide(2 * (weights @ hits), denominator, out=np.zeros_like(support), where=denominator > 0)
        present = support > 0
        return np.asarray((f1 * present).sum(1) / np.maximum(present.sum(1), 1))

    return statistic


def class_scores(predicted: Sequence[str | None], expected: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class in `expected`."""
    classes = sorted(set(expected))
    truth, guess = _one_hot(expected, classes), _one_hot(predicted, classes)
    hits, support, guessed = (truth * guess).sum(0), truth.sum(0), guess.sum(0)
    return {
        name: {
            "precision": float(hits[i] / guessed[i]) if guessed[i] else 0.0,
            "recall": float(hits[i] / support[i]),
            "f1": float(2 * hits[i] / (support[i] + guessed[i])),
            "support": int(support[i]),
        }
        for i, name in enumerate(classes)
    }


def _one_hot(labels: Sequence[str | None], classes: list[str]) -> Floats:
    column = {name: index for index, name in enumerate(classes)}
    encoded = np.zeros((len(labels), len(classes)))
    for row, label in enumerate(labels):
        if label in column:
            encoded[row, column[label]] = 1.0
    return encoded
