"""The form of a text in which two records count as the same: NFKC, lower case, single spaces."""

import unicodedata


def normalize(text: str) -> str:
    """Unicode NFKC, lower case (`casefold` would merge words that differ, as in ß/ss), white space to single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.lower().split())
