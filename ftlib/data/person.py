"""Whose records an erasure is about: keys in their canonical form, their hashes, and how a key is found in a text.

The keys themselves never leave memory: what is written down is their keyed hash.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ftlib.config.erase import EraseConfig
from ftlib.core.errors import UserError
from ftlib.core.storage import local_path
from ftlib.data.near_keys import FOLDED_PURPOSE, folded_hash
from ftlib.data.read import SUBJECT_PURPOSE, subject_hash
from ftlib.data.redact import GIVEN_ID
from ftlib.data.values import RowError, as_key
from ftlib.text.keyed import KeyedHash

MIN_TEXT_KEY_CHARS = 4
"""A shorter key (`17`) stands in texts of everybody: it is looked for as a whole value only."""

_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Person:
    """Hashes of keys as they stand in a dataset, and the keys."""

    subjects: frozenset[str]
    """Keyed hashes of the subjects' keys."""
    ids: frozenset[str]
    """Record ids, as given and as the keyed hash that may stand for one."""
    hashed_ids: frozenset[str]
    """The keyed hashes among `ids`: what may be written down."""
    keys: tuple[str, ...]
    """All keys in clear, canonical."""
    folded: frozenset[str] = frozenset()
    """Keyed hashes of the subjects' folded keys (`data.near_keys`)."""
    older: frozenset[str] = frozenset()
    """Hashes of spellings that versions before the canonical form kept apart: `4711.0`, ` 4711`."""
    plain_ids: frozenset[str] = field(default=frozenset(), repr=False)
    """Record ids in clear."""

    def names(self, value: Any) -> bool:
        """Whether a value of a record is one of the keys, however it is stored."""
        try:
            return as_key(value, "") in self.keys
        except RowError:
            return False

    def is_in(self, text: str) -> bool:
        """Whether a key stands in a text by itself, not inside a longer word or number."""
        composed = unicodedata.normalize("NFC", text)
        return any(pattern.search(composed) for key in self.keys if (pattern := _pattern(key)))

    def is_in_raw(self, raw: bytes) -> bool:
        """Whether a key stands in the raw bytes of a row, as it is or as JSON spells it."""
        text = raw.decode("utf-8", "replace")
        return self.is_in(text) or ("\\u" in text and self.is_in(_unescaped(text)))

    def place_in(self, value: Any) -> str | None:
        """Where a JSON value holds a key: `field` (a whole value), `text` (within one), or None."""
        found = None
        for leaf in _leaves(value):
            if self.names(leaf):
                return "field"
            if isinstance(leaf, str) and found is None and self._in_long(leaf):
                found = "text"
        return found

    def _in_long(self, text: str) -> bool:
        keys = tuple(key for key in self.keys if len(key) >= MIN_TEXT_KEY_CHARS)
        composed = unicodedata.normalize("NFC", text)
        return any(pattern.search(composed) for key in keys if (pattern := _pattern(key)))


def _pattern(key: str) -> re.Pattern[str] | None:
    if not key:
        return None
    if _NUMBER.fullmatch(key):
        return re.compile(rf"(?<![\w])(?<!\d[.,]){re.escape(key)}(?:\.0+)?(?!\w)(?![.,]\d)")
    return re.compile(rf"(?<!\w){re.escape(key)}(?!\w)")


def _unescaped(text: str) -> str:
    """A JSON text with its `\\u` escapes read, pairs of surrogates joined."""
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _leaves(value: Any) -> Iterator[Any]:
    """All scalars of a JSON value, keys of objects included."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield from node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
        else:
            yield node


def read_person(config: EraseConfig, key: bytes) -> Person:
    """Hash the keys of a configuration; raises UserError where there are none."""
    given = [*([config.subject] if config.subject else []), *config.subjects, *_keys_in_file(config.subjects_file)]
    subjects, ids = list(map(_canonical, given)), list(map(_canonical, config.ids))
    if not all([*subjects, *ids]):
        raise UserError("a key of blanks alone names nobody: rows without a key are nobody's")
    if not subjects and not ids:
        raise UserError(f"subjects_file={config.subjects_file}: holds no key")
    hasher, folding, naming = (KeyedHash(key, purpose) for purpose in (SUBJECT_PURPOSE, FOLDED_PURPOSE, GIVEN_ID))
    hashed = frozenset(naming.hex(id_.encode("utf-8", "surrogatepass")) for id_ in ids)
    spellings = {*given, *(f"{subject}.0" for subject in subjects if _NUMBER.fullmatch(subject))} - {*subjects}
    return Person(
        subjects=frozenset(subject_hash(hasher, subject) for subject in subjects),
        ids=frozenset(ids) | frozenset(config.ids) | hashed,
        hashed_ids=hashed,
        keys=tuple(dict.fromkeys([*subjects, *ids])),
        folded=frozenset(filter(None, (folded_hash(folding, subject) for subject in subjects))),
        older=frozenset(subject_hash(hasher, spelling) for spelling in spellings),
        plain_ids=frozenset(ids),
    )


def _canonical(key: str) -> str:
    return as_key(key, "") or ""


def _keys_in_file(name: str | None) -> list[str]:
    if name is None:
        return []
    path = local_path(name)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError, ValueError):
        raise UserError(f"subjects_file={path}: cannot be read as UTF-8 text") from None
    return [line for line in (line.rstrip("\r") for line in lines) if line.strip()]
