"""Recognizers for calendar dates, dates of birth and ages over 89 (HIPAA Safe Harbor), in many languages at once.

Only dates that fix a day or month are found: "yesterday", "two weeks" and a bare year identify nobody.
"""

import re

from ftlib.text.pii.labels import BIRTH_LABELS
from ftlib.text.pii.letters import IN_MARKDOWN, LABEL_END, WORD
from ftlib.text.pii.months import alternatives, month_names
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import Rule, RuleRecognizer

_MONTH = (
    r"(?:jan(?:uary|\.)?|feb(?:ruary|\.)?|mar(?:ch|\.)?|apr(?:il|\.)?|may|june?|july?|aug(?:ust|\.)?|sept?(?:ember|"
    r"\.)?|oct(?:ober|\.)?|nov(?:ember|\.)?|dec(?:ember|\.)?)"
)
_TIME = r"(?:[T ,]\s?\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?\s?(?:[ap]m)?\s?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?"
_YEAR = r"(?:1[89]|20)\d{2}"
# An underscore may stand beside a date as emphasis; within a name (`backup_2024-01-12`) a date tells of no one.
_BEFORE, _BEHIND = rf"(?<![A-Za-z0-9./-]){IN_MARKDOWN[0]}", rf"(?![A-Za-z0-9/-]){IN_MARKDOWN[1]}"
_ISO = rf"{_BEFORE}{_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])(?!\d){_TIME}{_BEHIND}"
_NUMERIC = (
    rf"{_BEFORE}(?:(?:0?[1-9]|1[0-2])([-/.])(?:0?[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|"
    rf"1[0-2]))(?:\1|\2)(?:{_YEAR}|\d{{2}})(?!\d){_TIME}{_BEHIND}(?!\.\d)"
)
_SPACED_DOTS = rf"(?<![\w./-])(?:0?[1-9]|[12]\d|3[01])\.[ ](?:0?[1-9]|1[0-2])\.[ ]?{_YEAR}(?!\w)"
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

# Dates with the names of months of all languages. The year may be one of the Buddhist or Persian calendar.
_ANY_YEAR = r"(?:1[3-9]|2[0-5])\d\d"
_DAY = r"(?<![0-9A-Za-z_.,/-])(?:[0-3]?\d)(?!\d)"
_ORDINAL = r"(?:\.|er|re|e|º|ª|°|o|-?го|-?е)?"
_OF = r"(?:\s{1,3}(?:de|di|do|del|d'|d|av)\b'?|[./-])?"
_IN_YEAR = (
    rf"(?:\.?[\s,./-]{{1,3}}(?:(?:de|del|do|dal|van|von|roku)\s)?{_ANY_YEAR}(?!\d)"
    r"(?:\s?(?:г\.?|года?|р\.|року|r\.)(?![а-я]))?)"
)
_CJK_DIGIT = r"[\d〇零一二三四五六七八九十]"
_CJK_ERA = r"(?:昭和|平成|令和|大正|明治|民国|民國)"
_CJK_DATE = (
    rf"(?:(?:(?:西元|公元)?{_CJK_DIGIT}{{4}}|{_CJK_ERA}\s?(?:{_CJK_DIGIT}{{1,3}}|元))\s?[年년]\s?)?"
    rf"(?<!\d){_CJK_DIGIT}{{1,3}}\s?[月월]\s?{_CJK_DIGIT}{{1,3}}\s?[日号號일]|"
    rf"(?<!\d)(?:{_CJK_DIGIT}{{4}}|{_CJK_ERA}\s?(?:{_CJK_DIGIT}{{1,3}}|元))"
    rf"\s?[年년]\s?{_CJK_DIGIT}{{1,2}}\s?[月월](?!\s?\d)"
)
_VIETNAMESE = rf"(?:ngày\s)?(?<!\d)\d{{1,2}}\stháng\s\d{{1,2}}(?:,?\s(?:năm\s)?{_YEAR})?"
_JALALI = r"(?<![\d/])1[34]\d\d/\d{1,2}/\d{1,2}(?![\d/])"


def _foreign_dates() -> dict[str, str]:
    sure, doubtful = map(alternatives, month_names())
    month, any_month = rf"(?:{sure})", rf"(?:{sure}|{doubtful})"
    gap = rf"{_ORDINAL}{_OF}\s{{0,3}}"
    return {
        "day_month": rf"{_DAY}{gap}(?<=[^A-Za-z0-9]){month}(?![{WORD}]){_IN_YEAR}?",
        "day_any_month_year": rf"{_DAY}{gap}(?<=[^A-Za-z0-9]){any_month}(?![{WORD}]){_IN_YEAR}",
        "month_year": rf"(?<![{WORD}]){month}(?![{WORD}])\s(?:(?:de|del|do)\s)?{_ANY_YEAR}(?!\d)",
        "year_month_day": rf"(?<!\d){_YEAR}\.?\s{month}(?![{WORD}])\s\d{{1,2}}(?!\d)\.?",
        "cjk": _CJK_DATE,
        "vietnamese": _VIETNAMESE,
        "jalali": _JALALI,
    }


def _birth_of_all(gap: str) -> str:
    """A date behind a label of birth; `gap`: what stands between them."""
    # Behind such a label any word between a day and a year is a month.
    written = rf"\d{{1,2}}{_ORDINAL}{_OF}\s{{0,3}}[^\W\d_]{{2,16}}{_IN_YEAR}"
    numeric = r"\d{1,4}[-/. ]{1,2}\d{1,2}[-/. ]{1,2}\d{1,4}|\d{8}(?!\d)"
    return (
        rf"(?<![{WORD}])(?:{BIRTH_LABELS}){LABEL_END}['\"]?{gap}(?:(?:am|le|el|il|em|op|den|dnia|в)\s)?['\"]?"
        rf"(?P<v>{written}|{numeric}|{_CJK_DATE})"
    )


def date_recognizers(language: str) -> list[LocalRecognizer]:
    """Dates and ages over 89."""

    def rule(entity: str, pattern: str, score: float, flags: int = re.IGNORECASE | re.ASCII) -> Rule:
        return Rule(entity, re.compile(pattern, flags), score)

    rules = [
        rule("DATE_TIME", _ISO, 0.8),
        rule("DATE_TIME", _NUMERIC, 0.75),
        rule("DATE_TIME", _SPACED_DOTS, 0.75),
        rule("DATE_TIME", _DAY_FIRST, 0.75),
        rule("DATE_TIME", _MONTH_FIRST, 0.75),
        rule("DATE_TIME", _MONTH_YEAR, 0.7),
        rule("DATE_TIME", _LOG, 0.85),
        rule("DATE_OF_BIRTH", _BIRTH, 0.95),
        rule("DATE_OF_BIRTH", _birth_of_all(r"[\s:=,(-]{1,4}"), 0.95, re.IGNORECASE),
        rule("DATE_TIME", _birth_of_all(""), 0.75, re.IGNORECASE),
        rule("AGE", _AGE, 0.8),
        rule("AGE", _YEARS_OLD, 0.85),
        *(rule("DATE_TIME", pattern, 0.75, re.IGNORECASE) for pattern in _foreign_dates().values()),
    ]
    return [RuleRecognizer("DateRecognizer", rules, language)]
