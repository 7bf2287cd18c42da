"""Takes findings out of a record's texts.

A `Replacer` works on all fields of one record at once, so that `numbered` and `surrogate` are consistent inside it.
Nothing is stored between records: equal values give equal surrogates because both come from the same keyed hash.
"""

from collections.abc import Sequence

from ftlib.text.pii.finding import Finding
from ftlib.text.pii.surrogate import Surrogates

MODES = ("token", "numbered", "surrogate", "mask", "drop")
Field = tuple[str, Sequence[Finding]]


class Replacer:
    """Replaces findings in one of the modes of `pii.replacement`.

    `drop` leaves dropping the record to the caller; its texts are cleaned like `token`, so that nothing leaks where a
    caller forgets.
    """

    def __init__(self, mode: str, key: bytes) -> None:
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
        self._mode = mode
        self._surrogates = Surrogates(key) if mode == "surrogate" else None

    def replace_record(self, fields: Sequence[Field], subject: str = "") -> list[tuple[str, list[str]]]:
        """For each field its new text and the replacement of each finding, in the order of the findings.

        Args:
            fields: Texts with their findings, which must be sorted and disjoint (as `PiiAnalyzer` gives them).
            subject: The data subject's key: dates of one subject shift by one offset.

        Raises:
            ValueError: A finding lies outside its text or overlaps the one before it.
        """
        numbers: dict[str, dict[str, int]] = {}
        return [self._replace(text, findings, numbers, subject) for text, findings in fields]

    def _replace(
        self, text: str, findings: Sequence[Finding], numbers: dict[str, dict[str, int]], subject: str
    ) -> tuple[str, list[str]]:
        parts: list[str] = []
        replacements: list[str] = []
        position = 0
        for finding in findings:
            if not position <= finding.start < finding.end <= len(text):
                raise ValueError(f"findings must be sorted, disjoint and inside the text of {len(text)} characters")
            replacement = self._replacement(text[finding.start : finding.end], finding.entity, numbers, subject)
            parts += [text[position : finding.start], replacement]
            replacements.append(replacement)
            position = finding.end
        return "".join([*parts, text[position:]]), replacements

    def _replacement(self, value: str, entity: str, numbers: dict[str, dict[str, int]], subject: str) -> str:
        if self._surrogates is not None:
            return self._surrogates.make(entity, value, subject)
        if self._mode == "mask":
            return "".join(character if character.isspace() else "*" for character in value)
        if self._mode == "numbered":
            known = numbers.setdefault(entity, {})
            number = known.setdefault(" ".join(value.casefold().split()), len(known) + 1)
            return f"[{entity}_{number}]"
        return f"[REDACTED_{entity}]"
