"""A token means about the same in every script: in duplicates, length filters, repetition and overlap."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.config.prepare import FilterConfig
from ftlib.data.overlap import CLEAN, SHARED_NGRAM, overlap_of
from ftlib.text.keyed import KeyedHash
from ftlib.text.minhash import jaccard, shingle
from ftlib.text.quality import failed_filter, repetition, tokenize
from ftlib.text.scripts import mostly_unspaced, stands_alone
from ftlib.text.words import hash_words, words

HASHER = KeyedHash(b"k" * 32, "token")
CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "data"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("怎么取消订单?", list("怎么取消订单")),
        ("app打不开 v2", ["app", "打", "不", "开", "v2"]),
        ("注文をキャンセル", list("注文をキャンセル")),
        ("ｷｬﾝｾﾙ", list("キャンセル")),
        ("환불해주세요", list("환불해주세요")),
        ("ไม่ได้", ["ไ", "ม่", "ไ", "ด้"]),
        ("ສະບາຍດີ", ["ສ", "ະ", "ບ", "າ", "ຍ", "ດີ"]),
        ("ខ្ញុំ", ["ខ្", "ញុំ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("བོད་ཡིག", ["བོ", "ད", "ཡི", "ག"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("الْعَرَبِيَّة", ["الْعَرَبِيَّة"]),
        ("cafe\u0301 Ver\u00adtrag می\u200cخواهم", ["café", "vertrag", "میخواهم"]),
        ("๑๒๓ บาท"[:3], ["๑๒๓"]),
        ("snake_case a-b", ["snake_case", "a", "b"]),
    ],
)
def test_words_of_a_script(text, expected):
    assert words(text) == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text(
            alphabet=st.one_of(
                st.characters(),
                st.sampled_from(
                    "a B_9-+ \n\u4f60\u597d\u0e20\u0e48\uac00\u30ab\u0301\u093f\u200d\u200b\x01\0\U0001f600"
                ),
            ),
            max_size=30,
        ),
        max_size=6,
    )
)
def test_array_operations_find_the_words_of_each_text(texts):
    tokens, offsets = hash_words(texts, HASHER)
    for i, text in enumerate(texts):
        expected = HASHER.uint64s(word.encode("utf-8", "surrogatepass") for word in words(text))
        assert np.array_equal(tokens[offsets[i] : offsets[i + 1]], expected)


@pytest.mark.parametrize(
    "text",
    [
        "怎么取消订单",
        "我要退款",
        "密码忘了",
        "注文をキャンセルしたい",
        "환불해주세요",
        "ลืมรหัสผ่าน",
        "ລືມລະຫັດ",
        "ភ្លេចពាក្យសម្ងាត់",
    ],
)
def test_a_short_text_without_blanks_is_not_too_short(text):
    assert failed_filter([text], FilterConfig()) is None


def test_length_filters_count_characters_of_scripts_without_blanks():
    text = "".join(chr(0x4E00 + number % 3000) for number in range(2500))
    assert failed_filter([text], FilterConfig()) == "too_long"
    assert failed_filter([text[:1900]], FilterConfig()) is None


def test_tokens_are_words_and_marks_of_any_script():
    assert tokenize("[PERSON_1] 说：好👍🏽!") == ["[PERSON_1]", "说", "：", "好", "👍", "🏽", "!"]
    assert tokenize("हिन्दी, ठीक।") == ["हिन्दी", ",", "ठीक", "।"]


def test_repetition_in_scripts_without_blanks():
    assert repetition("我要退款我要退款" * 10) > 0.9
    plain = "我在上周五通过官方网站下了订单，但是今天仍然没有收到任何发货通知，我在上周三也写过信，但是没有收到答复。"
    assert repetition(plain) < 0.3


def _edited(text: str, unit: str, generator: random.Random) -> str:
    """The text with one word (or character) replaced."""
    parts = text.split(" ") if unit == "word" else list(text)
    place = generator.randrange(len(parts))
    return (" " if unit == "word" else "").join(
        [*parts[:place], "乙" if unit != "word" else "zzz", *parts[place + 1 :]]
    )


@pytest.mark.parametrize(
    ("alphabet", "unit"),
    [((0x4E00, 0x9000), "character"), ((0x3041, 0x3096), "character"), ((0xAC00, 0xD000), "character")],
)
def test_one_changed_character_leaves_a_near_duplicate(alphabet, unit):
    generator = random.Random(1)
    text = "".join(chr(generator.randrange(*alphabet)) for _ in range(100))
    found = shingle([text, _edited(text, unit, generator)], 5, HASHER)
    assert jaccard(found.of(0), found.of(1)) > 0.85


def test_an_n_gram_without_blanks_spans_about_as_much_text():
    generator = random.Random(2)
    text = "".join(chr(generator.randrange(0x4E00, 0x9000)) for _ in range(80))
    reference = overlap_of([[text]], 13, b"k" * 32)
    other = "".join(chr(generator.randrange(0x4E00, 0x9000)) for _ in range(40))
    assert reference.codes([[other + text[:20] + other]], 13, b"k" * 32).tolist() == [CLEAN]
    assert reference.codes([[other + text[:30] + other]], 13, b"k" * 32).tolist() == [SHARED_NGRAM]


def test_which_texts_are_unspaced():
    assert mostly_unspaced("怎么取消 my 订单") and not mostly_unspaced("cancel 订 my order please")
    assert not mostly_unspaced("plain") and not mostly_unspaced("हिन्दी में")
    assert stands_alone("订") and not stands_alone("é") and not stands_alone("a")


@pytest.mark.parametrize("name", ["zh_class.jsonl", "zh_pairs.jsonl"])
def test_short_chinese_japanese_and_korean_rows_pass(name):
    path = CASES / "21-short-cjk-is-too-short" / name
    if not path.exists():
        pytest.skip(f"no file at {path}")
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = [row["text"]] if "text" in row else [row["input"], row["output"]]
        assert failed_filter(texts, FilterConfig()) is None
