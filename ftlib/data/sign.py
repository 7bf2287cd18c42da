"""Keyed hashes of records, made in the pass that reads the input: all that deduplication and the split go by.

In: tables of `schema.READ` (or `schema.PROCESSED`). Out: `SIGNATURE` tables, one row a record, in the same order. Equal
texts of a table are hashed once. Cost: about 40 ns a character with 128 permutations.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import DedupConfig
from ftlib.data import schema as s
from ftlib.data.metadata import canonical, to_seconds, value_at
from ftlib.data.overlap import NOTHING, Overlap
from ftlib.data.records import INSTRUCTING, is_bad_answer_alone, said
from ftlib.text.counters import MAX_CHARS, SKETCH_BYTES, word_sketches
from ftlib.text.keyed import KeyedHash, UInt64s
from ftlib.text.minhash import Scheme, Shingles, band_keys, choose_bands, shingle_words, signatures
from ftlib.text.normalize import normalize_all
from ftlib.text.quality import quality
from ftlib.text.symbols import Meanings, cased_units
from ftlib.text.words import hash_words

NO_TIME = -(2**62)
_LONG_CHARS = 1000
"""Shorter texts cost about as much to look up as to sketch."""
_REMEMBERED_CHARS = 16_000_000
"""With shingles about 40 MB in each process that signs."""
ORDER, GROUP, SPLIT_TIME, FILTER_TIME, OVERLAP = "order", "group_hash", "split_time", "filter_time", "overlap"
MEANINGS = ("symbols_hash", "skeleton_hash", "values_hash", "operators_hash")
"""Columns of `text.symbols.Meanings`, in its order."""
WORDS = "words"
JUDGED = "judged"
JUDGING_SHAPES = ("kto",)
"""Shapes whose good answers look like any other record's."""

SIGNATURE = pa.schema(
    [
        *s.IDENTITY,
        (s.LEFT_OUT, pa.string()),
        ("broken", pa.bool_()),
        ("input_hash", pa.uint64()),
        ("outcome_hash", pa.uint64()),
        ("label_hash", pa.uint64()),
        ("verdict_hash", pa.uint64()),
        (JUDGED, pa.bool_()),
        ("exact_hash", pa.binary(16)),
        (ORDER, pa.int64()),
        (GROUP, pa.uint64()),
        (SPLIT_TIME, pa.int64()),
        (FILTER_TIME, pa.int64()),
        (OVERLAP, pa.uint8()),
        *((name, pa.uint64()) for name in MEANINGS),
        (WORDS, pa.binary(SKETCH_BYTES)),
        ("bands", pa.list_(pa.uint64())),
        ("shingles", pa.list_(pa.uint64())),
    ]
)
"""`outcome_hash`: of answer and label. `judged`: whether answers are compared or judged good or bad, so that a prompt
comes with several; `verdict_hash`: of the label, and of answers and verdict of a judged record: only records that
agree in it stand for each other. `exact_hash`: of all that a record says. Rows that could not be read are
`broken` and have no hashes. `order`: of two records of a cluster the one with the smaller is kept. `group_hash` (0:
none) and the times (seconds, `NO_TIME` without a date) are of the metadata fields that the configuration names;
`overlap`: a code of `data.overlap` for the benchmarks. `MEANINGS`: what shingles leave out. `words`: a sketch of
`text.counters`."""


@dataclass(frozen=True)
class SignSettings:
    """What signing needs."""

    dedup: DedupConfig
    key: bytes
    group_field: str | None = None
    split_time_field: str | None = None
    filter_time_field: str | None = None
    benchmarks: Overlap = NOTHING
    benchmark_ngram: int = 13
    judged: frozenset[str] = frozenset()
    """Sources whose answers are judged one by one, the good ones too."""


def spoken(record: dict[str, Any]) -> list[str]:
    """What user, assistant and tools say (or the text): shared system prompts would make unlike records alike.

    An undesirable answer alone is said too; a better answer's worse one is not.
    """
    if record[s.MESSAGES] is None:
        return [record[s.TEXT] or ""]
    parts = [said(message) for message in record[s.MESSAGES] if message["role"] not in INSTRUCTING]
    return [*parts, record[s.REJECTED]] if is_bad_answer_alone(record) else parts


def sign(table: pa.Table, settings: SignSettings) -> pa.Table:
    """Hashes of each record: `schema.READ` or `schema.PROCESSED` → `SIGNATURE`."""
    names = [s.MESSAGES, s.TEXT, s.REJECTED, s.LABEL, s.ERROR, s.SOURCE]
    records = table.select(names).to_pylist()
    broken = np.array([record[s.ERROR] is not None for record in records], dtype=bool)
    parts = [[] if bad else spoken(record) for record, bad in zip(records, broken, strict=True)]
    config = settings.dedup
    # Equal texts of a block are worked on once.
    whole = ["\n".join(part) for part in parts]
    distinct = {text: number for number, text in enumerate(dict.fromkeys(whole))}
    copy = np.array([distinct[text] for text in whole], dtype=np.int64)
    sketcher = _sketcher(settings.key, config.threshold, config.num_permutations, config.ngram, config.scheme)
    shingles, keys, words, meanings = sketcher(list(distinct))
    columns = {
        "broken": broken,
        **_hashes(records, parts, KeyedHash(settings.key, "dedup"), settings.judged),
        **_metadata_columns(table, whole, settings),
        OVERLAP: settings.benchmarks.codes(parts, settings.benchmark_ngram, settings.key)
        if len(settings.benchmarks.texts)
        else np.zeros(len(parts), dtype=np.uint8),
        **dict(zip(MEANINGS, meanings[copy].T, strict=True)),
        WORDS: pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(SKETCH_BYTES), len(copy), [None, pa.py_buffer(words[copy].tobytes())]
        ),
        "bands": _lists(keys.reshape(-1), np.arange(0, keys.size + 1, keys.shape[-1])).take(pa.array(copy)),
        "shingles": _lists(shingles.values, shingles.offsets).take(pa.array(copy)),
    }
    arrays = [pa.array(columns[name]) if name in columns else table[name] for name in SIGNATURE.names]
    return pa.table(arrays, schema=SIGNATURE)


class _Sketches(NamedTuple):
    """What deduplication compares of texts."""

    shingles: Shingles
    keys: UInt64s
    """Band keys; uint64 [num_texts, num_bands]."""
    words: np.ndarray
    """int16 [num_texts, 64]: of `text.counters`."""

    meanings: np.ndarray
    """uint64 [num_texts, 4]: the columns of `text.symbols.Meanings`."""

    def of(self, number: int) -> tuple[UInt64s, UInt64s, np.ndarray, np.ndarray]:
        """Those of one text."""
        return self.shingles.of(number), self.keys[number], self.words[number], self.meanings[number]


class _Sketcher:
    """Sketches of texts. Long texts of the last blocks are remembered: exports repeat whole documents."""

    def __init__(self, key: bytes, threshold: float, num_permutations: int, ngram: int, scheme: Scheme) -> None:
        self._hasher, self._symbols, self._ngram = KeyedHash(key, "token"), KeyedHash(key, "symbols"), ngram
        self._permutations, self._scheme = num_permutations, scheme
        self._bands = choose_bands(threshold, num_permutations)
        self._known: dict[str, tuple[UInt64s, UInt64s, np.ndarray, np.ndarray]] = {}
        self._num_chars = 0

    def __call__(self, texts: Sequence[str]) -> _Sketches:
        """Sketches of each text."""
        new = [text for text in texts if text not in self._known]
        made = self._sketch(new)
        if len(new) < len(texts):
            fresh = {text: made.of(number) for number, text in enumerate(new)}
            found = [fresh[text] if text in fresh else self._known[text] for text in texts]
            values, keys, words, meanings = zip(*found, strict=True)
            offsets = np.concatenate([[0], np.cumsum(list(map(len, values)), dtype=np.int64)])
            self._remember(new, made)
            return _Sketches(
                Shingles(np.concatenate(values), offsets), np.stack(keys), np.stack(words), np.stack(meanings)
            )
        self._remember(new, made)
        return made

    def _sketch(self, texts: Sequence[str]) -> _Sketches:
        tokens, bounds = hash_words(texts, self._hasher)
        shingles = shingle_words(tokens, bounds, self._ngram)
        keys = band_keys(signatures(shingles, self._permutations, self._scheme), *self._bands)
        short = np.array([len(text) <= MAX_CHARS for text in texts], dtype=bool)
        meanings = np.stack(Meanings.of(texts, self._symbols).columns, axis=1)
        return _Sketches(shingles, keys, word_sketches(tokens, bounds, short), meanings)

    def _remember(self, texts: Sequence[str], made: _Sketches) -> None:
        for number, text in enumerate(texts):
            if len(text) >= _LONG_CHARS:
                shingles, keys, words, meanings = made.of(number)
                self._known[text] = shingles.copy(), keys.copy(), words.copy(), meanings.copy()
                self._num_chars += len(text)
        while self._num_chars > _REMEMBERED_CHARS:
            oldest = next(iter(self._known))
            self._num_chars -= len(oldest)
            del self._known[oldest]


_sketcher = functools.lru_cache(maxsize=2)(_Sketcher)
"""The one of a process for its settings."""


def _hashes(
    records: Sequence[dict[str, Any]], parts: Sequence[list[str]], hasher: KeyedHash, judging: frozenset[str]
) -> dict[str, Any]:
    """Columns of hashes. Each text is normalised and hashed once; what a record says is a hash of those hashes."""
    texts = {text: b"" for part in parts for text in part}
    texts |= {record[s.REJECTED]: b"" for record in records if record[s.REJECTED] is not None}
    normal = normalize_all(list(texts))
    # Lower case merges mW and MW.
    units = map(cased_units, texts)
    contents = [text + b"\0" + unit.encode() if unit else text for text, unit in zip(normal, units, strict=True)]
    texts = dict(zip(texts, hasher.digests(contents), strict=True))
    nothing = hasher.digest(b"")
    inputs, outcomes, labels, verdicts, everything = [], [], [], [], []
    judged = np.array([record[s.REJECTED] is not None or record[s.SOURCE] in judging for record in records], dtype=bool)
    for record, part, is_judged in zip(records, parts, judged.tolist(), strict=True):
        hashed = [texts[text] for text in part]
        has_answer = record[s.MESSAGES] is not None and len(hashed) > 1
        question, answer = (hashed[:-1], hashed[-1]) if has_answer else (hashed, nothing)
        label = (record[s.LABEL] or "").encode()
        rejected = nothing if record[s.REJECTED] is None else texts[record[s.REJECTED]]
        bad = b"bad" if is_bad_answer_alone(record) else b""
        compared = (_last_lines(record, hasher) if record[s.TEXT] else (*hashed[-1:], rejected)) if is_judged else ()
        inputs.append(b"".join(question))
        outcomes.append(answer + label)
        labels.append(label)
        verdicts.append(b"".join([*compared, bad, b"judged", label]) if is_judged else label)
        everything.append(b"".join([*hashed, rejected, bad, label]))
    exact = dict.fromkeys(everything, b"")
    exact = dict(zip(exact, hasher.digests(exact), strict=True))
    return {
        "input_hash": _of_each(inputs, hasher),
        "outcome_hash": _of_each(outcomes, hasher),
        "label_hash": _of_each(labels, hasher),
        "verdict_hash": _of_each(verdicts, hasher),
        JUDGED: judged,
        "exact_hash": pa.array([exact[content] for content in everything], pa.binary(16)),
    }


def _of_each(contents: Sequence[bytes], hasher: KeyedHash) -> UInt64s:
    """Hashes of contents of which many are the same."""
    known = dict.fromkeys(contents, 0)
    known = dict(zip(known, hasher.uint64s(known).tolist(), strict=True))
    return np.fromiter(map(known.__getitem__, contents), dtype=np.uint64, count=len(contents))


def _last_lines(record: dict[str, Any], hasher: KeyedHash) -> tuple[bytes, bytes]:
    """Of a comparison in plain text, what follows the lines that both texts begin with: the two answers."""
    better, worse = record[s.TEXT].split("\n"), (record[s.REJECTED] or "").split("\n")
    shortest = min(len(better), len(worse)) - 1
    start = next((i for i in range(shortest) if better[i] != worse[i]), shortest)
    first, second = hasher.digests(normalize_all(["\n".join(lines[start:]) for lines in (better, worse)]))
    return first, second


_ORDERS: dict[str, Callable[[str], int]] = {"longest": len, "quality": lambda text: round(1e6 * quality(text))}


def _metadata_columns(table: pa.Table, texts: Sequence[str], settings: SignSettings) -> dict[str, np.ndarray]:
    """What the metadata says about order, group and age; the metadata is parsed where a field is named."""
    config, count = settings.dedup, len(texts)
    recency = config.recency_field if config.policy == "most_recent" else None
    named = (recency, settings.group_field, settings.split_time_field, settings.filter_time_field)
    metadata = [json.loads(value or "{}") for value in table[s.METADATA].to_pylist()] if any(named) else []

    def times(field: str | None) -> np.ndarray:
        if field is None:
            return np.full(count, NO_TIME, dtype=np.int64)
        found = (to_seconds(value_at(item, field)) for item in metadata)
        return np.array([NO_TIME if value is None else value for value in found], dtype=np.int64)

    group = np.zeros(count, dtype=np.uint64)
    if settings.group_field is not None:
        hasher = KeyedHash(settings.key, "group")
        values = [canonical(value_at(item, settings.group_field)) for item in metadata]
        group = np.array([0 if value is None else hasher.uint64(value) for value in values], dtype=np.uint64)
    # The most recent first, those without a date last.
    order = -np.maximum(times(recency), NO_TIME + 1)
    if config.policy in _ORDERS:
        order = -np.array([_ORDERS[config.policy](text) for text in texts], dtype=np.int64)
    return {
        ORDER: order,
        GROUP: group,
        SPLIT_TIME: times(settings.split_time_field),
        FILTER_TIME: times(settings.filter_time_field),
    }


def _lists(values: UInt64s, offsets: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))
