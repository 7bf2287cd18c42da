"""Telephone numbers as they are written at home, by `pii.regions` and by the language of a text."""

import pytest

from ftlib.config.loader import load_config
from ftlib.config.prepare import PiiConfig, PrepareConfig
from ftlib.core.errors import UserError
from ftlib.text.pii import PiiAnalyzer
from ftlib.text.pii.phones import PhoneLibraryRecognizer, regions_of

NATIONAL = [
    ("de", "Sie erreichen uns unter 030 23125678 bis abends.", "030 23125678"),
    ("de", "Sie erreichen uns unter 03023125678 bis abends.", "03023125678"),
    ("fr", "Vous pouvez le faire au 01.42.68.53.00 pour cela.", "01.42.68.53.00"),
    ("fr", "Vous pouvez le faire au 0142685300 pour cela.", "0142685300"),
    ("es", "Puede hacerlo en el 612 345 678 o bien por carta.", "612 345 678"),
    ("es", "Puede hacerlo en el 912345678 o bien por carta.", "912345678"),
    ("it", "Si trova in ufficio, 3331234567, ogni giorno.", "3331234567"),
    ("pl", "Prosimy o kontakt 601 234 567 albo list.", "601 234 567"),
    ("nl", "U kunt bellen naar 0206241111 voor vragen.", "0206241111"),
    ("pt", "Pode falar para 912 345 678 todos os dias.", "912 345 678"),
    ("zh", "这是 13912345678 谢谢", "13912345678"),
    ("ja", "これは 09012345678 です", "09012345678"),
    ("ko", "이것은 010-1234-5678 입니다", "010-1234-5678"),
    ("ru", "Это 8 912 345-67-89 для вас.", "8 912 345-67-89"),
    ("hi", "यह 9876543210 है", "9876543210"),
]


def phones(text: str, spoken: str, **settings: object) -> list[str]:
    config = PiiConfig(profile="custom", entities=["PHONE_NUMBER"], ner_engine="none", **settings)
    return [text[item.start : item.end] for item in PiiAnalyzer(config).analyze([text], [spoken])[0]]


@pytest.mark.parametrize(("language", "text", "number"), NATIONAL)
def test_a_language_brings_the_formats_of_its_countries(language: str, text: str, number: str) -> None:
    assert phones(text, language) == [number]


@pytest.mark.parametrize(("language", "text", "number"), NATIONAL)
def test_a_number_of_a_region_is_found_in_an_english_text(language: str, text: str, number: str) -> None:
    assert phones(f"Noted {number} today", "en", regions=list(regions_of(language, ()))) == [number]


def test_numbers_of_other_countries_are_none_here() -> None:
    assert phones("The item 9876543210 was sent with 912345678.", "en", regions=["DE"]) == []


def test_texts_of_unknown_language_count_as_those_of_pii_language() -> None:
    assert phones("Bestellt 03023125678", "und", language="de") == ["03023125678"]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("es", "Cuesta 650.000.000 euros y no más."),
        ("es", "Cuesta 612 345 678 € y no más."),
        ("es", "Cuesta EUR 612 345 678 y no más."),
        ("de", "Am 01.02.2023 oder 2023-02-01 12:30:00 war es so."),
        ("de", "Geöffnet 0700-1900 an allen Tagen."),
    ],
)
def test_amounts_and_dates_are_no_numbers_of_telephones(language: str, text: str) -> None:
    assert phones(text, language) == []


def test_a_recognizer_for_a_language_is_built_once() -> None:
    recognizer = PhoneLibraryRecognizer("en", ("US", "DE", "AT", "CH"))
    assert recognizer.reading("de") is recognizer is recognizer.reading("en")
    assert recognizer.reading("fr") is recognizer.reading("fr") is not recognizer


def test_regions_are_written_either_way() -> None:
    assert PiiConfig(regions=["us", " IN"]).regions == ["US", "IN"]


@pytest.mark.parametrize(("code", "hint"), [("UK", "did you mean GB"), ("XX", "ISO 3166"), ("Germany", "ISO 3166")])
def test_a_region_that_no_one_knows_is_refused(code: str, hint: str) -> None:
    with pytest.raises(UserError, match=rf"pii\.regions\.0.*{code}.*{hint}"):
        load_config(PrepareConfig, None, ["input.paths=[a]", "output.path=o", f"pii.regions=[{code}]"])
