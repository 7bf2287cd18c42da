"""Krippendorff's alpha for nominal labels: how far annotators agree beyond chance.

In: for each record the labels that its annotators gave. Out: alpha, 1 for perfect agreement, 0 for what chance gives,
below 0 for systematic disagreement. It needs no complete table: any number of annotators a record. The counts that it
is made of add up over records in any order (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

Pairs = Counter[tuple[int, str, str]]
"""(number of labels of the record, label, other label) → ordered pairs of labels within records."""


def label_pairs(labels: Sequence[str]) -> Pairs:
    """The ordered pairs of one record's labels; none below two labels, which say nothing about agreement."""
    pairs: Pairs = Counter()
    if len(labels) < 2:
        return pairs
    counts = Counter(labels)
    for one, n in counts.items():
        for other, m in counts.items():
            number = n * (m - 1) if one == other else n * m
            if number:
                pairs[len(labels), one, other] += number
    return pairs


def alpha(pairs: Pairs) -> float | None:
    """Krippendorff's alpha of all records' pairs; None without pairs or where only one label occurs."""
    coincidences: dict[tuple[str, str], Fraction] = {}
    totals: dict[str, Fraction] = {}
    for (size, one, other), number in pairs.items():
        weight = Fraction(number, size - 1)
        coincidences[one, other] = coincidences.get((one, other), Fraction(0)) + weight
        totals[one] = totals.get(one, Fraction(0)) + weight
    values = sum(totals.values(), Fraction(0))
    expected = values * values - sum((total * total for total in totals.values()), Fraction(0))
    if not expected:
        return None
    observed = sum((weight for (one, other), weight in coincidences.items() if one != other), Fraction(0))
    return float(1 - (values - 1) * observed / expected)


def annotations(value: object) -> list[str]:
    """Labels out of metadata: `{annotator: label}`, `[label, …]` or `[{"annotator": …, "label": …}, …]`."""
    found: Iterable[object] = ()
    if isinstance(value, dict):
        found = value.values()
    elif isinstance(value, list):
        found = (item.get("label") if isinstance(item, dict) else item for item in value)
    return [str(label) for label in found if isinstance(label, (str, int, float)) and str(label).strip()]
