"""Quality filters on redacted text, each with the reason it gives.

In: the texts of a record that are learnt from. Out: the first filter that says no, or None. All are cheap heuristics of
the Gopher and C4 families (Rae et al. 2021, appendix A; Raffel et al. 2020, section 2.2), and redaction tokens
(`[REDACTED_PERSON]`, `[PERSON_1]`) count as one word and not as symbols, so that redaction alone does not get a record
dropped.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from ftlib.config.prepare import FilterConfig
from ftlib.text.hygiene import TEMPLATE, issues
from ftlib.text.language import UNKNOWN, detect_language
from ftlib.text.scripts import INVISIBLE, MARK, character_set, stands_alone, word_pattern

REASONS = (
    "too_short", "too_long", "mostly_redacted", "repetitive", "symbols", "boilerplate", "template", "refusal",
    "language",
)  # fmt: skip
_PLACEHOLDER = re.compile(r"\[(?:REDACTED_[A-Z0-9_]+|[A-Z][A-Z0-9_]*_[0-9]+)\]")
_TOKEN = re.compile(rf"{_PLACEHOLDER.pattern}|\w+|[^\w\s]")
_SYMBOL = re.compile(r"[^\w\s]|_")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]*")
_MAIL = r"(?:e-?mail|message)"
_BOILERPLATE = re.compile(
    rf"this {_MAIL}(?: \w+){{0,6}} (?:is|are|may be|contains?) (?:\w+ ){{0,3}}(?:confidential|privileged|intended)|"
    rf"if you (?:are not the intended|have received this {_MAIL} in error)|"
    rf"please consider the environment before printing|this is an automat(?:ed|ic)(?:ally generated)? {_MAIL}|"
    rf"do not reply to this {_MAIL}|\bunsubscribe\b|view (?:this (?:e-?mail )?)?in (?:your|a) browser|"
    r"\b(?:we|this (?:web)?site) uses? cookies|\baccept (?:all )?cookies|all rights reserved|©|"
    r"terms (?:of (?:use|service)|and conditions)[ |]+privacy policy|enable javascript|lorem ipsum",
    re.IGNORECASE,
)
_BOILERPLATE_WORDS = (
    "confidential", "privileged", "intended", "in error", "the environment", "automat", "do not reply", "unsubscribe",
    "browser", "cookies", "reserved", "©", "privacy policy", "javascript", "lorem ipsum",
)  # fmt: skip
"""One of them is in every text that the expression matches, and to look for them costs a fiftieth."""
_CANNOT = r"i(?: can(?:no|['’])t| am unable to| am not able to|['’]m unable to)"
_REFUSAL = re.compile(
    r"\W*(?:as an? (?:ai|artificial intelligence|large language|language model)|"
    r"(?:i['’]?m|i am) (?:just |only )?an? (?:ai|(?:large )?language model)|"
    rf"(?:(?:i['’]?m|i am) )?(?:very |so )?sorry,? (?:but )?(?:as an ai|{_CANNOT} "
    r"(?:assist|help|fulfil|comply|provide|answer|continue|do that|generate|create))|"
    rf"{_CANNOT} (?:assist|help|comply|fulfil\w*) (?:you )?with (?:that|this|your) request)",
    re.IGNORECASE,
)
_MIN_REPETITION_WORDS = 20
_REPETITION_NGRAM, _REPETITION_NGRAM_UNSPACED = 3, 6
"""Three words are about six characters of a script without blanks; three of these come again by chance."""
_MIN_SYMBOL_CHARS = 20


def tokenize(text: str) -> list[str]:
    """Words, single punctuation marks, and redaction tokens as one each.

    In scripts without blanks between words every character is a word (`text.scripts`), so that a length in tokens means
    about the same in all of them.
    """
    return (_TOKEN if text.isascii() else _any_token()).findall(text)


@cache
def _any_token() -> re.Pattern[str]:
    marks = character_set(MARK, INVISIBLE)
    return re.compile(rf"{_PLACEHOLDER.pattern}|{word_pattern()}|[^\s{marks}][{marks}]*")


def failed_filter(texts: Sequence[str], config: FilterConfig) -> str | None:
    """The reason why a record is dropped, one of `REASONS`, or None."""
    if not config.enabled:
        return None
    whole = "\n".join(texts)
    tokens = [tokenize(text) for text in texts]
    num_tokens = sum(map(len, tokens))
    words = [token for own in tokens for token in own if token[0].isalnum() or len(token) > 1]
    redacted = sum(1 for token in words if token[0] == "[")
    verdicts = (
        num_tokens < config.min_tokens,
        num_tokens > config.max_tokens,
        redacted > config.max_redacted_ratio * len(words),
        any(_repetition(own) > config.max_repetition for own in tokens),
        symbol_ratio(whole) > config.max_symbol_ratio,
        boilerplate_ratio(whole) > config.max_boilerplate,
        config.templates == "drop" and any(TEMPLATE in issues(text) for text in texts),
        config.refusals == "drop" and is_refusal(texts[-1]),
        bool(config.languages) and detect_language(whole) not in (*config.languages, UNKNOWN),
    )
    return next((reason for reason, failed in zip(REASONS, verdicts, strict=True) if failed), None)


def quality(text: str) -> float:
    """How little of a text is repetition, symbols and boilerplate, 0 … 1; halved by each kind of damage (`hygiene`)."""
    clean = (1 - repetition(text)) * (1 - symbol_ratio(text)) * (1 - boilerplate_ratio(text))
    return float(clean * 0.5 ** len(issues(text)))


def repetition(text: str) -> float:
    """Share of a text's words that lie in a 3-gram seen more than once; 0 below 20 words, where chance repeats.

    A text that mostly consists of single characters of scripts without blanks is measured by 6-grams of these.
    """
    return _repetition(tokenize(text))


def _repetition(tokens: Sequence[str]) -> float:
    words = [token.lower() for token in tokens if token[0].isalnum()]
    if len(words) < _MIN_REPETITION_WORDS:
        return 0.0
    unspaced = 2 * sum(1 for word in words if not word.isascii() and stands_alone(word)) > len(words)
    size = _REPETITION_NGRAM_UNSPACED if unspaced else _REPETITION_NGRAM
    grams = list(zip(*(words[i:] for i in range(size)), strict=False))
    if len(set(grams)) == len(grams):
        return 0.0
    counts = Counter(grams)
    covered = [False] * len(words)
    for i, gram in enumerate(grams):
        if counts[gram] > 1:
            covered[i : i + size] = [True] * size
    return sum(covered) / len(words)


def symbol_ratio(text: str) -> float:
    """Share of characters that are neither letters, digits nor white space, redaction tokens left out."""
    bare = _PLACEHOLDER.sub("", text)
    if len(bare) < _MIN_SYMBOL_CHARS:
        return 0.0
    return sum(1 for char in _SYMBOL.findall(bare) if char.isascii() or not _is_mark(char)) / len(bare)


def boilerplate_ratio(text: str) -> float:
    """Share of a text's characters in sentences or lines that come with every letter or page of a kind."""
    lowered = text.lower()
    if not any(word in lowered for word in _BOILERPLATE_WORDS):
        return 0.0
    sentences = _SENTENCE.findall(text)
    return sum(len(sentence) for sentence in sentences if _BOILERPLATE.search(sentence)) / sum(map(len, sentences))


def is_refusal(answer: str) -> bool:
    """Whether an answer begins as an assistant's refusal, rather than as a person's no."""
    return _REFUSAL.match(answer) is not None


def _is_mark(char: str) -> bool:
    """Vowel signs and accents of their own (as in Devanagari) belong to letters."""
    return unicodedata.category(char)[0] == "M"
