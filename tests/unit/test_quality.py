"""Each quality filter says no to its own kind of text and to no other."""

import pytest

from ftlib.config.prepare import FilterConfig
from ftlib.text.quality import REASONS, failed_filter, quality, repetition, symbol_ratio, tokenize

GOOD = "My invoice of last month shows a charge that I do not recognise, please look into it and call me back."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ok", "too_short"),
        ("word " * 2001, "too_long"),
        (
            "[REDACTED_PERSON] [REDACTED_PHONE_NUMBER] [PERSON_1] [REDACTED_URL] [REDACTED_IBAN_CODE] hi",
            "mostly_redacted",
        ),
        ("buy now and save big today " * 20, "repetitive"),
        ("==== #### **** ---- ++++ //// abc", "symbols"),
        (GOOD, None),
        (GOOD.replace("invoice", "[REDACTED_ID_NUMBER]"), None),
        ("मेरा खाता बंद हो गया है और मुझे सहायता चाहिए कृपया जल्दी उत्तर दें", None),
        ("我的账户被锁定了，请帮我解锁，谢谢。", None),
    ],
)
def test_reason(text, reason):
    assert failed_filter([text], FilterConfig()) == reason
    assert reason is None or reason in REASONS


DISCLAIMER = (
    "This e-mail and any attachments may be confidential. If you are not the intended recipient, delete it. "
    "Please consider the environment before printing. © 2020 Acme Ltd, all rights reserved. "
)


@pytest.mark.parametrize(
    ("texts", "settings", "reason"),
    [
        ([DISCLAIMER], {}, "boilerplate"),
        ([GOOD + "\n" + DISCLAIMER], {}, None),
        ([DISCLAIMER], {"max_boilerplate": 1.0}, None),
        ([GOOD, "Dear {{customer_name}}, your case is closed."], {"templates": "drop"}, "template"),
        ([GOOD, "Dear {{customer_name}}, your case is closed."], {}, None),
        ([GOOD, "I'm sorry, but I can't assist with that."], {"refusals": "drop"}, "refusal"),
        ([GOOD, "As an AI language model, I have no bank account."], {"refusals": "drop"}, "refusal"),
        ([GOOD, "As an AI language model, I have no bank account."], {}, None),
        ([GOOD, "I am sorry, but we cannot refund an order after thirty days."], {"refusals": "drop"}, None),
        ([GOOD], {"languages": ["de", "fr"]}, "language"),
        ([GOOD], {"languages": ["en"]}, None),
        (
            ["Meine Rechnung ist falsch und ich möchte bitte wissen, warum das so ist."],
            {"languages": ["en"]},
            "language",
        ),
        (["Rechnung 4711 ok"], {"languages": ["en"]}, None),
    ],
)
def test_filters_of_choice(texts, settings, reason):
    assert failed_filter(texts, FilterConfig(**settings)) == reason


def test_the_cleaner_of_two_texts_has_the_higher_quality():
    worse = [GOOD + "\n" + DISCLAIMER, GOOD + " !!!???***", f"{GOOD} {GOOD}", GOOD.replace("e", "\ufffd"), "<p>" + GOOD]
    assert all(0 <= quality(text) < quality(GOOD) <= 1 for text in worse)


def test_disabled():
    assert failed_filter(["x"], FilterConfig(enabled=False)) is None


def test_a_redaction_token_is_one_token():
    assert tokenize("Dear [REDACTED_PERSON], hi [PERSON_12]!") == [
        "Dear",
        "[REDACTED_PERSON]",
        ",",
        "hi",
        "[PERSON_12]",
        "!",
    ]


def test_limits_are_inclusive():
    config = FilterConfig(min_tokens=3, max_tokens=5)
    assert failed_filter(["one two three"], config) is None
    assert failed_filter(["one two three four five"], config) is None
    assert failed_filter(["one two"], config) == "too_short"
    assert failed_filter(["one two three four five six"], config) == "too_long"


def test_parts_count_together_for_length_and_apart_for_repetition():
    answer = "category: billing priority: high queue: finance"
    assert failed_filter(["no", "yes", "no"], FilterConfig()) is None
    assert failed_filter([GOOD, answer, GOOD], FilterConfig()) is None


def test_repetition_is_the_share_of_words_in_repeated_trigrams():
    words = [f"w{i}" for i in range(20)]
    assert repetition(" ".join(words)) == 0.0
    assert repetition(" ".join([*words, *words[:5]])) == pytest.approx(10 / 25)


def test_symbol_ratio_leaves_redaction_tokens_out():
    assert symbol_ratio("abcdefghij" * 2 + "!" * 20) == pytest.approx(0.5)
    assert symbol_ratio("abcdefghij" * 2 + "[REDACTED_PERSON]" * 20) == 0.0
