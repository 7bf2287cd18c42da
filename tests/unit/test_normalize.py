"""The fast ways to fold, lower and sketch texts give what their plain definitions give."""

import itertools
import re
import sys
import unicodedata

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftlib.text import words as module
from ftlib.text.counters import word_sketches
from ftlib.text.normalize import fold_compatible, lower, normalize, normalize_all

CHARACTERS = st.one_of(
    st.sampled_from(
        "aB z1.,-\n\t\0\x01\x1c\x85\u2028“”–…™½²ﬁ´ΣσÉéßİıǆŉẞ\u0301\u0323\u1161가ᄀ😀👍🏽ﷺक\u093fกK\u200b\u00ad"
    ),
    st.characters(exclude_categories=["Cs", "Cn"]),
)
TEXTS = st.text(CHARACTERS, max_size=30)


def plainly_folded(text):
    return unicodedata.normalize("NFKC", re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", r"^\g<0>", text))


@settings(max_examples=1000, deadline=None)
@given(TEXTS)
@example("ΑΣ Σ")
@example("ᄀ\u1161")
@example("\ud800 é")
def test_folding_and_lower_case(text):
    assert fold_compatible(text) == plainly_folded(text)
    assert lower(text) == text.lower()
    assert normalize(text) == " ".join(plainly_folded(text).lower().split())


def test_every_character_between_letters():
    for start in range(0x80, sys.maxunicode, 1):
        character = chr(start)
        if unicodedata.category(character) in {"Cn", "Co", "Cs"}:
            continue
        text = f"E{character}e"
        assert fold_compatible(text) == plainly_folded(text)
        assert lower(text) == text.lower()


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=5))
def test_many_texts_at_once(texts):
    assert normalize_all(texts) == [normalize(text).encode() for text in texts]


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_simple_texts_are_separated_as_any(text):
    folded = lower(fold_compatible(text))
    simple = module._simply_separated(folded)
    if simple is not None:
        assert simple.split(b"\0") == module._separated([folded])[0].split(b"\0")


def test_sketches_count_bits():
    generator = np.random.default_rng(0)
    lengths = [1, 255, 256, 0, 700, 3]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    tokens = generator.integers(0, 2**64, bounds[-1], dtype=np.uint64)
    found = word_sketches(tokens, bounds, np.ones(len(lengths), dtype=bool))
    for number, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
        bits = np.unpackbits(tokens[start:stop].view(np.uint8).reshape(-1, 8), axis=1)
        assert np.array_equal(found[number], 2 * bits.sum(axis=0, dtype=np.int64) - len(bits))
