"""How a model's tokenizer takes to a corpus: lengths in tokens, tokens a word, and the words it cuts up most.

In: redacted texts of a sample of clean records. Out: `TokenCounts`, which add up in any order. Redaction tokens are
left out. Words are kept only as far as they occur, each once a record, so that a report can name the frequent ones.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftlib.text.quality import tokenize

MIN_TERM_RECORDS = 5
"""A word in fewer records than this is never named: it might be a name that redaction missed."""
MIN_PIECES = 4
NUM_TERMS = 20
_TERM = re.compile(r"[^\W\d_]{4,40}")
"""Single characters of scripts without blanks are words (`text.scripts`), but never terms."""


@dataclass
class TokenCounts:
    """Counts of a sample."""

    lengths: Counter[int] = field(default_factory=Counter)
    """Tokens of a record → records."""
    num_words: int = 0
    terms: Counter[str] = field(default_factory=Counter)
    """Lower-cased word → records with it."""

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(self.lengths + other.lengths, self.num_words + other.num_words, self.terms + other.terms)


Encode = Callable[[list[str]], list[int]]
"""Texts → number of tokens of each."""


def encoder(tokenizer: Any) -> Encode:
    """Token counts by a Hugging Face tokenizer, without special tokens."""

    def encode(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []

    return encode


def count_tokens(records: Sequence[Sequence[str]], encode: Encode) -> TokenCounts:
    """Counts of records, each given as its texts."""
    counts = TokenCounts()
    for texts in records:
        counts.lengths[sum(encode(list(texts)))] += 1
        words = [word for text in texts for word in tokenize(text) if word[0].isalnum()]
        counts.num_words += len(words)
        counts.terms.update({word.lower() for word in words if _TERM.fullmatch(word)})
    return counts


def fragmented(counts: TokenCounts, encode: Encode) -> list[dict[str, Any]]:
    """The words that cost most pieces over all records: `term`, `num_records`, `num_pieces`."""
    frequent = sorted(term for term, n in counts.terms.items() if n >= MIN_TERM_RECORDS)
    pieces = dict(zip(frequent, encode([f" {term}" for term in frequent]), strict=True))
    cut = [term for term in frequent if pieces[term] >= MIN_PIECES]
    cut.sort(key=lambda term: (-counts.terms[term] * pieces[term], term))
    return [{"term": term, "num_records": counts.terms[term], "num_pieces": pieces[term]} for term in cut[:NUM_TERMS]]
