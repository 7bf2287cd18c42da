"""A place in a text that holds a personal or secret value, and how overlapping places become one."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """Characters `start` … `end` (exclusive) of a text, what they are, and how sure that is (0 … 1)."""

    start: int
    end: int
    entity: str
    score: float


def merge_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted, disjoint findings that cover every character which any of the given ones covers.

    Findings that overlap become one over their union, so that no part of a value stays behind. Its entity and score
    are those of the surest, then the longest of them; a tie goes to the first in the alphabet.
    """
    merged: list[Finding] = []
    best: Finding | None = None
    start = end = 0
    for finding in sorted(findings):
        if best is not None and finding.start < end:
            end = max(end, finding.end)
            best = min(best, finding, key=_rank)
            continue
        if best is not None:
            merged.append(Finding(start, end, best.entity, best.score))
        best, start, end = finding, finding.start, finding.end
    if best is not None:
        merged.append(Finding(start, end, best.entity, best.score))
    return merged


def _rank(finding: Finding) -> tuple[float, int, str]:
    return (-finding.score, finding.start - finding.end, finding.entity)
