"""Recognizers for numbers that prove themselves by their form or check digits: cards, bank and identity numbers."""

import re
from typing import Any

from presidio_analyzer import EntityRecognizer, LocalRecognizer, RecognizerResult
from presidio_analyzer import predefined_recognizers as presidio

from ftlib.text.pii import checksums
from ftlib.text.pii.rules import Rule, RuleRecognizer, digits_between, num_digits, result

# Presidio's recognizers with a checksum, or with letters in fixed places, that need no word beside them.
_NATIONAL = (
    (presidio.InAadhaarRecognizer, "NATIONAL_ID"),
    (presidio.EsNifRecognizer, "NATIONAL_ID"),
    (presidio.EsNieRecognizer, "NATIONAL_ID"),
    (presidio.ItFiscalCodeRecognizer, "NATIONAL_ID"),
    (presidio.PlPeselRecognizer, "NATIONAL_ID"),
    (presidio.FiPersonalIdentityCodeRecognizer, "NATIONAL_ID"),
    (presidio.SgFinRecognizer, "NATIONAL_ID"),
    (presidio.KrRrnRecognizer, "NATIONAL_ID"),
    (presidio.UsMbiRecognizer, "INSURANCE_ID"),
    (presidio.CryptoRecognizer, "CRYPTO"),
)
# The shortest from its first digit on that any of them accepts: a Spanish NIE without its last letter.
_MIN_NATIONAL, _MIN_NATIONAL_DIGITS = 7, 4

# Prefixes of standards, regulations and products, whose numbers identify no one.
_PUBLIC_SERIES = tuple(
    """
ISO IEC RFC CVE CWE NDC ANSI NIST UTF SHA AES RSA HTTP ICD CPT IEEE DIN EN USB CD ASTM PEP JSR COVID SARS GPT
FIPS SAE UL FDA CFR USC ATC EC EU PCI SOC HL RTX GTX MP CC GPL BSD LM ED FY
""".split()  # noqa: SIM905
)


def _rules() -> list[Rule]:
    card = (
        r"(?<![\w.+-])(?:[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|3\d{3}[ -]?\d{6}[ -]?\d{4,5}|"
        r"[3-6]\d{12})(?![\w-])"
    )
    grouped = r"(?<![\w.+-])[3-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}(?![\w-])"
    masked = r"(?<![\w])(?:[*xX•]{4}[ -]?){2,3}\d{4}(?!\w)"
    iban = r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?![A-Z0-9])"
    ssn = r"(?<![\w.-])(?!000)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])"
    ein = r"(?<![\w.-])\d{2}-\d{7}(?![\w-])"
    ethereum = r"\b0x[0-9a-f]{40}\b"
    vin = r"\b(?=[A-Z0-9]*\d)[A-HJ-NPR-Z0-9]{17}\b"
    uuid = r"(?<![\w-])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![\w-])"
    nino = r"\b(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ ]?\d{2}[ ]?\d{2}[ ]?\d{2}[ ]?[A-D]\b"
    docket = r"(?<![\w:])\d{1,2}:\d{2}-(?:cv|cr|mc|md|mj|bk|ap|po)-\d{3,6}(?:-[A-Z]{2,4}){0,3}\b"
    state_docket = r"\b\d{2,4}-?(?:CV|CR|CF|CM|CA|DR|FA|JV|PR|SC|CIV|CRIM)-?\d{3,8}(?:-[A-Z]{1,4})?\b"
    dms = r"\d{1,3}(?:\.\d+)?°[^A-Za-z\n]{0,16}[NS],?\s*\d{1,3}(?:\.\d+)?°[^A-Za-z\n]{0,16}[EW]\b"
    decimal = r"(?<![\d.])-?\d{1,2}\.\d{4,},\s*-?\d{1,3}\.\d{4,}(?![\d.])"
    caught = re.IGNORECASE
    return [
        Rule("CREDIT_CARD", re.compile(card), 1.0, needs_digit=True, accept=checksums.card),
        Rule("CREDIT_CARD", re.compile(grouped), 0.86, needs_digit=True),
        Rule("CREDIT_CARD", re.compile(masked), 0.6, needs_digit=True),
        Rule("IBAN_CODE", re.compile(iban, caught), 1.0, needs_digit=True, accept=checksums.iban),
        Rule("IBAN_CODE", re.compile(iban), 0.6, needs_digit=True, accept=checksums.iban_length),
        Rule("US_SSN", re.compile(ssn), 0.85, needs_digit=True),
        Rule("TAX_ID", re.compile(ein), 0.6, needs_digit=True),
        Rule("CRYPTO", re.compile(ethereum, caught), 0.95, needs=("0x",)),
        Rule("VIN", re.compile(vin), 0.95, needs_digit=True, accept=checksums.vin),
        Rule("DEVICE_ID", re.compile(uuid, caught), 0.8, needs=("-",), needs_digit=True),
        Rule(
            "MEDICAL_LICENSE",
            re.compile(r"\b[ABCDEFGHJKLMPRSTUX][A-Z9]\d{7}\b"),
            0.9,
            needs_digit=True,
            accept=checksums.dea,
        ),
        Rule("NATIONAL_ID", re.compile(nino), 0.8, needs_digit=True),
        Rule("CASE_NUMBER", re.compile(docket, caught), 0.95, needs=(":",), needs_digit=True),
        Rule("CASE_NUMBER", re.compile(state_docket), 0.7, needs_digit=True, accept=digits_between(5, 12)),
        Rule("COORDINATES", re.compile(dms), 0.9, needs=("°",)),
        Rule("COORDINATES", re.compile(decimal), 0.7, needs=(".",), needs_digit=True),
    ]


def _identifier_rules() -> list[Rule]:
    """Identifiers by shape alone: a prefix of capitals and a run of digits, as registries number things."""
    public = "|".join(_PUBLIC_SERIES)
    prefixed = (
        rf"(?<![\w-])(?!(?:{public})-)[A-Z]{{2,6}}-(?=[A-Z0-9-]*\d{{2}})[A-Z0-9]{{2,16}}"
        rf"(?:-[A-Z0-9]{{1,12}}){{0,3}}(?![\w-])"
    )
    letters_then_digits = r"(?<![\w-])[A-Z]{1,3}\d{6,10}[A-Z]?(?![\w-])"
    mixed = r"(?<![\w-])(?=[A-Z0-9]*[A-Z])(?=(?:[A-Z0-9]*\d){4})[A-Z0-9]{8,16}(?![\w-])"
    bare = r"(?<![\w.,$€£#/:+=-])\d{8,12}(?!\w|[.,:/-]\d|\s?[%€£])"
    grouped = r"(?<![\w.,$€£/:+-])\d{4}([ -])\d{4}\1\d{4}(?!\w|[ .,-]\d)"
    return [
        Rule("ID_NUMBER", re.compile(bare), 0.45, needs_digit=True),
        Rule("NATIONAL_ID", re.compile(grouped), 0.6, needs_digit=True),
        Rule("ID_NUMBER", re.compile(prefixed), 0.5, needs=("-",), needs_digit=True, accept=digits_between(4, 20)),
        Rule("ID_NUMBER", re.compile(letters_then_digits), 0.5, needs_digit=True),
        Rule("ID_NUMBER", re.compile(mixed), 0.45, needs_digit=True),
    ]


class NationalNumberRecognizer(LocalRecognizer):  # type: ignore[misc]
    """Presidio's recognizers of national numbers, each result under our entity, only where one can stand at all."""

    def __init__(self, language: str = "en") -> None:
        self._inner: list[tuple[Any, str]] = [(kind(supported_language=language), entity) for kind, entity in _NATIONAL]
        # From a digit on, neighbouring words that each hold one, as a number in groups has them.
        self._gate = re.compile(r"\d[A-Za-z\d]*(?:[ +-]{1,3}[A-Za-z]*\d[A-Za-z\d]*)*")
        entities = sorted({entity for _, entity in self._inner})
        super().__init__(supported_entities=entities, name="NationalNumberRecognizer", supported_language=language)

    def load(self) -> None:
        """Nothing to load."""

    def may_hold_number(self, text: str) -> bool:
        """Whether a run in the text is long enough for the shortest of the numbers."""
        runs = (re.sub(r"[^A-Za-z\d]", "", match.group()) for match in self._gate.finditer(text))
        return any(len(run) >= _MIN_NATIONAL and num_digits(run) >= _MIN_NATIONAL_DIGITS for run in runs)

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        """What passes its checksum; unvalidated matches are too weak to act on."""
        if not self.may_hold_number(text):
            return []
        found = []
        for recognizer, entity in self._inner:
            for item in recognizer.analyze(text, recognizer.supported_entities):
                if item.score >= EntityRecognizer.MAX_SCORE:
                    found.append(result(self, entity, item.start, item.end, 0.9))
        return found


def number_recognizers(language: str) -> list[LocalRecognizer]:
    """Cards, IBAN, SSN, national numbers, VIN, dockets, coordinates, and identifiers by shape."""
    return [
        RuleRecognizer("FormattedNumberRecognizer", _rules(), language),
        RuleRecognizer("IdentifierShapeRecognizer", _identifier_rules(), language),
        NationalNumberRecognizer(language),
    ]
