"""Finds personal and secret values in texts.

In: texts (str). Out: for each, `Finding`s that are sorted and disjoint, with offsets in characters. Everything is
matched on a folded copy (`fold`), the user's own patterns and lists too, and placed back in the text as written. Two
sources: rules (Presidio recognizers, gated) and an NER engine for names, which sees long texts in windows. Names found
once in a text are found again at their other places in it. What a text's findings are depends on the text and the
configuration alone, never on its batch.

Cost, measured on one core of a busy machine, tickets of 300 characters: .4 ms for the rules (2.5 without their
prefilter); 6.5 ms for the small English pipeline with tickets of 180.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from ftlib.config.prepare import PiiConfig
from ftlib.core.fingerprints import package_versions
from ftlib.text.pii.address import address_recognizers
from ftlib.text.pii.contact import contact_recognizers
from ftlib.text.pii.credentials import credential_recognizers
from ftlib.text.pii.dates import date_recognizers
from ftlib.text.pii.elements import NamedValueRecognizer
from ftlib.text.pii.engines import NerEngines
from ftlib.text.pii.finding import Finding, merge_findings
from ftlib.text.pii.fold import Folded, fold, folded
from ftlib.text.pii.honorifics import honorific_rules
from ftlib.text.pii.labelled import labelled_recognizers
from ftlib.text.pii.letters import alone
from ftlib.text.pii.names import name_recognizers
from ftlib.text.pii.national import national_recognizers
from ftlib.text.pii.ner import plausible
from ftlib.text.pii.numbers import number_recognizers
from ftlib.text.pii.prefilter import Prefilter
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.profiles import needs_ner, profile_entities
from ftlib.text.pii.proven import proven_recognizers
from ftlib.text.pii.rules import ExpressionRecognizer, Rule, RuleRecognizer
from ftlib.text.pii.salutations import salutation_rules
from ftlib.text.pii.terms import is_common, is_plain
from ftlib.text.pii.windows import find_names

_MIN_ECHO_CHARS = 3


def build_recognizers(language: str = "en", regions: Sequence[str] = ("US", "GB")) -> list[LocalRecognizer]:
    """All of this package's Presidio recognizers; they also work in Presidio's own `AnalyzerEngine`."""
    return [
        *contact_recognizers(language, regions),
        *number_recognizers(language),
        *proven_recognizers(language),
        *national_recognizers(language),
        *labelled_recognizers(language),
        *credential_recognizers(language),
        *date_recognizers(language),
        *address_recognizers(language),
        *name_recognizers(language),
        RuleRecognizer("SalutationRecognizer", [*salutation_rules(), *honorific_rules()], language),
        NamedValueRecognizer(language),
    ]


class PiiAnalyzer:
    """The findings of texts under one configuration.

    Raises UserError when an entity type is unknown or the NER pipeline is not installed.
    """

    def __init__(self, config: PiiConfig) -> None:
        self._config = config
        self._entities = profile_entities(config)
        recognizers = build_recognizers(config.language, config.regions) if self._entities else []
        own = _own_rules(config)
        if own:
            recognizers.append(RuleRecognizer("ConfiguredRecognizer", own, config.language))
        self._expressions = [
            (recognizer, number, pattern)
            for recognizer in recognizers
            if isinstance(recognizer, ExpressionRecognizer)
            for number, (entity, pattern) in enumerate(recognizer.expressions)
            if entity in self._entities
        ]
        self._prefilter = Prefilter([pattern for _, _, pattern in self._expressions])
        self._recognizers = [
            recognizer
            for recognizer in recognizers
            if not isinstance(recognizer, ExpressionRecognizer) and self._entities & set(recognizer.supported_entities)
        ]
        self._allowed = {_folded(value) for value in config.allow_list}
        self._ner = NerEngines(config, None if needs_ner(config, self._entities) else ())

    @property
    def entities(self) -> frozenset[str]:
        """The entity types that are looked for."""
        return self._entities

    @property
    def uses_ner(self) -> bool:
        """Whether names are found by a model, too."""
        return bool(self._ner)

    def reads(self, language: str | None) -> bool:
        """Whether an NER model reads texts in this language; None and `und` count as `pii.language`."""
        return self._ner.reads(self._ner.language(language))

    def accepts(self, text: str, finding: Finding) -> bool:
        """Whether a finding from elsewhere counts: its type is looked for, it is sure enough, and not allowed."""
        return finding.entity in self._entities and self._keep(text, finding)

    def versions(self) -> dict[str, str]:
        """The NER pipeline with its version, and the versions of the libraries that decide findings."""
        libraries = package_versions(("presidio-analyzer", "phonenumbers", "spacy"))
        return {"ner_model": self._ner.version, **libraries}

    def analyze(self, texts: Sequence[str], languages: Sequence[str | None] | None = None) -> list[list[Finding]]:
        """Findings of each text: sorted, disjoint, offsets in characters. Equal texts are analysed once.

        Args:
            texts: What to scan.
            languages: Language of each text; None and `und` count as `pii.language`. One that no NER model reads has
                rules alone.
        """
        spoken = [self._ner.language(language) for language in languages or [None] * len(texts)]
        keys = list(zip(texts, spoken, strict=True))
        found: dict[tuple[str, str], list[Finding]] = {}
        for language in sorted(set(spoken)):
            distinct = list(dict.fromkeys(text for text, own in keys if own == language and text and self._entities))
            copies = [fold(text) for text in distinct]
            named = find_names(partial(self._ner.find, language=language), [copy.prose for copy in copies])
            for text, copy, names in zip(distinct, copies, named, strict=True):
                found[text, language] = _placed(copy, self._combine(copy.text, names, language))
        return [list(found.get(key, [])) for key in keys]

    def _combine(self, text: str, named: Iterable[Finding], language: str) -> list[Finding]:
        candidates = [
            finding
            for finding in named
            if finding.entity in self._entities and not is_plain(text[finding.start : finding.end])
        ]
        for recognizer in self._recognizers:
            for item in recognizer.analyze(text, recognizer.supported_entities):
                candidates.append(Finding(item.start, item.end, item.entity_type, item.score))
        candidates.extend(self._matches(text, candidates, language))
        kept = [finding for finding in candidates if self._keep(text, finding)]
        further = [*_echoes(text, kept), *(_enumerated(text, kept) if "PERSON" in self._entities else ())]
        return merge_findings([*kept, *(finding for finding in further if self._keep(text, finding))])

    def _matches(self, text: str, named: Sequence[Finding], language: str) -> list[Finding]:
        """What the expressions find that the text can match at all."""
        asked: dict[ExpressionRecognizer, list[int]] = {}
        for place in self._prefilter.candidates(text):
            recognizer, number, _ = self._expressions[place]
            asked.setdefault(recognizer, []).append(number)
        found: list[Finding] = []
        for recognizer in sorted(asked, key=lambda recognizer: recognizer.only_uncovered):
            numbers = asked[recognizer]
            if recognizer.only_uncovered:
                patterns = [recognizer.expressions[number][1] for number in numbers]
                if not _any_uncovered(text, patterns, [*named, *found]):
                    continue
            found.extend(recognizer.reading(language).find(text, numbers))
        return found

    def _keep(self, text: str, finding: Finding) -> bool:
        if finding.score < self._config.score_threshold:
            return False
        return not self._allowed or _folded(text[finding.start : finding.end]) not in self._allowed


def _placed(copy: Folded, findings: list[Finding]) -> list[Finding]:
    """Findings in a folded copy, at their places in the original."""
    if copy.same_places:
        return findings
    spans = ((copy.span(finding.start, finding.end), finding) for finding in findings)
    return merge_findings(Finding(start, end, finding.entity, finding.score) for (start, end), finding in spans)


def _any_uncovered(text: str, patterns: Iterable[re.Pattern[str]], findings: Sequence[Finding]) -> bool:
    return any(
        not any(finding.start <= match.start() and match.end() <= finding.end for finding in findings)
        for pattern in patterns
        for match in pattern.finditer(text)
    )


def _folded(value: str) -> str:
    return " ".join(folded(value).casefold().split())


def _own_rules(config: PiiConfig) -> list[Rule]:
    """Rules from `pii.patterns` and `pii.deny_list`."""
    rules: list[Rule] = []
    for pattern in config.patterns:
        compiled = re.compile(pattern.regex)
        if compiled.groups and "v" not in compiled.groupindex:
            rules.append(_FirstGroup(pattern.entity, compiled, pattern.score))
        else:
            rules.append(Rule(pattern.entity, compiled, pattern.score))
    for entity, values in sorted(config.deny_list.items()):
        words = sorted((value for value in values if value.strip()), key=lambda value: (-len(value), value))
        if words:
            joined = "|".join(re.sub(r"(?:\\\s)+", r"\\s+", alone(folded(value).strip())) for value in words)
            rules.append(Rule(entity, re.compile(joined, re.IGNORECASE), 1.0))
    return rules


class _FirstGroup(Rule):
    """A rule of the user's own whose first group is the value."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", 1)


def _echoes(text: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Further places in the text of a person's name, or of a capitalised part of it, and of exact secrets."""
    scores: dict[tuple[str, str], float] = {}
    for finding in findings:
        value = text[finding.start : finding.end]
        if finding.entity == "PERSON":
            for part in {value, *re.findall(r"[^\W\d_][\w'’-]*", value)}:
                titled = _TITLES.fullmatch(part) or is_common(part)
                if len(part) >= _MIN_ECHO_CHARS and part[0].isupper() and not titled:
                    scores[part, "PERSON"] = max(scores.get((part, "PERSON"), 0.0), finding.score - 0.1)
        elif finding.entity in _EXACT_ECHO and len(value) >= 6:
            scores[value, finding.entity] = max(scores.get((value, finding.entity), 0.0), finding.score - 0.1)
    for (value, entity), score in sorted(scores.items()):
        if text.count(value) > 1 or entity == "PERSON":
            for match in re.finditer(alone(value), text):
                yield Finding(match.start(), match.end(), entity, round(score, 4))


def _enumerated(text: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Capitalised neighbours of a person in a list: `Eklund, Warren and Batista`."""
    for finding in findings:
        if finding.entity != "PERSON" or finding.score < _MIN_LIST_SCORE:
            continue
        position = finding.end
        while match := _NEXT_IN_LIST.match(text, position):
            if plausible("PERSON", match["v"]):
                yield Finding(*match.span("v"), "PERSON", 0.5)
            position = match.end()
        position = finding.start
        while match := _LAST_IN_LIST.search(text, max(0, position - 64), position):
            if match["comma"] and position == finding.start and _SENTENCE_START.search(text, 0, match.start("v")):
                break  # an address, as in "Thanks, David", and no list
            if plausible("PERSON", match["v"]):
                yield Finding(*match.span("v"), "PERSON", 0.5)
            position = match.start("v")


_MIN_LIST_SCORE = 0.6
_LISTED = r"(?P<v>[^\W\d_a-zß-öø-ÿ][^\W\d_]+(?:-[^\W\d_]+)?)"
_NEXT_IN_LIST = re.compile(rf"(?:,? (?:and|&|or)|,) {_LISTED}(?= ?(?:,|and\b|&|or\b|[.!?:;)\n]|$| [a-z]))")
_LAST_IN_LIST = re.compile(rf"(?<![\w.@'-]){_LISTED}(?:,? (?:and|&|or)|(?P<comma>,)) $")
_SENTENCE_START = re.compile(r"(?:^|[.!?:\n\"“(-])\s*\Z")
_EXACT_ECHO = {
    "USERNAME",
    "PASSWORD",
    "API_KEY",
    "ACCOUNT_NUMBER",
    "EMPLOYEE_ID",
    "MEDICAL_RECORD_NUMBER",
    "ORGANIZATION",
}
_TITLES = re.compile(
    r"(?i)(?:mr|mrs|ms|miss|mx|dr|doctor|prof|professor|sir|rev|nurse|judge|officer|captain|the|and|van|von|der|"
    r"herrn?|frau|monsieur|madame|señora?|signora?|heer|mevrouw|senhora?|pan|pani|panie|господин|госпожа)"
)
