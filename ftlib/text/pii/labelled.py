"""Recognizers for values that only the words before them give away: `MRN: 8084988`, `policy number is QX-1123-88`.

The shape is always the same, in prose, forms, JSON and logs: a label, perhaps `number`, a separator, the value. A label
with `number`, and one that means a number by itself (`IBAN`, `sort code`), proves its value whatever it looks like;
behind others (`order`, `account`) a date, a year or a version is none.
"""

import re

from ftlib.text.pii.labels import ADDRESS_LABELS, IS, NAME_LABELS, NUMBER_LABELS, NUMBER_WORD, PHONE_LABELS
from ftlib.text.pii.letters import LABEL_END, WORD
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import Rule, RuleRecognizer, digits_between, num_digits

_NUMBER_WORD = r"(?:[\s_-]{0,2}(?:numbers?|no\b\.?|num|nr\.?|nbr|id(?:entifier)?|ids|code|ref(?:erence)?|\#))"
_SEPARATOR = r"(?:['\"]?\s{0,3}(?:\bis\b|\bwas\b|\bof\b|:|=>|=|\#|-|–|—|\()?\s{0,3}[:#]?\s{0,2}['\"(\[]?)"
_W = "A-Za-z0-9_"
_VALUE = rf"(?P<v>(?=[{_W}./-]*[0-9])[A-Za-z0-9](?:[{_W}]|[./-](?=[{_W}])){{2,39}})(?![{_W}@])"
_SPACED_DIGITS = (
    rf"(?P<v>[0-9]{{2,6}}(?:[ ./-][0-9]{{2,6}}){{1,5}}(?:-[0-9Kk])?|"
    rf"(?=[{_W}-]*[0-9])[A-Za-z0-9](?:[{_W}]|[./-](?=[{_W}])){{3,39}})(?![{_W}@])"
)

_PLATE = (
    r"(?P<v>[A-Z]{1,3}-[A-Z]{1,2}[ -]?\d{1,4}|\d{1,3}[ -]?[A-Z]{1,4}[ -]?\d{0,4}|"
    r"[A-Z]{1,4}\d{0,2}[ -]?[A-Z]{0,3}[ -]?\d{1,5}(?:[ -]?[A-Z]{1,3}\b)?)"
    r"(?![A-Za-z0-9_@])"
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
        "mortgage+", "iban", "swift", "bic", "direct debit", "mandate+",
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
# Labels that mean a number and nothing else.
_STRONG = {
    "mrn", "nhs", "medical record", "health record", "hin", "routing", "aba", "sort code", "iban", "swift",
    "bic", "bsb", "badge", "docket", "passport", "vin", "chassis", "tin", "ein", "itin", "fein", "utr", "ssn",
    "social security", "nino", "national insurance", "tfn", "aadhaar", "cpf", "cnpj", "curp", "dni", "nif",
    "nie", "bsn", "pesel", "nric", "imei", "udid", "meid", "iccid", "imsi", "npi", "dea", "medicare",
    "medicaid", "a/c", "acct",
}  # fmt: skip
# Kinds whose labels in other languages mean a number and nothing else.
_STATED = {"NATIONAL_ID", "TAX_ID", "PASSPORT", "DRIVER_LICENSE", "MEDICAL_RECORD_NUMBER"}
_MEASURE = r"\d+(?:st|nd|rd|th|ms|[kmg]b|[kmc]?[gm]|hrs?|px|[ap]m)"
_PLAIN_NUMBERS = re.compile(
    rf"(?:19|20)\d\d|\d{{1,2}}[./-]\d{{1,2}}[./-]\d{{2,4}}|\d{{4}}-\d\d-\d\d.*|"
    rf"v?\d{{1,3}}(?:\.\d{{1,4}}){{1,3}}|{_MEASURE}",
    re.IGNORECASE,
)
_MEASURES = re.compile(_MEASURE, re.IGNORECASE)


def _expression(labels: tuple[str, ...], value: str) -> re.Pattern[str]:
    """One alternation of all labels, so that a text is scanned once for an entity. Groups say what proves the value."""
    words = [(label, label.replace(" ", r"[\s_-]?")) for label in labels]
    strong = "|".join(word for label, word in words if label in _STRONG)
    alone = "|".join(word for label, word in words if label not in _STRONG and not word.endswith("+"))
    followed = "|".join(word.rstrip("+") for _, word in words if word.endswith("+"))
    heads = [rf"(?P<strong>{strong}){_NUMBER_WORD}{{0,2}}"] if strong else []
    if alone:
        heads.append(rf"(?:{alone})(?P<number>{_NUMBER_WORD}{{1,2}})?")
    if followed:
        heads.append(rf"(?P<followed>(?:{followed}){_NUMBER_WORD}{{1,2}})")
    label = rf"(?<![A-Za-z])(?:{'|'.join(heads)})(?![A-Za-z0-9])"
    return re.compile(rf"{label}{_SEPARATOR}{value}", re.IGNORECASE)


def _foreign_expression(labels: str, value: str) -> re.Pattern[str]:
    """The same in other languages; behind a label of another script the value may stand at once."""
    label = rf"(?<![{WORD}])(?:{labels})[а-я]{{0,3}}(?P<number>{NUMBER_WORD}{{1,2}})?{LABEL_END}"
    return re.compile(rf"{label}['\"]?\s{{0,3}}{IS}?\s{{0,2}}['\"(\[]?{value}", re.IGNORECASE)


def _stated(match: re.Match[str]) -> bool:
    """Whether the value of a label that means a number and nothing else counts."""
    return num_digits(match["v"]) >= 4 and not _MEASURES.fullmatch(match["v"])


def _proven(match: re.Match[str]) -> bool:
    """Whether the value of a match counts; see the module's docstring."""
    value, groups = match["v"], match.groupdict()
    if any(groups.get(name) for name in ("strong", "number", "followed")):
        return num_digits(value) >= 3 and not _MEASURES.fullmatch(value)
    return _is_value(value)


def _is_value(value: str) -> bool:
    """At least four digits, or three beside a letter; not a year, date, time, version or measure."""
    digits = num_digits(value)
    enough = digits >= 4 or (digits == 3 and any(character.isalpha() for character in value))
    return enough and not _PLAIN_NUMBERS.fullmatch(value)


def _is_plate(match: re.Match[str]) -> bool:
    return num_digits(match["v"]) >= 2 and len(match["v"]) >= 4


def _value_pattern(entity: str) -> str:
    if entity == "LICENSE_PLATE":
        return _PLATE
    return _SPACED_DIGITS if entity in _SPACED else _VALUE


def _labelled_values() -> list[Rule]:
    """An address, a telephone number or a name behind its label in another language than English."""
    before, after = rf"(?<![{WORD}])", rf"[а-я]{{0,3}}{LABEL_END}['\"]?\s{{0,3}}"
    sign = r"[:=]\s{0,2}['\"]?"
    phone = r"(?P<v>\+?\(?[0-9][0-9\s()./-]{4,20}[0-9])(?![A-Za-z0-9_])"
    address = r"(?P<v>(?=[^\n;|\"。]{0,60}[0-9])[^\n;|\"。@]{5,100}?)(?=[\n;|\"。]|[.!?,](?:\s|$)|$)"
    han, kana = r"[\u4e00-\u9fff]", r"[\u3041-\u30ff\u4e00-\u9fff]"
    name = (
        rf"(?P<v>{kana}{{1,6}}[ ・]{kana}{{1,6}}|{han}{{2,4}}(?!{kana})|[\u30a1-\u30ff・]{{3,20}}|"
        r"[\uac00-\ud7a3]{2,4}(?=[^\uac00-\ud7a3]|$)|[\u0621-\u064a]{2,12}(?: [\u0621-\u064a]{2,12}){0,3})"
    )
    cyrillic = r"(?P<v>[А-ЯЁ][а-яё]+(?:[ -][А-ЯЁ][а-яё]+|[ ][А-ЯЁ]\.){0,3})"
    return [
        Rule("PHONE_NUMBER", re.compile(rf"{before}(?:{PHONE_LABELS}){after}{IS}?\s?{phone}", re.IGNORECASE), 0.8,
             accept=digits_between(6, 16)),
        Rule("STREET_ADDRESS", re.compile(rf"{before}(?:{ADDRESS_LABELS}){after}{sign}{address}", re.IGNORECASE), 0.7),
        Rule("PERSON", re.compile(rf"{before}(?i:{NAME_LABELS}){after}{sign}{name}"), 0.75),
        Rule("PERSON", re.compile(rf"{before}(?i:{NAME_LABELS}){after}{sign}{cyrillic}"), 0.75),
    ]  # fmt: skip


def labelled_recognizers(language: str) -> list[LocalRecognizer]:
    """Numbers after their label, in all languages that labels are kept of."""
    rules = []
    for entity, labels in _LABELS.items():
        value = _value_pattern(entity)
        where = _is_plate if entity == "LICENSE_PLATE" else _proven
        rules.append(Rule(entity, _expression(labels, value), 0.9, where=where))
        if entity in NUMBER_LABELS:
            where = _stated if entity in _STATED else where
            rules.append(Rule(entity, _foreign_expression(NUMBER_LABELS[entity], value), 0.85, where=where))
    return [
        RuleRecognizer("LabelledNumberRecognizer", rules, language),
        RuleRecognizer("LabelledValueRecognizer", _labelled_values(), language),
    ]
