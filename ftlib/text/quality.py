"""Quality filters on redacted text, each with the reason it gives.

In: the texts of a record that are learnt from. Out: the first filter that says no, or None. All are cheap heuristics of
the Gopher family (Rae et al. 2021, appendix A), and redaction tokens (`[REDACTED_PERSON]`, `[PERSON_1]`) count as one
word and not as symbols, so that redaction alone does not get a record dropped.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ftlib.config.prepare import FilterConfig

REASONS = ("too_short", "too_long", "mostly_redacted", "repetitive", "symbols")
_PLACEHOLDER = re.compile(r"\[(?:REDACTED_[A-Z0-9_]+|[A-Z][A-Z0-9_]*_[0-9]+)\]")
_TOKEN = re.compile(r"\[(?:REDACTED_[A-Z0-9_]+|[A-Z][A-Z0-9_]*_[0-9]+)\]|\w+|[^\w\s]")
_SYMBOL = re.compile(r"[^\w\s]|_")
_MIN_REPETITION_WORDS = 20
_MIN_SYMBOL_CHARS = 20


def tokenize(text: str) -> list[str]:
    """Words, single punctuation marks, and redaction tokens as one each."""
    return _TOKEN.findall(text)


def failed_filter(texts: Sequence[str], config: FilterConfig) -> str | None:
    """The reason why a record is dropped, one of `REASONS`, or None."""
    if not config.enabled:
        return None
    tokens = [tokenize(text) for text in texts]
    num_tokens = sum(map(len, tokens))
    words = [token for own in tokens for token in own if len(token) > 1 or token.isalnum()]
    redacted = sum(1 for token in words if token[0] == "[")
    verdicts = (
        num_tokens < config.min_tokens,
        num_tokens > config.max_tokens,
        redacted > config.max_redacted_ratio * len(words),
        any(_repetition(own) > config.max_repetition for own in tokens),
        symbol_ratio("\n".join(texts)) > config.max_symbol_ratio,
    )
    return next((reason for reason, failed in zip(REASONS, verdicts, strict=True) if failed), None)


def repetition(text: str) -> float:
    """Share of a text's words that lie in a 3-gram seen more than once; 0 below 20 words, where chance repeats."""
    return _repetition(tokenize(text))


def _repetition(tokens: Sequence[str]) -> float:
    words = [token.lower() for token in tokens if token[0].isalnum()]
    if len(words) < _MIN_REPETITION_WORDS:
        return 0.0
    grams = list(zip(words, words[1:], words[2:], strict=False))
    if len(set(grams)) == len(grams):
        return 0.0
    counts = Counter(grams)
    covered = [False] * len(words)
    for i, gram in enumerate(grams):
        if counts[gram] > 1:
            covered[i] = covered[i + 1] = covered[i + 2] = True
    return sum(covered) / len(words)


def symbol_ratio(text: str) -> float:
    """Share of characters that are neither letters, digits nor white space, redaction tokens left out."""
    bare = _PLACEHOLDER.sub("", text)
    if len(bare) < _MIN_SYMBOL_CHARS:
        return 0.0
    return sum(1 for char in _SYMBOL.findall(bare) if char.isascii() or not _is_mark(char)) / len(bare)


def _is_mark(char: str) -> bool:
    """Vowel signs and accents of their own (as in Devanagari) belong to letters."""
    return unicodedata.category(char)[0] == "M"
