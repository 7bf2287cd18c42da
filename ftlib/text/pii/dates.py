"""Recognizers for calendar dates, dates of birth and ages over 89 (HIPAA Safe Harbor).

Only dates that fix a day or month are found: "yesterday", "two weeks" and a bare year identify nobody.
"""

import re

from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import Rule, RuleRecognizer

_MONTH = (
    r"(?:jan(?:uary|\.)?|feb(?:ruary|\.)?|mar(?:ch|\.)?|apr(?:il|\.)?|may|june?|july?|aug(?:ust|\.)?|sept?(?:ember|"
    r"\.)?|oct(?:ober|\.)?|nov(?:ember|\.)?|dec(?:ember|\.)?)"
)
_TIME = r"(?:[T ,]\s?\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?\s?(?:[ap]m)?\s?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?"
_YEAR = r"(?:1[89]|20)\d{2}"
_ISO = rf"(?<![\w./-]){_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])(?!\d){_TIME}(?![\w/-])"
_NUMERIC = (
    rf"(?<![\w./-])(?:(?:0?[1-9]|1[0-2])([-/.])(?:0?[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|"
    rf"1[0-2]))(?:\1|\2)(?:{_YEAR}|\d{{2}})(?!\d){_TIME}(?![\w/-]|\.\d)"
)
_DAY_FIRST = rf"(?<!\w)\d{{1,2}}(?:st|nd|rd|th)?[\s-](?:of\s)?{_MONTH}(?:,?[\s-]{_YEAR}|[\s-]\d{{2}})?\b{_TIME}"
_MONTH_FIRST = rf"(?<!\w){_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s{_YEAR})?(?![\w%])(?!\.\d|:\d){_TIME}"
_MONTH_YEAR = rf"(?<!\w){_MONTH},?\s{_YEAR}\b"
_BIRTH = (
    rf"\b(?:dob|d\.o\.b\.?|date of birth|birth[\s_-]?date|birthday|born(?:\son)?)['\"]?\s{{0,2}}(?:is|was|:|=|"
    rf"-)?\s{{0,2}}['\"]?(?P<v>\d{{1,4}}[-/. ]\d{{1,2}}[-/. ]\d{{1,4}}|\d{{8}}|(?:in\s)?{_YEAR}\b)"
)
_LOG = rf"(?<![\w/])\d{{1,2}}/{_MONTH}/{_YEAR}(?::\d{{2}}){{3}}(?:\s[+-]\d{{4}})?"
_OLD = r"(?:9\d|1[0-2]\d)"
_AGE = rf"\b(?:aged?|age\sof|turn(?:ed|ing|s)?)[\s:=]{{1,2}}(?P<v>{_OLD})\b(?!\s?(?:%|days?|hours?|minutes?))"
_YEARS_OLD = rf"\b(?P<v>{_OLD})[\s-]?(?:years?|yrs?|y)[\s./-]?(?:old|of\sage|o\b)"


def date_recognizers(language: str) -> list[LocalRecognizer]:
    """Dates and ages over 89."""

    def rule(entity: str, pattern: str, score: float) -> Rule:
        return Rule(entity, re.compile(pattern, re.IGNORECASE | re.ASCII), score)

    rules = [
        rule("DATE_TIME", _ISO, 0.8),
        rule("DATE_TIME", _NUMERIC, 0.75),
        rule("DATE_TIME", _DAY_FIRST, 0.75),
        rule("DATE_TIME", _MONTH_FIRST, 0.75),
        rule("DATE_TIME", _MONTH_YEAR, 0.7),
        rule("DATE_TIME", _LOG, 0.85),
        rule("DATE_OF_BIRTH", _BIRTH, 0.95),
        rule("AGE", _AGE, 0.8),
        rule("AGE", _YEARS_OLD, 0.85),
    ]
    return [RuleRecognizer("DateRecognizer", rules, language)]
