"""Values named by a tag or a column; passwords behind labels of other languages keep all their letters."""

import string

import pytest

from ftlib.config.prepare import PiiConfig
from ftlib.text.pii import PiiAnalyzer

ANALYZER = PiiAnalyzer(PiiConfig(profile="fast"))


def found(text):
    return [(item.entity, text[item.start : item.end]) for item in ANALYZER.analyze([text])[0]]


def test_elements_are_read_with_their_tags():
    text = (
        '<customer id="7"><name>Ottoline Kray</name><br><pin type="t">904417</pin>\n<userName>kray77</userName>'
        "<login><password> aZ9!kitten </password></login><mrn>77120934</mrn></customer>"
    )
    assert found(text) == [
        ("PERSON", "Ottoline Kray"),
        ("PASSWORD", "904417"),
        ("USERNAME", "kray77"),
        ("PASSWORD", "aZ9!kitten"),
        ("MEDICAL_RECORD_NUMBER", "77120934"),
    ]


@pytest.mark.parametrize("frame", [("| ", " |"), ("", "")])
def test_cells_are_read_with_their_columns(frame):
    rows = ["Customer Name | Password | Note", "--- | :---: | ---", "Ottoline Kray | aZ9!kitten | calls daily",
            "Ed Ipsen | | none"]  # fmt: skip
    text = "See:\n\n" + "\n".join(f"{frame[0]}{row}{frame[1]}" for row in rows) + "\n\nThanks."
    assert found(text) == [("PERSON", "Ottoline Kray"), ("PASSWORD", "aZ9!kitten"), ("PERSON", "Ed Ipsen")]


@pytest.mark.parametrize(
    "text",
    [
        "| Name | Type | Default |\n|---|---|---|\n| Row Count | integer | 25 |\n| Sort Order | text | Ascending |",
        "<ul><li>Open Settings</li><li>Choose Network</li></ul><p>Then <b>Restart Now</b>.</p>",
        "<product><name>Kettle Deluxe</name><code>100</code><city>Ascending</city></product>",
        "<password></password><pin>****</pin><password>required</password>",
        "a | b\nc | d, and -- no table",
        "</password> 1234 <pin>",
    ],
)
def test_names_of_things_stay(text):
    assert found(text) == []


def test_hostile_tags_and_tables_end():
    for text in (
        "<a>" * 40_000 + "</a>" * 40_000,
        "<a><b></a>" * 20_000,
        "|--|\n" * 40_000,
        "|-" * 60_000,
        "<" * 90_000,
    ):
        assert found(text) == []


LABELS = [
    "Passwort:",
    "mot de passe :",
    "contraseña:",
    "hasło to",
    "senha é",
    "пароль:",
    "密码：",
    "비밀번호는 ",
    "Kennwort ist",
]


@pytest.mark.parametrize("label", LABELS)
def test_a_password_is_found_with_all_letters(label):
    """`k` is the small letter of the Kelvin sign too: a class of signs must not leave it out."""
    for letter in string.ascii_letters:
        value = f"Zx9!{letter}waTTp2q"
        text = f"{label} {value} ."
        assert ("PASSWORD", value) in found(text), (label, letter)


@pytest.mark.parametrize(
    "text",
    ["Das Passwort ist falsch.", "Het wachtwoord is verlopen.", "A senha é obrigatória.", "Hasło to ciąg znaków."],
)
def test_what_is_said_of_passwords_stays(text):
    assert found(text) == []


@pytest.mark.parametrize("text", ["Passwort: sonnenschein", "Das Passwort ist 'sonnenschein'", "密码是sonnenschein"])
def test_a_plain_word_is_a_password_where_a_sign_says_so(text):
    assert found(text) == [("PASSWORD", "sonnenschein")]
