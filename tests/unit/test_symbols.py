"""What words leave out tells records apart; punctuation, emphasis and layout do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from ftlib.text.components import verify
from ftlib.text.keyed import KeyedHash
from ftlib.text.minhash import band_keys, shingle, signatures
from ftlib.text.normalize import normalize
from ftlib.text.symbols import MAX_SYMBOL_CHARS, Meanings, cased_units, skeleton_and_values, symbols

HASHER = KeyedHash(b"k" * 32, "token")
CASE = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "data" / "22-symbols-carry-the-meaning"
LAB = (
    "The patient came in fasting and reported no complaints; blood pressure and pulse were normal, the skin was warm "
    "and dry, the laboratory reported a potassium of {} and all other values of the panel lay within their range."
)


def num_kept(texts: list[str], threshold: float = 0.8) -> int:
    """How many of the texts are kept when all share a band."""
    shingles = shingle(texts, 5, HASHER)
    bands = band_keys(signatures(shingles, 128), 128, 1)
    meanings = Meanings.of(texts, KeyedHash(b"k" * 32, "symbols"))
    verdict = verify(shingles, bands, np.zeros(len(texts)), threshold, meanings=meanings)
    return int((verdict.keeper == np.arange(len(texts))).sum())


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("x > y", "x < y"),
        ("x >= y", "x > y"),
        ("x != y", "x = y"),
        ("price + tax", "price - tax"),
        ("price * tax", "price / tax"),
        ("written in C", "written in C++"),
        ("written in C#", "written in C++"),
        ("F# code", "F code"),
        ("€ 500 today", "$ 500 today"),
        ("£500 today", "¥500 today"),
        ("5 degrees", "-5 degrees"),
        ("5 degrees", "\u22125 degrees"),
        ("a = x - y", "a = x y"),
        ("f(x) + 1", "f(x + 1)"),
        ("(1 - 2) - 3", "1 - (2 - 3)"),
        ("2.5 mg", "2 5 mg"),
        ("1:5", "1/5"),
        ("0 .5", "0 5"),
        ("50 % more", "50 more"),
        ("rm -f file", "rm f file"),
        ("not !ready", "not ready"),
        ("a && b", "a || b"),
        ("x ≤ y", "x ≥ y"),
        ("well 👍", "well 👎"),
        ("done ✓", "done ✗"),
        ("5 ± 1", "5 1"),
        ("20 °C", "20 C"),
        ("ｘ ＞ y", "ｘ ＜ y"),
        ("如果 x > y", "如果 x < y"),
    ],
)
def test_symbols_that_carry_meaning(left, right):
    assert symbols(left) != symbols(right)
    assert num_kept([left, right]) == 2


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Hello, world!", "hello world"),
        ("Is it so?", "Is it so?!"),
        ("**Note** this `now`", "Note this now"),
        ("- first\n- second", "first\nsecond"),
        ("* first\n+ second", "first\nsecond"),
        ("> quoted\n> twice", "quoted\ntwice"),
        ("# Title\ntext", "Title\ntext"),
        ("a\n-----\nb\n=====", "a\nb"),
        ("well - known (see below)", "well known, see below"),
        ("“quoted” — and so on…", "'quoted' - and so on"),
        ("e-mail", "e mail"),
        ("• point", "point"),
        ("good 👍🏽", "good 👍"),
        ("5\u20137 days", "5-7 days"),
        ("| a | b |", "a b"),
        ("你好，世界。", "你好 世界"),
    ],
)
def test_punctuation_and_layout_carry_none(left, right):
    assert symbols(left) == symbols(right)
    assert num_kept([left, right]) == 1


def test_long_texts_are_told_apart_by_operators():
    text = "word " * MAX_SYMBOL_CHARS
    assert symbols(text + "x > y") != symbols(text + "x < y")
    assert symbols(text + "é x > y") != symbols(text + "é x < y")
    assert symbols(text + "(so), it is.") == symbols(text + "so it is")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("2.5 mmol", "2.6 mmol"),
        ("5 mg", "5 g"),
        ("-5", "5"),
        ("€ 500", "$ 500"),
        ("12", "13"),
        (".5", "5"),
        ("5 mg", "5 µg"),
    ],
)
def test_short_records_with_other_values_are_others(left, right):
    assert num_kept([LAB.format(left), LAB.format(right)], 0.6) == 2
    assert num_kept([LAB.format(left), LAB.format(left) + " Bye."]) == 1


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("12 May 2024", "13 May 2024"),
        ("2024-05-12", "2024-05-13"),
        ("12.05.2024", "13.05.2024"),
        ("12:30", "12:45"),
        ("2023", "2024"),
        ("number 4811234", "number 4811235"),
        ("ticket #17", "ticket #18"),
        ("AB-12345", "AB-12346"),
    ],
)
def test_dates_and_numbers_of_files_change_in_copies(left, right):
    assert num_kept([LAB.format(left), LAB.format(right)], 0.6) == 1


def test_long_texts_with_another_number_are_versions_of_one():
    long = " ".join(f"word{chr(97 + i % 26)}{i}" for i in range(300))
    assert num_kept([f"{long} version 1.2", f"{long} version 1.3"]) == 1


def test_case_of_units_and_superscripts():
    assert cased_units("a load of 5 mW") != cased_units("a load of 5 MW")
    assert cased_units("5 MB") != cased_units("5 Mb")
    assert cased_units("5 apples") == cased_units("5 Apples") == ""
    assert normalize("5²") != normalize("52")


def test_texts_without_numbers_have_no_skeleton():
    assert skeleton_and_values("no number at all") == ("", "")
    assert skeleton_and_values("on 12 May 2024 we paid 5 mg")[1] == "5mg"


def test_reported_case():
    path = CASE / "operators.jsonl"
    if not path.exists():
        pytest.skip(f"no file at {path}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [f"{row['input']}\n{row['output']}" for row in rows]
    for threshold in (0.6, 0.8, 1.0):
        assert num_kept(texts, threshold) == len(texts)
