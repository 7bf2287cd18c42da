"""Keys of people that are written alike: folded, so that a likely second spelling of one person can be told of.

One person's key may stand in two systems as `K-0012` and `k 12`. Such keys are never merged: they may be two people.
Erasure counts the rows under them as a warning. Datasets hold the keyed hash of the folded form
(`lineage.parquet`, `subject_folded`), nothing else of it.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftlib.data import schema as s
from ftlib.text.keyed import KeyedHash

FOLDED_PURPOSE = "subject folded"

_TAG = re.compile(r"\+[^@]*(?=@[^@]+$)")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_OTHER = re.compile(r"[\W_]+")


def folded_key(key: str) -> str:
    """Return a key without what spellings differ in; empty where nothing is left.

    Gone are case, accents, the width and script of digits, leading zeros, blanks, dashes, other punctuation, and the
    `+tag` of an e-mail address.
    """
    if key.isascii():
        return _OTHER.sub("", _ZEROS.sub("", _TAG.sub("", key.lower())))
    wide = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", key).casefold())
    plain = "".join(_digit(char) for char in wide if not unicodedata.combining(char) and _is_visible(char))
    return _OTHER.sub("", _ZEROS.sub("", _TAG.sub("", plain)))


def _digit(char: str) -> str:
    value = unicodedata.decimal(char, None)
    return char if value is None else str(value)


def _is_visible(char: str) -> bool:
    """Whether a character is none of those that only direct others: zero-width, bidirectional, soft hyphen."""
    return unicodedata.category(char) != "Cf"


def folded_hash(hasher: KeyedHash, key: str) -> str | None:
    """What stands in a dataset for a folded key. `hasher`: `KeyedHash(key, FOLDED_PURPOSE)`."""
    folded = folded_key(key)
    return hasher.hex(folded.encode("utf-8", "surrogatepass")) if folded else None


def near_rows(lineage: pa.Table, subjects: frozenset[str], folded: frozenset[str]) -> np.ndarray:
    """Which rows stand under another key than these that folds to the same; bool [num_rows of lineage].

    Args:
        lineage: `schema.LINEAGE` with `subject_folded`.
        subjects: keyed hashes of the keys themselves.
        folded: keyed hashes of their folded forms.
    """
    alike = pc.is_in(lineage[s.SUBJECT_FOLDED], pa.array(sorted(folded), pa.string()))
    same = pc.is_in(lineage[s.SUBJECT], pa.array(sorted(subjects), pa.string()))
    found: np.ndarray = pc.and_not(alike, same).to_numpy(zero_copy_only=False).astype(bool)
    return found


def near_ids(ids: Iterable[Any], wanted: Iterable[str]) -> list[str]:
    """Return the ids that fold to the same as one of the wanted, without these themselves; sorted."""
    exact = set(wanted)
    folded = {folded_key(id_) for id_ in exact} - {""}
    return sorted({id_ for id_ in ids if id_ and id_ not in exact and folded_key(id_) in folded})
