"""Relaxed expressions match wherever theirs do, in any text; the prefilter leaves out only what cannot match."""

import os
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.text.pii import prefilter
from ftlib.text.pii.analyzer import build_recognizers
from ftlib.text.pii.prefilter import Prefilter
from ftlib.text.pii.relax import as_bytes, relaxed

PATTERNS = [
    re.compile(pattern, flags)
    for pattern, flags in [
        (r"\bab?c\b", 0), (r"(?<!\w)a\d{2,12}(?!\w)", 0), (r"[^\W\d_]+ [^\W\d_a-z]", 0), (r"(a|é)b\1", 0),
        (r"(?i:İ|s)t", 0), (r"k[^é]s", re.IGNORECASE), (r"^a|b$", re.MULTILINE), (r"^\s*b\Z", 0),
        (r"(?!ab|é)[aéb]{2}", 0), (r"(?<=\s)a(?=\S)", 0), (r"a.b", 0), (r"a.b", re.DOTALL), (r"[à-ü]a", 0),
        (r"(?![^\w])[a’]", 0), (r"(a)?(?(1)b|é)", 0), (r"(?>a+)b", 0),
        (r"[\d\s]b", 0), (r"[^\d\s]1", 0), (r"(?P<v>a)(?P=v)", re.IGNORECASE), (r"(?!\Ba)\w", 0), (r"(?x) a \ b", 0),
        (r"a(?:b{0,100}1){3}", 0), (r"(?!(?:a(?!é))b)a", 0), (r"\Ba", 0), (r"(?i)(?!S)\w1", 0),
        (r"[^a]", re.IGNORECASE), (r"\bab?\b", re.ASCII), (r"(?<!\w)a1(?!\w)", re.ASCII), (r"\Wa", re.ASCII),
        (r"[^\W\d_]+\d\s", re.ASCII), (r"\S\D1", re.ASCII), (r"k[^s]", re.ASCII | re.IGNORECASE),
        (r"a(?!\W)\D", re.ASCII), (r"[aé][^é]", re.ASCII | re.IGNORECASE), (r"\B1\B", re.ASCII),
    ]
]  # fmt: skip
ALPHABET = "abAB1 _-\n\tsSkKéÉäİıſK’\u0664\u00a0—\u0345ι"


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from(ALPHABET), max_size=12))
def test_nothing_that_matches_is_left_out(text):
    matching = {number for number, pattern in enumerate(PATTERNS) if pattern.search(text)}
    assert matching <= set(shared().candidates(text))


def shared(made: list[Prefilter] = []) -> Prefilter:
    made[:] = made or [Prefilter(PATTERNS)]
    return made[0]


def test_every_character_keeps_its_kind_and_characters_without_a_byte_ask_for_all():
    for code in [*range(128, 0x3000), *range(0x3000, sys.maxunicode, 29)]:
        character = chr(code)
        if 0xD800 <= code <= 0xDFFF:
            continue
        stands_as = as_bytes(character)
        spellings = {character.lower(), character.upper(), character.casefold(), character.title()}
        equal = {
            other for other in spellings if len(other) == 1 and re.fullmatch(re.escape(character), other, re.IGNORECASE)
        }
        if stands_as is None:
            assert len(Prefilter(PATTERNS[:3]).candidates(character)) == 3
            continue
        assert len(stands_as) == 1
        for other in equal:
            assert as_bytes(other) in (stands_as, None), (character, other)
        for kind in (r"\w", r"\s"):
            assert bool(re.fullmatch(kind, character)) is bool(re.fullmatch(kind, stands_as.decode()))


def test_what_has_no_weaker_form_is_always_asked():
    never = [re.compile(r"a(?u:\w)", re.ASCII), re.compile("(?:a|)"), re.compile("a(?a:é)")]
    assert relaxed(never[0]) is relaxed(never[2]) is None
    assert Prefilter([*never, re.compile("zz")]).candidates("q") == [0, 2, 1]
    assert Prefilter([]).candidates("q") == []


def test_the_compiled_form_is_kept_and_made_again_where_it_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path))
    patterns = [re.compile("ab+"), re.compile("cd")]
    compiled = []
    original = prefilter._compiled
    monkeypatch.setattr(prefilter, "_compiled", lambda expressions: compiled.append(1) or original(expressions))
    assert Prefilter(patterns).candidates("xcd") == [1]
    (file,) = (tmp_path / "prefilter").iterdir()
    assert Prefilter(patterns).candidates("xcd") == [1] and len(compiled) == 1
    file.write_bytes(file.read_bytes()[:50])
    assert Prefilter(patterns).candidates("ab") == [0] and len(compiled) == 2
    assert Prefilter(patterns).candidates("ab") == [0] and len(compiled) == 2
    assert Prefilter(patterns[:1]).candidates("ab") == [0] and len(compiled) == 3


@pytest.mark.parametrize("tampered", ["mode", "owner", "link"])
def test_a_compiled_form_that_others_could_have_written_is_not_read(monkeypatch, tmp_path, tampered):
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path))
    Prefilter([re.compile("ab+")])
    (file,) = (tmp_path / "prefilter").iterdir()
    if tampered == "mode":
        file.chmod(0o666)
    elif tampered == "owner":
        if os.getuid():
            pytest.skip("only root can give a file away")
        os.chown(file, 65534, 65534)
    else:
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    compiled = []
    original = prefilter._compiled
    monkeypatch.setattr(prefilter, "_compiled", lambda expressions: compiled.append(1) or original(expressions))
    assert Prefilter([re.compile("ab+")]).candidates("ab") == [0] and len(compiled) == 1


def test_an_expression_that_is_too_large_for_the_engine_is_always_run(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path))
    monkeypatch.setattr(prefilter, "_compiled", refuse_first(prefilter._compiled))
    assert Prefilter([re.compile("ef"), re.compile("gh")]).candidates("ef gh") == [0, 1]
    assert Prefilter([re.compile("ef"), re.compile("ij")]).candidates("zz") == [0]


def refuse_first(compiled):
    import hyperscan

    def take(expressions):
        if 0 in expressions:
            raise hyperscan.error("pattern is too large")
        return compiled(expressions)

    return take


@pytest.mark.parametrize("content", ["", "\x00", "a\x00b", "\x00abc"])
def test_empty_texts_and_zero_bytes(content):
    assert {n for n, pattern in enumerate(PATTERNS) if pattern.search(content)} <= set(shared().candidates(content))
    zero = Prefilter([re.compile("\x00b"), re.compile("qq")])
    assert zero.candidates(content) == ([0] if "\x00b" in content else [])


def test_the_engine_takes_every_expression_of_ours():
    # One that it refuses is run on every text, and finding out which costs seconds at every start.
    expressions = [
        pattern for recognizer in build_recognizers() for _, pattern in getattr(recognizer, "expressions", ())
    ]
    told = {number: text for number, pattern in enumerate(expressions) if (text := relaxed(pattern)) is not None}
    assert prefilter._database(told)[1] == frozenset(told)


def test_a_refused_expression_costs_the_others_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path))
    huge = re.compile("|".join(f"word{number:05d}" for number in range(3000)))
    gate = Prefilter([re.compile("abc"), huge])
    assert gate.candidates("no such thing") == [1]
    assert sorted(gate.candidates("abc")) == [0, 1]
    assert list((tmp_path / "prefilter").glob("*.hs"))
