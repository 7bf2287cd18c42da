"""A thin cut through the grid of `tests.bench.pii_forms`, and the ordinary texts, with rules alone."""

import pytest

from ftlib.config.prepare import PiiConfig
from ftlib.text.pii import PiiAnalyzer
from tests.bench.ordinary_texts import ordinary_texts
from tests.bench.pii_forms import grid, left, words_lost


@pytest.fixture(scope="module")
def fast() -> PiiAnalyzer:
    return PiiAnalyzer(PiiConfig(profile="fast"))


def test_nothing_of_a_value_is_left_in_any_of_its_spellings(fast):
    cells = [cell for cell in grid(13) if cell["place"] != "metadata"]
    assert len(cells) > 400
    missed = []
    for cell, found in zip(cells, fast.analyze([cell["text"] for cell in cells]), strict=True):
        text = cell["text"]
        for item in reversed(found):
            text = f"{text[: item.start]}[REDACTED]{text[item.end :]}"
        if left(cell, text, "{}"):
            missed.append((cell["entity"], cell["spelling"], cell["script"], cell["text"]))
    assert len(missed) <= 0.01 * len(cells), missed


def test_ordinary_texts_keep_their_words(fast):
    texts = [text for kind in ordinary_texts().values() for text in kind]
    assert len(texts) == 300
    lost, total = words_lost(texts, [[(item.start, item.end) for item in items] for items in fast.analyze(texts)])
    assert lost <= 0.01 * total


@pytest.mark.parametrize("text", ["éMaria Gonzalezé", '{"name": "éMaria Gonzalezé"}', "cléMaria Gonzalez"])
def test_a_name_behind_an_accented_letter_is_found(text: str) -> None:
    items = PiiAnalyzer(PiiConfig(profile="fast")).analyze([text])[0]
    assert any("Maria Gonzalez" in text[item.start : item.end] for item in items)
