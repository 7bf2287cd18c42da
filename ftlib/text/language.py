"""Which language a text is in, by its letters and its function words.

In: a text. Out: an ISO 639-1 code, or `und` where nothing tells. Scripts that one language owns decide alone; texts in
Latin or Cyrillic letters go to the language with most stop words (spaCy's lists), which has to stand out from the next.
Meant for counting a corpus and choosing a pipeline, not for single words. Cost: about 50 µs a text.
"""

import importlib
import re
import unicodedata
from collections import Counter
from functools import lru_cache

UNKNOWN = "und"
NO_LANGUAGE = "zxx"
"""ISO 639's code for what is in no language, such as a number."""
_BY_SCRIPT = {
    "GREEK": "el", "HEBREW": "he", "ARABIC": "ar", "THAI": "th", "HANGUL": "ko", "HIRAGANA": "ja", "KATAKANA": "ja",
    "CJK": "zh", "DEVANAGARI": "hi", "BENGALI": "bn", "TAMIL": "ta", "TELUGU": "te", "GEORGIAN": "ka",
    "ARMENIAN": "hy",
}  # fmt: skip
_LATIN = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "pl", "ro", "fi", "cs", "tr")
_CYRILLIC = ("ru", "uk", "bg", "sr")
# Of two letters at least: single ones are words of a dozen languages, and list markers in all.
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’][^\W\d_]+)?|[^\W\d_]['’][^\W\d_]+")
_SAMPLE_CHARS = 2000
_MIN_HITS, _MIN_SHARE, _LEAD = 2, 0.12, 1.15
_MIN_LETTERS, _SURE_HITS, _SURE_SHARE, _SURE_LEAD = 4, 3, 0.2, 1.5
"""For `confident_language`: letters, different stop words, their share, and how far they lead English ones."""


@lru_cache(maxsize=32)
def stop_words(language: str) -> frozenset[str]:
    """spaCy's stop words of a language; empty where it has none."""
    try:
        return frozenset(importlib.import_module(f"spacy.lang.{language}.stop_words").STOP_WORDS)
    except ImportError:
        return frozenset()


def detect_language(text: str) -> str:
    """The language of a text, `und` where it is too short or mixed to tell."""
    text = text[:_SAMPLE_CHARS]
    script = _script(text)
    if script in _BY_SCRIPT:
        return _BY_SCRIPT[script]
    candidates = {"LATIN": _LATIN, "CYRILLIC": _CYRILLIC}.get(script, ())
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    if not candidates or not words:
        return UNKNOWN
    hits = sorted(
        ((sum(word in stop_words(language) for word in words), -i) for i, language in enumerate(candidates)),
        reverse=True,
    )
    (best, index), (second, _) = hits[0], hits[1]
    if best < min(_MIN_HITS, len(words)) or best < _MIN_SHARE * len(words) or best < _LEAD * second:
        return UNKNOWN
    return candidates[-index]


def confident_language(text: str) -> str:
    """The language of a text where there is little doubt, else `und`: for what depends on it being right."""
    found = detect_language(text)
    sample = text[:_SAMPLE_CHARS]
    letters = sum(map(str.isalpha, sample))
    if found == UNKNOWN or letters < _MIN_LETTERS:
        return UNKNOWN
    if found not in (*_LATIN, *_CYRILLIC):
        own = _BY_SCRIPT.get(_script(sample)) == found
        share = sum(_script_of(character) not in ("LATIN", "") for character in sample if character.isalpha())
        return found if own and share >= 0.5 * letters else UNKNOWN
    words = [word.lower().replace("’", "'") for word in _WORD.findall(sample)]
    hits = [word for word in words if word in stop_words(found)]
    english = sum(word in stop_words("en") for word in words) if found != "en" else 0
    sure = len(set(hits)) >= _SURE_HITS and len(hits) >= max(_SURE_SHARE * len(words), _SURE_LEAD * english)
    return found if sure else UNKNOWN


def _script(text: str) -> str:
    """The script of most letters; Japanese where kana stand among Chinese characters."""
    letters = Counter(_script_of(character) for character in text if character.isalpha())
    if letters["HIRAGANA"] + letters["KATAKANA"] > 0.05 * sum(letters.values()):
        return "HIRAGANA"
    return max(letters, key=lambda name: (letters[name], name)) if letters else ""


@lru_cache(maxsize=4096)
def _script_of(character: str) -> str:
    return unicodedata.name(character, "").split(" ", 1)[0]
