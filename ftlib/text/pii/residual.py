"""A second look at redacted text by a detector that shares no rule with `PiiAnalyzer`: Presidio as it comes.

It looks at the folded copy (`fold`), in which a blank stands between ASCII and letters of other scripts: Presidio's own
boundaries would hide a value that stands beside them. What its patterns miss by separators or language, `leads` adds.
In: a redacted text and the places of its replacements. Out: findings that lie mostly outside those places, under this
package's entity types, of the types that the profile redacts. Presidio's relative dates ("yesterday") and weak patterns
(below 0.5) are left out: they say nothing about leaks. A finding is a lead to follow, not proof; with a profile that
uses no NER Presidio runs on a blank pipeline, and so on patterns alone.

Cost: about three times that of the first scan, so `pii.residual_sample` bounds it.
"""

import re
from collections.abc import Sequence
from typing import Any

from ftlib.config.prepare import PiiConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import package_versions
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.fold import fold, folded, spaced
from ftlib.text.pii.leads import leads
from ftlib.text.pii.ner import resolve_pipeline
from ftlib.text.pii.profiles import needs_ner, profile_entities

_MIN_SCORE = 0.5
_ENTITIES = {
    "PERSON": "PERSON", "LOCATION": "LOCATION", "PHONE_NUMBER": "PHONE_NUMBER", "EMAIL_ADDRESS": "EMAIL_ADDRESS",
    "CREDIT_CARD": "CREDIT_CARD", "IBAN_CODE": "IBAN_CODE", "IP_ADDRESS": "IP_ADDRESS", "MAC_ADDRESS": "MAC_ADDRESS",
    "US_SSN": "US_SSN", "CRYPTO": "CRYPTO", "URL": "URL", "MEDICAL_LICENSE": "MEDICAL_LICENSE",
    "US_BANK_NUMBER": "ACCOUNT_NUMBER", "US_DRIVER_LICENSE": "DRIVER_LICENSE", "US_PASSPORT": "PASSPORT",
    "US_ITIN": "TAX_ID", "UK_NHS": "MEDICAL_RECORD_NUMBER", "DATE_TIME": "DATE_TIME",
}  # fmt: skip
_WRITTEN_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{2,4}")


class ResidualScanner:
    """Presidio's own `AnalyzerEngine`. Raises UserError when the profile's NER pipeline is not installed."""

    def __init__(self, config: PiiConfig) -> None:
        wanted = self._entities = profile_entities(config)
        self._language = config.language
        self._wanted = {name: entity for name, entity in _ENTITIES.items() if entity in wanted}
        self._allowed = {" ".join(folded(value).casefold().split()) for value in config.allow_list}
        package = _pipeline(config) if needs_ner(config, wanted) else None
        self._engine = _stock_engine(package, config.language)
        known = set(self._engine.get_supported_entities(language=config.language))
        self._asked = sorted(known & set(self._wanted))
        presidio = package_versions(("presidio-analyzer",))["presidio-analyzer"]
        self.version = f"presidio-analyzer {presidio}, {package or 'patterns alone'}"

    def scan(self, text: str, replaced: Sequence[tuple[int, int]] = ()) -> list[Finding]:
        """What still looks personal in a redacted text. `replaced`: places of its replacements, [start, end)."""
        if not text or not self._asked:
            return []
        copy = spaced(fold(text))
        seen = copy.text
        found = self._engine.analyze(seen, language=self._language, entities=self._asked, score_threshold=_MIN_SCORE)
        findings = [
            Finding(item.start, item.end, self._wanted[item.entity_type], round(float(item.score), 4)) for item in found
        ]
        known = [(item.start, item.end) for item in findings]
        findings += [
            lead
            for lead in leads(seen)
            if lead.entity in self._entities and not any(start < lead.end and lead.start < end for start, end in known)
        ]
        placed = {
            Finding(*copy.span(item.start, item.end), item.entity, item.score)
            for item in findings
            if self._counts(seen[item.start : item.end], item.entity)
        }
        return sorted(item for item in placed if not _is_replaced(item, replaced))

    def _counts(self, value: str, entity: str) -> bool:
        if " ".join(value.casefold().split()) in self._allowed:
            return False
        return entity != "DATE_TIME" or _WRITTEN_DATE.search(value) is not None


def _is_replaced(item: Finding, replaced: Sequence[tuple[int, int]]) -> bool:
    """Whether a finding lies mostly in replacements."""
    inside = sum(max(0, min(end, item.end) - max(start, item.start)) for start, end in replaced)
    return 2 * inside >= item.end - item.start


def replaced_places(findings: Sequence[tuple[int, int, str]]) -> list[tuple[int, int]]:
    """Where replacements stand in the new text: (start, end, replacement) in the old one, sorted → [start, end)."""
    shift, places = 0, []
    for start, end, replacement in findings:
        places.append((start + shift, start + shift + len(replacement)))
        shift += len(replacement) - (end - start)
    return places


def _pipeline(config: PiiConfig) -> str | None:
    """The spaCy pipeline of `pii.language`; none beside another engine where none is installed."""
    if config.ner_engine == "spacy":
        return resolve_pipeline(config.models.get(config.language, config.ner_model), config.language)
    try:
        return resolve_pipeline("auto", config.language)
    except UserError:
        return None


def _stock_engine(package: str | None, language: str) -> Any:
    import spacy
    import tldextract

    from ftlib.text.pii.presidio import AnalyzerEngine, NlpEngineProvider, RecognizerRegistry, SpacyNlpEngine

    # Presidio's e-mail recognizer would download the list of public suffixes at first use; a snapshot is bundled.
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    models = [{"lang_code": language, "model_name": package or language}]
    if package:
        engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    else:
        engine = SpacyNlpEngine(models=models)
        engine.nlp = {language: spacy.blank(language)}
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])
