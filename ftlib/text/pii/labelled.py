"""Recognizers for values that only the words before them give away: `MRN: 8084988`, `policy number is QX-1123-88`.

The shape is always the same, in prose, forms, JSON and logs: a label, perhaps `number`, a separator, the value.
"""

import re

from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import Rule, RuleRecognizer, num_digits

_NUMBER_WORD = r"(?:[\s_-]{0,2}(?:numbers?|no\b\.?|num|nr\.?|nbr|id(?:entifier)?|ids|code|ref(?:erence)?|\#))"
_SEPARATOR = r"(?:['\"]?\s{0,3}(?:\bis\b|\bwas\b|\bof\b|:|=>|=|\#|-|–|—|\()?\s{0,3}[:#]?\s{0,2}['\"(\[]?)"
_VALUE = r"(?P<v>(?=[\w./-]*\d)[A-Za-z0-9](?:[\w]|[./-](?=\w)){2,39})(?![\w@])"
_SPACED_DIGITS = r"(?P<v>\d{2,6}(?:[ -]\d{2,6}){1,5}|(?=[\w-]*\d)[A-Za-z0-9](?:\w|[./-](?=\w)){3,39})(?![\w@])"

_PLATE = (
    r"(?P<v>\d{1,3}[ -]?[A-Z]{1,4}[ -]?\d{0,4}|[A-Z]{1,4}\d{0,2}[ -]?[A-Z]{0,3}[ -]?\d{1,5}(?:[ -]?[A-Z]{1,3}\b)?)"
    r"(?![\w@])"
)

# Entity → labels as alternatives; `+` after a label means that a word such as "number" or "id" must follow it.
_LABELS: dict[str, tuple[str, ...]] = {
    "MEDICAL_RECORD_NUMBER": (
        "mrn", "medical record", "med rec", "patient+", "chart+", "hospital+", "encounter+", "health record",
        "visit+", "admission+", "specimen+", "accession+", "nhs",
    ),
    "INSURANCE_ID": (
        "policy", "insurance", "member+", "subscriber+", "group+", "health plan", "hin", "medicare", "medicaid",
        "beneficiary+", "coverage+", "claim", "plan+", "policyholder+", "prescription", "rx", "prior authorization",
        "prior auth", "referral+",
    ),
    "ACCOUNT_NUMBER": (
        "account", "acct", "a/c", "acc", "routing", "aba", "sort code", "loan", "checking", "savings", "bank+",
        "mortgage+", "iban", "swift", "bic", "bsb", "direct debit", "mandate+",
    ),
    "CREDIT_CARD": ("credit card", "debit card", "card", "visa", "mastercard", "amex"),
    "EMPLOYEE_ID": ("employee", "emp", "staff+", "badge", "personnel", "payroll", "worker+", "associate+"),
    "CASE_NUMBER": ("case", "docket", "matter+", "cause no", "court file", "file+", "incident+", "complaint+", "bar+"),
    "DRIVER_LICENSE": (r"driver['’]?s?\s?licen[cs]e", r"driving\s?licen[cs]e", "dl",
                       "licen[cs]e", r"driver['’]?s?\s?id"),
    "PASSPORT": ("passport", "travel document", "visa+", "green card", "alien+", "uscis"),
    "LICENSE_PLATE": (r"licen[cs]e\s?plate", "number plate", "plate", "vehicle registration", "registration+", "tag+"),
    "VIN": ("vin", "chassis", "vehicle identification"),
    "TAX_ID": ("tax", "tin", "ein", "itin", "vat", "fein", "taxpayer", "gst", "utr"),
    "US_SSN": ("ssn", "social security", "social", "soc sec"),
    "NATIONAL_ID": (
        "national", "national insurance", "identity card", "identity", "id card", "nino", "sin", "tfn", "aadhaar",
        "pan", "cpf", "cnpj", "curp", "dni", "nif", "nie", "bsn", "pesel", "citizen+", "resident+", "residence+",
        "voter+", "nric", "nin", "nid",
    ),
    "DEVICE_ID": ("imei", "serial", "s/n", "device", "udid", "uuid", "meid", "iccid", "imsi", "meter+", "asset+"),
    "MEDICAL_LICENSE": ("npi", "dea", "medical licen[cs]e", "provider+", "physician+"),
    "BIOMETRIC_ID": ("biometric", "fingerprint", "face+", "retina"),
    "ID_NUMBER": (
        "customer", "client", "order", "ticket", "invoice", "transaction", "confirmation", "booking", "reservation",
        "tracking", "reference", "ref", "membership", "loyalty", "student", "subscription", "contract", "user+",
        "request+", "session+", "application+", "record+", "certificate+", "unique+", "profile+", "contact+",
    ),
}  # fmt: skip
# Numbers of these kinds are often written in groups of digits.
_SPACED = {"ACCOUNT_NUMBER", "CREDIT_CARD", "NATIONAL_ID", "INSURANCE_ID", "US_SSN", "MEDICAL_RECORD_NUMBER",
           "DRIVER_LICENSE"}  # fmt: skip
_PLAIN_NUMBERS = re.compile(
    r"(?:19|20)\d\d|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}-\d\d-\d\d.*|v?\d{1,3}(?:\.\d{1,4}){1,3}"
    r"|\d+(?:st|nd|rd|th|ms|[kmg]b|[kmc]?[gm]|hrs?|px|[ap]m)",
    re.IGNORECASE,
)


def _expression(labels: tuple[str, ...], value: str) -> re.Pattern[str]:
    """One alternation of all labels, so that a text is scanned once for an entity."""
    words = [label.replace(" ", r"[\s_-]?") for label in labels]
    alone = "|".join(word for word in words if not word.endswith("+"))
    followed = "|".join(word.rstrip("+") for word in words if word.endswith("+"))
    heads = [rf"(?:{alone}){_NUMBER_WORD}{{0,2}}"] if alone else []
    if followed:
        heads.append(rf"(?:{followed}){_NUMBER_WORD}{{1,2}}")
    return re.compile(rf"(?<![A-Za-z])(?:{'|'.join(heads)})(?![A-Za-z0-9]){_SEPARATOR}{value}", re.IGNORECASE)


def _is_value(value: str) -> bool:
    """At least four digits, or three beside a letter; not a year, date, time, version or measure."""
    digits = num_digits(value)
    enough = digits >= 4 or (digits == 3 and any(character.isalpha() for character in value))
    return enough and not _PLAIN_NUMBERS.fullmatch(value)


def _is_plate(value: str) -> bool:
    return num_digits(value) >= 2 and len(value) >= 4


def _value_pattern(entity: str) -> str:
    if entity == "LICENSE_PLATE":
        return _PLATE
    return _SPACED_DIGITS if entity in _SPACED else _VALUE


def labelled_recognizers(language: str) -> list[LocalRecognizer]:
    """Numbers after their label."""
    rules = [
        Rule(
            entity,
            _expression(labels, _value_pattern(entity)),
            0.9,
            accept=_is_plate if entity == "LICENSE_PLATE" else _is_value,
        )
        for entity, labels in _LABELS.items()
    ]
    return [RuleRecognizer("LabelledNumberRecognizer", rules, language)]
