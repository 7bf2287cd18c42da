"""Which language a text is surely in: the NER model that reads it depends on it."""

import pytest

from ftlib.text.language import UNKNOWN, confident_language

TEXTS = {
    "en": "Hello, I write to you because the lamp in my room has not worked for a week and nobody answers the phone.",
    "de": "Guten Tag, ich schreibe Ihnen, weil die Lampe in meinem Zimmer seit einer Woche nicht mehr funktioniert.",
    "fr": "Bonjour, je vous écris parce que la lampe de ma chambre ne marche plus depuis une semaine.",
    "es": "Hola, les escribo porque la lámpara de mi habitación no funciona desde hace una semana y nadie contesta.",
    "it": "Buongiorno, vi scrivo perché la lampada della mia camera non funziona da una settimana e nessuno risponde.",
    "nl": "Goedendag, ik schrijf u omdat de lamp in mijn kamer al een week niet meer werkt en niemand mij antwoordt.",
    "pt": "Bom dia, escrevo porque a lâmpada do meu quarto não funciona há uma semana e ninguém me responde.",
    "pl": "Dzień dobry, piszę do Państwa, ponieważ lampa w moim pokoju od tygodnia nie działa i nikt mi nie odpowiada.",
    "ru": "Здравствуйте, я пишу вам, потому что лампа в моей комнате уже неделю не работает и никто мне не отвечает.",
    "zh": "您好，我房间的灯已经坏了一个星期，没有人来修理，请尽快回复。",
    "ja": "こんにちは。私の部屋のランプが一週間前から壊れていて、誰も修理に来ません。",
    "ko": "안녕하세요. 제 방의 램프가 일주일 전부터 고장 났는데 아무도 수리하러 오지 않습니다.",
    "ar": "مرحبا، أكتب إليكم لأن مصباح غرفتي لا يعمل منذ أسبوع ولا أحد يجيب على الهاتف.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_sentence_is_enough(language):
    assert confident_language(TEXTS[language]) == language


@pytest.mark.parametrize(
    "text",
    [
        "", "OK", "die", "42", "Wolperdinger", "der alte", "Contact: Müller, Zürich", "[2026-03-18] a.b@c.com updated.",
        "Card declined 東京", "Anna Schmidt\nHauptstraße 5\n10115 Berlin", "Error 0x80070005: access denied",
    ],
)  # fmt: skip
def test_little_text_tells_nothing(text):
    assert confident_language(text) == UNKNOWN


def test_english_with_foreign_names_and_quotes_stays_english():
    text = "I have asked for a refund of the lamp that I bought in Zürich, and 東京 was written on the box of it."
    assert confident_language(text) == "en"
