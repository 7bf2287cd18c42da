"""Checks of texts for the audit: placeholders, encodings, dates, JSON, masks, languages, agreement."""

import itertools
import random

import pytest

from ftlib.text.agreement import Pairs, alpha, annotations, label_pairs
from ftlib.text.hygiene import CONTROL, ENCODING, MARKUP, PLACEHOLDER, TEMPLATE, date_forms, issues, json_state, masked
from ftlib.text.language import UNKNOWN, detect_language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n/a", [PLACEHOLDER]),
        ("  TODO ", [PLACEHOLDER]),
        ("Lorem ipsum dolor sit amet", [PLACEHOLDER]),
        ("The caf\ufffd is closed", [ENCODING]),
        ("Le cafÃ© est fermÃ©", [ENCODING]),
        ("It doesnâ€™t work", [ENCODING]),
        ("Le café est fermé, São Paulo, Ångström", []),
        ("a\x00b", [CONTROL]),
        ("zero\u200bwidth", [CONTROL]),
        ("line one\n\tline two", []),
        ("<p>Hello</p>", [MARKUP]),
        ("if a < b and b > c", []),
        ("Dear {{first_name}}, hello", [TEMPLATE]),
        ('{"a": {"b": 1}}', []),
        ("My test failed, none of it works.", []),
    ],
)
def test_issues(text, expected):
    assert issues(text) == expected


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("on 2024-01-31 and 31.01.2024", ["2024-01-31", "31.01.2024"]),
        ("on 31/01/2024", ["31/01/2024"]),
        ("on 01/31/2024", ["01/31/2024"]),
        ("on 01/02/2024", ["01/02/2024 (day or month first?)"]),
        ("on 31 January 2024 or January 31, 2024", ["31 January 2024", "January 31, 2024"]),
        ("version 10.2.3 costs 12,50", []),
    ],
)
def test_date_forms(text, forms):
    assert date_forms(text) == forms


def test_json_state():
    assert [json_state(text) for text in ('{"a": 1}', '{"a": 1', "[1, 2]", "plain", "{name}, hello", "[REDACTED]")] == [
        "valid", "broken", "valid", None, None, None
    ]  # fmt: skip


def test_a_mask_keeps_form_and_no_content():
    assert masked("Jane Roe, 555-0188") == "Xxxx Xxx, 999-9999"
    assert len(masked("x" * 500)) < 60


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I have not received the invoice for my order and would like to know where it is.", "en"),
        ("Ich habe die Rechnung für meine Bestellung noch nicht erhalten.", "de"),
        ("Je n'ai pas encore reçu la facture de ma commande, pouvez-vous me dire où elle est ?", "fr"),
        ("Todavía no he recibido la factura de mi pedido y quiero saber dónde está.", "es"),
        ("Я ещё не получил счёт за мой заказ и хочу знать, где он.", "ru"),
        ("請求書はまだ届いていません。", "ja"),
        ("12345", UNKNOWN),
        ('n/a {"broken": ', UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_detect_language(text, language):
    assert detect_language(text) == language


def by_definition(units):
    """Krippendorff's alpha as 1 - observed / expected disagreement over all pairs of values."""
    pairable = [unit for unit in units if len(unit) > 1]
    values = [value for unit in pairable for value in unit]
    observed = sum(
        sum(a != b for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in pairable
    ) / len(values)
    expected = sum(a != b for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def test_alpha_is_its_definition_and_adds_up_in_any_order():
    rng = random.Random(7)
    units = [[rng.choice("abbc") for _ in range(rng.randint(1, 4))] for _ in range(60)]
    whole = sum((label_pairs(unit) for unit in units), Pairs())
    assert alpha(whole) == pytest.approx(by_definition(units))
    assert alpha(sum((label_pairs(unit) for unit in reversed(units)), Pairs())) == alpha(whole)


def test_alpha_of_full_agreement_and_of_nothing():
    assert alpha(sum((label_pairs([x, x, x]) for x in "aabbc"), Pairs())) == 1.0
    assert alpha(Pairs()) is None
    assert alpha(label_pairs(["a", "a"])) is None


def test_annotations_in_any_of_their_forms():
    expected = ["x", "y"]
    assert annotations({"ann": "x", "bob": "y"}) == expected
    assert annotations(["x", "y", None]) == expected
    assert annotations([{"annotator": 1, "label": "x"}, {"annotator": 2, "label": "y"}]) == expected
    assert annotations("x") == []
