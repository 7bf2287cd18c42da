"""Presidio recognizers made of expressions.

Context stands in an expression itself, as whole words, so a finding's score is final and no second pass over the
neighbouring tokens is needed. Most expressions match no text: `PiiAnalyzer` asks a `Prefilter` which ones to run.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftlib.text.pii.finding import Finding
from ftlib.text.pii.presidio import LocalRecognizer, RecognizerResult

NAME_KEY = RecognizerResult.RECOGNIZER_NAME_KEY
ID_KEY = RecognizerResult.RECOGNIZER_IDENTIFIER_KEY


class ExpressionRecognizer(LocalRecognizer):  # type: ignore[misc]
    """A recognizer that finds something only where one of its expressions matches; works in any `AnalyzerEngine`.

    Args:
        expressions: entity and expression, in an order that `find` knows.
    """

    only_uncovered = False
    """Whether it need not run where other recognizers' findings cover all that its expressions match."""

    def __init__(self, name: str, expressions: Iterable[tuple[str, re.Pattern[str]]], language: str) -> None:
        self.expressions = tuple(expressions)
        entities = sorted({entity for entity, _ in self.expressions})
        super().__init__(supported_entities=entities, name=name, supported_language=language)

    def load(self) -> None:
        """Nothing to load."""

    def reading(self, language: str) -> "ExpressionRecognizer":
        """What finds values in texts of a language; itself, where all texts are the same to it."""
        return self

    @abstractmethod
    def find(self, text: str, numbers: Iterable[int]) -> Iterator[Finding]:
        """What the expressions with these numbers find; the others are known not to match."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        """Results of every expression whose entity is asked for."""
        numbers = [n for n, (entity, _) in enumerate(self.expressions) if not entities or entity in entities]
        return [result(self, item.entity, item.start, item.end, item.score) for item in self.find(text, numbers)]


@dataclass(frozen=True)
class Rule:
    """One expression. The finding is the group `v` where there is one, else the whole match."""

    entity: str
    pattern: re.Pattern[str]
    score: float
    accept: Callable[[str], bool] | None = None
    """A test on the value found: a checksum, a number of digits."""
    where: Callable[[re.Match[str]], bool] | None = None
    """A test on the place of the value in its text."""
    group: str | int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", "v" if "v" in self.pattern.groupindex else 0)

    def find(self, text: str) -> Iterator[Finding]:
        """The values in a text."""
        for match in self.pattern.finditer(text):
            start, end = match.span(self.group)
            accepted = self.accept is None or self.accept(text[start:end])
            if start < end and accepted and (self.where is None or self.where(match)):
                yield Finding(start, end, self.entity, self.score)


class RuleRecognizer(ExpressionRecognizer):
    """A recognizer over a list of rules."""

    def __init__(self, name: str, rules: Sequence[Rule], language: str = "en") -> None:
        self.rules = tuple(rules)
        super().__init__(name, [(rule.entity, rule.pattern) for rule in rules], language)

    def find(self, text: str, numbers: Iterable[int]) -> Iterator[Finding]:
        """What the rules with these numbers find."""
        for number in numbers:
            yield from self.rules[number].find(text)


def result(recognizer: LocalRecognizer, entity: str, start: int, end: int, score: float) -> RecognizerResult:
    """A Presidio result with the metadata that its engine expects."""
    return RecognizerResult(entity, start, end, score, None, {NAME_KEY: recognizer.name, ID_KEY: recognizer.id})


def compile_rule(pattern: str, flags: int = re.IGNORECASE | re.ASCII) -> re.Pattern[str]:
    """A pattern in verbose syntax; letters of other scripts than ASCII are boundaries to it unless `flags` say more."""
    return re.compile(pattern, flags | re.VERBOSE)


def num_digits(value: str) -> int:
    """How many characters are digits."""
    return sum(map(str.isdigit, value))


def digits_between(low: int, high: int) -> Callable[[str], bool]:
    """Accepts values with `low` … `high` digits."""
    return lambda value: low <= num_digits(value) <= high
