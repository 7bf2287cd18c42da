"""The text of a stream: whole characters, nothing of a stop string, and in sum the decoding of all tokens."""

import random

import pytest

from ftlib.inference.detokenize import Detokenizer, StopStrings

TEXTS = ["plain words, and more", "où est 🦊🏽‍🚀? 東京 \U0001f1e9\U0001f1ea", "  leading\n\n\ttabs  ", "e\u0301 ﷽ 𝕏 ￼"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_and_add_up(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + detokenizer.flush() == text


def test_a_cut_character_comes_out_at_the_end_only(tokenizer):
    ids = tokenizer("🦊", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1, "the case needs a character of several tokens"
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids[0]) == ""
    assert "\ufffd" in detokenizer.flush()


def test_random_tokens_add_up_to_their_decoding(tokenizer):
    generator = random.Random(0)
    for _ in range(20):
        ids = [generator.randrange(len(tokenizer)) for _ in range(30)]
        detokenizer = Detokenizer(tokenizer)
        streamed = "".join(detokenizer.push(token) for token in ids) + detokenizer.flush()
        assert streamed == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _reference(text: str, stops: list[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def test_stop_strings_in_any_cut_agree_with_a_search_in_the_whole():
    generator = random.Random(1)
    for _ in range(2000):
        text = "".join(generator.choice("ab#\n") for _ in range(generator.randint(0, 14)))
        stops = ["".join(generator.choice("ab#\n") for _ in range(generator.randint(1, 4))) for _ in range(2)]
        filter_, shown, rest = StopStrings(stops), "", text
        while rest:
            cut = generator.randint(1, len(rest))
            shown += filter_.push(rest[:cut])
            # Whatever comes next, nothing shown may have to be taken back.
            assert _reference(text, stops).startswith(shown)
            rest = rest[cut:]
        assert shown + filter_.flush() == _reference(text, stops)


def test_without_stop_strings_nothing_is_held():
    assert StopStrings([]).push("abc") == "abc"
