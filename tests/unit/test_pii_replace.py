"""Replacement modes, and what surrogates keep and hide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftlib.text.pii import Finding, Replacer, checksums
from ftlib.text.pii.replace import MODES
from ftlib.text.pii.surrogate import Surrogates

KEY = b"0123456789abcdef"
TEXT = "Ann met Bob. ann wrote to b@c.org"
FINDINGS = [Finding(0, 3, "PERSON", 1.0), Finding(8, 11, "PERSON", 1.0), Finding(13, 16, "PERSON", 1.0),
            Finding(26, 33, "EMAIL_ADDRESS", 1.0)]  # fmt: skip


def replaced(mode: str, text: str = TEXT, findings: list[Finding] = FINDINGS) -> tuple[str, list[str]]:
    return Replacer(mode, KEY).replace_record([(text, findings)])[0]


def test_token():
    text, values = replaced("token")
    assert text == "[REDACTED_PERSON] met [REDACTED_PERSON]. [REDACTED_PERSON] wrote to [REDACTED_EMAIL_ADDRESS]"
    assert values[3] == "[REDACTED_EMAIL_ADDRESS]"
    assert replaced("drop")[0] == text


def test_numbered_is_consistent_over_the_fields_of_a_record_and_starts_anew():
    replacer = Replacer("numbered", KEY)
    (first, _), (second, _) = replacer.replace_record([(TEXT, FINDINGS), ("BOB", [Finding(0, 3, "PERSON", 1.0)])])
    assert first == "[PERSON_1] met [PERSON_2]. [PERSON_1] wrote to [EMAIL_ADDRESS_1]"
    assert second == "[PERSON_2]"
    assert replacer.replace_record([("BOB", [Finding(0, 3, "PERSON", 1.0)])])[0][0] == "[PERSON_1]"


def test_mask_keeps_length_and_white_space():
    assert replaced("mask", "a b@c", [Finding(0, 5, "PERSON", 1.0)])[0] == "* ***"


def test_overlapping_or_outside_findings_are_refused():
    for findings in ([Finding(0, 5, "A", 1.0), Finding(4, 6, "A", 1.0)], [Finding(0, 99, "A", 1.0)]):
        with pytest.raises(ValueError, match="sorted, disjoint"):
            replaced("token", findings=findings)
    with pytest.raises(ValueError, match="none of"):
        Replacer("tokens", KEY)


entities = st.sampled_from(["PERSON", "LOCATION", "EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "IP_ADDRESS",
                            "STREET_ADDRESS", "DATE_TIME", "ID_NUMBER", "PASSWORD", "AGE", "ORGANIZATION"])  # fmt: skip


@given(
    st.lists(st.tuples(st.text(max_size=6), st.text(min_size=1, max_size=12), entities), max_size=5),
    st.text(max_size=6), st.sampled_from(MODES),
)  # fmt: skip
def test_no_value_stays_at_its_place_and_the_rest_is_untouched(pieces, tail, mode):
    text, findings = "", []
    for before, value, entity in pieces:
        text += before
        findings.append(Finding(len(text), len(text) + len(value), entity, 1.0))
        text += value
    new, values = replaced(mode, text + tail, findings)
    expected = ""
    for (before, value, _), replacement in zip(pieces, values, strict=True):
        expected += before + replacement
        assert replacement != value or not value.strip()
    assert new == expected + tail


@given(entities, st.text(min_size=1, max_size=20))
def test_surrogates_are_deterministic_and_depend_on_the_key(entity, value):
    first, again, other = Surrogates(KEY), Surrogates(KEY), Surrogates(b"another key 1234")
    assert first.make(entity, value) == again.make(entity, value)
    assert isinstance(other.make(entity, value), str)


def test_another_key_gives_other_surrogates():
    values = [f"ID-{number:05d}" for number in range(50)]
    mine, other = Surrogates(KEY), Surrogates(b"another key 1234")
    assert sum(mine.make("ID_NUMBER", value) == other.make("ID_NUMBER", value) for value in values) <= 1


def test_surrogates_keep_form_and_check_digits():
    make = Surrogates(KEY).make
    card = make("CREDIT_CARD", "4111-1111-1111-1111")
    assert checksums.card(card)
    assert [i for i, c in enumerate(card) if c == "-"] == [4, 9, 14]
    iban = make("IBAN_CODE", "GB29 NWBK 6016 1331 9268 19")
    assert checksums.iban(iban)
    assert iban.startswith("GB")
    assert make("US_SSN", "316-46-8416").startswith("9")
    assert make("PERSON", "Dr. Ann Lee").startswith("Dr. ")
    assert make("PERSON", "ann lee") == make("PERSON", "Ann  Lee").lower()
    assert make("EMAIL_ADDRESS", "a@b.org").endswith("@example.com")
    assert len(make("ID_NUMBER", "QX-1123-88")) == 10


def test_dates_of_one_subject_shift_by_one_offset_and_keep_their_intervals():
    from datetime import date

    make = Surrogates(KEY).make
    shifted = [date.fromisoformat(make("DATE_TIME", day, "C-1")) for day in ("2024-02-27", "2024-03-05")]
    assert (shifted[1] - shifted[0]).days == 7
    assert 1 <= abs((shifted[0] - date(2024, 2, 27)).days) <= 182
    assert make("DATE_TIME", "2024-02-27", "C-1") != make("DATE_TIME", "2024-02-27", "C-2")
    month, day, year = make("DATE_OF_BIRTH", "02/27/2024", "C-1").split("/")
    assert date(int(year), int(month), int(day)) == shifted[0]
