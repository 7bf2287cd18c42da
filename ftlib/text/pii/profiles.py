"""Which entity types each profile redacts."""

import difflib
from collections.abc import Iterable

from ftlib.config.prepare import PiiConfig
from ftlib.core.errors import UserError
from ftlib.text.pii.ner_labels import NONE

# HIPAA Safe Harbor's 18 identifiers, 45 CFR 164.514(b)(2); the last of them is "any other unique identifying number".
SAFE_HARBOR = frozenset({
    "PERSON", "LOCATION", "STREET_ADDRESS", "ZIP_CODE", "COORDINATES", "DATE_TIME", "DATE_OF_BIRTH", "AGE",
    "PHONE_NUMBER", "EMAIL_ADDRESS", "US_SSN", "MEDICAL_RECORD_NUMBER", "INSURANCE_ID", "ACCOUNT_NUMBER",
    "CREDIT_CARD", "IBAN_CODE", "CRYPTO", "DRIVER_LICENSE", "MEDICAL_LICENSE", "LICENSE_PLATE", "VIN", "DEVICE_ID",
    "MAC_ADDRESS", "URL", "IP_ADDRESS", "BIOMETRIC_ID", "PASSPORT", "NATIONAL_ID", "TAX_ID", "ID_NUMBER",
})  # fmt: skip
ENTERPRISE = SAFE_HARBOR | {"ORGANIZATION", "USERNAME", "PASSWORD", "API_KEY", "EMPLOYEE_ID", "CASE_NUMBER"}
_PROFILES: dict[str, frozenset[str]] = {
    "safe_harbor": SAFE_HARBOR,
    "enterprise": ENTERPRISE,
    "fast": ENTERPRISE,
    "custom": frozenset(),
    "none": frozenset(),
}


def profile_entities(config: PiiConfig) -> frozenset[str]:
    """The entity types to redact: the profile's, or `pii.entities`, and those of own patterns, deny lists and labels.

    Raises UserError for an entity type that nothing detects, with the nearest that exists.
    """
    labels = [config.ner_labels, *(engine.labels for engine in config.ner_engines)]
    named = {entity for own_labels in labels for entity in own_labels.values()} - {NONE} - ENTERPRISE
    own = {pattern.entity for pattern in config.patterns} | set(config.deny_list) | named
    if config.profile == "none":
        return frozenset()
    if config.entities is None:
        return _PROFILES[config.profile] | own
    unknown = sorted(set(config.entities) - ENTERPRISE - own)
    if unknown:
        raise UserError("pii.entities: " + "; ".join(_unknown(name, ENTERPRISE | own) for name in unknown))
    return frozenset(config.entities) | own


def needs_ner(config: PiiConfig, entities: Iterable[str]) -> bool:
    """Whether an NER model has anything to do: stock spaCy pipelines find names alone, others all kinds of values."""
    wanted = set(entities)
    if config.profile in {"fast", "none"}:
        return False
    names_alone = config.ner_engine in {"spacy", "none"} and not (config.ner_labels or config.ner_engines)
    return bool({"PERSON", "LOCATION", "ORGANIZATION"} & wanted if names_alone else wanted)


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return f"nothing detects {name}, {hint}"
