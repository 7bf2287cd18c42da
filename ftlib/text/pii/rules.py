"""Presidio recognizers made of rules: a regular expression, what gates it, and what a match must satisfy.

A gate is a test on the text that costs far less than the expression (a digit, an "@", one of a few words, a shorter
expression); it never changes a result, only saves the scan. Context stands in the expression itself, as whole words, so
a rule's score is final and no second pass over the neighbouring tokens is needed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from presidio_analyzer import LocalRecognizer, RecognizerResult

NAME_KEY = RecognizerResult.RECOGNIZER_NAME_KEY
ID_KEY = RecognizerResult.RECOGNIZER_IDENTIFIER_KEY


@dataclass(frozen=True)
class Rule:
    """One expression. The finding is the group `v` where there is one, else the whole match."""

    entity: str
    pattern: re.Pattern[str]
    score: float
    needs: tuple[str, ...] = ()
    """Lower-case strings of which the lower-cased text must hold one; empty: no such gate."""
    needs_digit: bool = False
    accept: Callable[[str], bool] | None = None
    """A test on the value found: a checksum, a number of digits."""
    where: re.Pattern[str] | None = None
    """A cheaper expression that occurs in every text in which the rule's own does."""
    group: str | int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", "v" if "v" in self.pattern.groupindex else 0)

    def may_match(self, text: str, lowered: str, has_digit: bool) -> bool:
        """Whether a text passes the gates."""
        if self.needs_digit and not has_digit:
            return False
        if self.needs:
            # A loop: `any` over a generator costs twice as much, and most of a scan is gates.
            for word in self.needs:
                if word in lowered:
                    break
            else:
                return False
        return self.where is None or self.where.search(text) is not None

    def find(self, text: str, lowered: str, has_digit: bool) -> Iterator[tuple[int, int]]:
        """Spans of the values in a text."""
        if self.may_match(text, lowered, has_digit):
            yield from self.matches(text)

    def matches(self, text: str) -> Iterator[tuple[int, int]]:
        """Spans of the values in a text that passed the gates."""
        for match in self.pattern.finditer(text):
            start, end = match.span(self.group)
            if start < end and (self.accept is None or self.accept(text[start:end])):
                yield start, end


class RuleRecognizer(LocalRecognizer):  # type: ignore[misc]
    """A Presidio recognizer over a list of rules; it works in any `AnalyzerEngine`, too."""

    def __init__(self, name: str, rules: Sequence[Rule], language: str = "en") -> None:
        self.rules = tuple(rules)
        self._without_digits = tuple(rule for rule in rules if not rule.needs_digit)
        entities = sorted({rule.entity for rule in self.rules})
        super().__init__(supported_entities=entities, name=name, supported_language=language)

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        """Results of every rule whose entity is asked for."""
        wanted = set(entities) if entities else set(self.supported_entities)
        lowered, has_digit = looked_at(text)
        rules = self.rules if has_digit else self._without_digits
        return [
            result(self, rule.entity, start, end, rule.score)
            for rule in rules
            if rule.entity in wanted and rule.may_match(text, lowered, has_digit)
            for start, end in rule.matches(text)
        ]


@lru_cache(maxsize=4)
def looked_at(text: str) -> tuple[str, bool]:
    """The lower-cased text and whether it holds a digit: every recognizer of a text asks for them in turn."""
    return text.lower(), _DIGIT.search(text) is not None


_DIGIT = re.compile(r"\d")


def result(recognizer: LocalRecognizer, entity: str, start: int, end: int, score: float) -> RecognizerResult:
    """A Presidio result with the metadata that its engine expects."""
    return RecognizerResult(entity, start, end, score, None, {NAME_KEY: recognizer.name, ID_KEY: recognizer.id})


def compile_rule(pattern: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    """A pattern in verbose syntax."""
    return re.compile(pattern, flags | re.VERBOSE)


def num_digits(value: str) -> int:
    """How many characters are digits."""
    return sum(map(str.isdigit, value))


def digits_between(low: int, high: int) -> Callable[[str], bool]:
    """Accepts values with `low` … `high` digits."""
    return lambda value: low <= num_digits(value) <= high
