"""One folded copy: what is spelt alike is alike in it, and its offsets lead back to the characters as written."""

import itertools
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.config.prepare import PiiConfig
from ftlib.text.pii import PiiAnalyzer
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.fold import fold, spaced
from ftlib.text.pii.windows import find_names, windows

ALPHABET = (
    "aZ5@.- \n\\u&;ü\u0308\u0301\u00ad\u200b\u200d\ufeff\u2013\u00a0\u3000"
    "\uff15\uff0d\u0665\u096b\u1112\u1161\u11abé“’—\U0001f600"
)


@pytest.fixture(scope="module")
def fast() -> PiiAnalyzer:
    return PiiAnalyzer(PiiConfig(profile="fast"))


def values(analyzer: PiiAnalyzer, text: str) -> dict[str, str]:
    return {text[item.start : item.end]: item.entity for item in analyzer.analyze([text])[0]}


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(ALPHABET), max_size=30))
def test_spans_lead_back_in_order_and_cover_the_text(text):
    copy = fold(text)
    assert len(copy.prose) == len(copy.text)
    places = [copy.span(index, index + 1) for index in range(len(copy.text))]
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert places == sorted(places)
    for start, end in places:
        assert all(other in ((start, end),) or other[1] <= start or other[0] >= end for other in places)
    if copy.text:
        assert copy.span(0, len(copy.text)) == (places[0][0], places[-1][1])
    kept = {place for start, end in places for place in range(start, end)}
    gone = "".join(text[place] for place in range(len(text)) if place not in kept)
    assert not any(character.isalnum() and not unicodedata.combining(character) for character in gone)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_composed_and_decomposed_spellings_fold_alike(text):
    assert fold(unicodedata.normalize("NFC", text)).text == fold(unicodedata.normalize("NFD", text)).text


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab1é请и \u200b\u0301-"), max_size=20))
def test_blanks_between_scripts_move_no_place(text):
    copy, wide = fold(text), spaced(fold(text))
    assert wide.text.replace(" ", "") == copy.text.replace(" ", "")
    kept = [place for place, character in enumerate(wide.text) if character != " "]
    letters = [place for place, character in enumerate(copy.text) if character != " "]
    for at, place in zip(kept, letters, strict=True):
        assert wide.span(at, at + 1) == copy.span(place, place + 1)
    assert not re.search("[a-z0-9][请и]|[请и][a-z0-9]|1é|é1", wide.text)


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("５３６－２２－８７４１", "536-22-8741"),
        ("٥٣٦", "536"),
        ("५३६", "536"),
        ("𝟓𝟑𝟔", "536"),
        ("a\u00ad\u200bb", "ab"),
        ("1\u20112\u22123\u20144", "1-2-3-4"),
        ("1\u00a02\u202f3\u20094\u30005", "1 2 3 4 5"),
        ("x＠y．de", "x@y.de"),
        ("Jose\u0301 Mu\u0308ller", "José Müller"),
        ("“a” ‘b’ „c“", '"a" \'b\' "c"'),
        ("536\\u201322", "536-22"),
        ("a&nbsp;b&#64;c", "a b@c"),
        ("AT&T; R&D, C:\\users", "AT&T; R&D, C:\\users"),
        ("a\u2028b\u0085c", "a\nb\nc"),
        ("x\u0338y", "xy"),
    ],
)
def test_readers_see_alike_what_the_copy_spells_alike(written, seen):
    assert fold(written).text == seen


def test_plain_ascii_is_its_own_copy():
    text = "SSN 536-22-8741, A&B".replace("&", "and")
    assert fold(text).text is text and fold(text).same_places


def test_many_marks_on_one_letter_take_linear_time_and_go():
    assert fold("a" + "\u0301\u0323" * 200_000).text in ("ạ́", "á\u0323", "ạ")


CARD, SSN, MAIL = "4539-5787-6362-1486", "536-22-8741", "anna@firma-beispiel.de"
SCRIPTS = [
    "请{}谢谢",
    "は{}です",
    "는{}입니다",
    "это{}да",
    "هو{}هنا",
    "é{}é",
    "ก{}ข",
    "यह{}है",
    "זה{}כן",
    "αυτό{}ναι",
    "ß{}ü",
    "ქ{}ქ",
]


@pytest.mark.parametrize("frame", SCRIPTS)
@pytest.mark.parametrize(
    "value", [CARD, SSN, "00:1B:44:11:3A:B7", "203.0.113.77", "DE89370400440532013000", "sk_live_4f8Gh2Kd9Qw3Zx7Lp1Rt"]
)
def test_a_value_is_found_beside_any_script(fast, frame, value):
    assert value in values(fast, frame.format(value))


@pytest.mark.parametrize("frame", [frame for frame in SCRIPTS if not set("éßü") & set(frame)])
def test_an_address_and_a_name_are_found_beside_any_other_script(fast, frame):
    assert values(fast, frame.format(MAIL)).get(MAIL) == "EMAIL_ADDRESS"
    assert values(fast, frame.format("Maria Gonzalez")).get("Maria Gonzalez") == "PERSON"


@pytest.mark.parametrize("dash", "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d")
@pytest.mark.parametrize("value", [CARD, SSN, "415-555-0132"])
def test_any_dash_will_do(fast, dash, value):
    written = value.replace("-", dash)
    assert written in values(fast, f"It is {written}, as I said.")


@pytest.mark.parametrize("blank", "\u00a0\u2002\u2009\u202f\u3000")
def test_any_blank_will_do(fast, blank):
    written = CARD.replace("-", blank)
    assert values(fast, f"It is {written}, as I said.") == {written: "CREDIT_CARD"}
    assert values(fast, f"Dear Hannah{blank}Vogelsang, thank you.") == {f"Hannah{blank}Vogelsang": "PERSON"}


@pytest.mark.parametrize("mark", "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202a")
@pytest.mark.parametrize("value", [CARD, SSN, MAIL])
def test_characters_without_width_neither_hide_a_value_nor_stay_in_it(fast, mark, value):
    written = mark.join(value)
    assert list(values(fast, f"It is {written} as I said.")) == [written]


@pytest.mark.parametrize(
    "text", ["Please call José Martínez about it.", "Jürgen Großmann lives here.", "Calle Álvarez 12, 28014 Madrid."]
)
def test_decomposed_accents_hide_nothing(fast, text):
    decomposed = unicodedata.normalize("NFD", text)
    found = {unicodedata.normalize("NFC", value) for value in values(fast, decomposed)}
    assert found and found == set(values(fast, text))


@pytest.mark.parametrize(
    "value",
    [
        "4539  5787  6362  1486",
        "4539 5787\n6362 1486",
        "4539-5787 6362-1486",
        "4539.5787.6362.1486",
        "4539_5787_6362_1486",
        "45 39 57 87 63 62 14 86",
        "4539 - 5787 - 6362 - 1486",
        "4539\\n5787\\n6362\\n1486",
        "4539578763621486",
        "378282 246310005",
        "3782-822463-10005",
        "GB29.NWBK.6016.1331.9268.19",
        "GB29 NWBK  6016\n1331 9268 19",
    ],
)
def test_numbers_with_check_digits_are_found_with_any_separators(fast, value):
    for frame in ("I paid with {} yesterday.", "see no.{} in the list", "user_{}_x is the key", "12 {} 7"):
        assert any(value in found for found in values(fast, frame.format(value))), frame


@pytest.mark.parametrize(
    "text",
    [
        "The series 4539, 5787, 6362, 1487 is none.",
        "1 2 3 4 5 6 7 8 9 10 11 12 13",
        "Years 2001, 2002, 2003, 2004, 2005.",
        "pi is 3.14159265358979323846",
        "0.4539578763621486 of it",
        "4, 5, 39, 57, 87, 63, 62, 14, 86",
    ],
)
def test_rows_of_numbers_are_no_cards(fast, text):
    assert "CREDIT_CARD" not in values(fast, text).values()


def test_lists_of_ones_own_match_folded_spellings_in_any_script():
    config = PiiConfig.model_validate(
        {
            "profile": "custom",
            "deny_list": {"PROJECT": ["Blue–Heron", "李雷"]},
            "allow_list": ["x-1"],
            "patterns": [{"entity": "TICKET", "regex": r"x-\d"}],
        }
    )
    analyzer = PiiAnalyzer(config)
    assert values(analyzer, "das Blue\u2011Heron, x\u20132 und x\u20131, Blue-Herons") == {
        "Blue\u2011Heron": "PROJECT",
        "x\u20132": "TICKET",
    }
    assert values(analyzer, "昨天李雷来了") == {"李雷": "PROJECT"}


@given(st.text(st.sampled_from("ab \n"), max_size=400), st.integers(8, 60))
def test_windows_cover_a_text_and_are_short(text, limit):
    places = windows(text, limit, limit // 4)
    assert places[0][0] == 0 and places[-1][1] == len(text)
    assert all(end - start <= limit for start, end in places)
    assert all(before[0] < after[0] <= before[1] for before, after in itertools.pairwise(places))


def test_names_in_windows_are_those_of_the_whole_text_found_once():
    text = " ".join(f"word{number} Name{number % 7} more" for number in range(900))

    def find(texts):
        assert all(len(one) <= 500 for one in texts)
        return [[Finding(m.start(), m.end(), "PERSON", 0.7) for m in re.finditer(r"\bName\d\b", one)] for one in texts]

    (found,) = find_names(find, [text], 500)
    assert [text[item.start : item.end] for item in found] == [f"Name{number % 7}" for number in range(900)]


def test_a_backslash_with_an_accent_is_no_escape():
    assert fold("a\\\u0301 b").text


@pytest.mark.parametrize("escape", [r"\n", r"\t", r"\r\n", r"\n\n", r"\\n", r"\\\\t", r"\"", r"\'", r"\/"])
@pytest.mark.parametrize(
    "value",
    [
        "212-555-0187", "+1 212-555-0187", "078-05-1120", "192.168.10.7", "2001:0db8:85a3::8a2e:0370:7334",
        "00:1B:44:11:3A:B7", "https://jane-roe.example.com/x", "AKIAIOSFODNN7EXAMPLE",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789", "jane.roe@example.com", "DE89 3704 0044 0532 0130 00",
    ],
)  # fmt: skip
def test_a_value_behind_an_escape_is_found(fast, escape, value):
    text = f"Told us:{escape}{value}, {escape}as before"
    start, end = text.index(value), text.index(value) + len(value)
    found = fast.analyze([text])[0]
    assert any(item.start <= start and end <= item.end for item in found)
    # Nothing but the escape may go with it.
    assert all(item.start >= start - len(escape) and item.end <= end for item in found)


@pytest.mark.parametrize(
    "text", [r"C:\new\reports\temp", r"\\server\tools", r"\text{a} \ref{b}", r"a\nb", r"\times 5", r"{\rm kg}"]
)
def test_a_path_or_a_command_is_no_escape(text):
    assert fold(text).text == text


@settings(deadline=None)
@given(st.text(alphabet="\\nrt/\"'u2013a1 \u0301", max_size=30))
def test_escapes_keep_the_places(text):
    copy = fold(text)
    places = [copy.span(at, at + 1) for at in range(len(copy.text))]
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert places == sorted(places)
