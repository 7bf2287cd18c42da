"""Which shingles most records of a source have: an instruction, a form's header, a signature.

In: `sign.SIGNATURE` tables. Out: `Common`, small. Of each source at most about `SAMPLE` rows are counted, chosen by a
hash of their row keys, so that the result depends on the rows alone; files with few records are counted together. Rows
that are dropped as exact duplicates take no part, so that a record repeated ever so often is no common text. Cost: a
look at the row keys, and the shingles of the sample once across the network.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftlib.data import schema as s
from ftlib.data.report_facts import CommonTextFacts
from ftlib.data.sign import spoken
from ftlib.runtime.exchange import exchange, map_blocks
from ftlib.text.keyed import KeyedHash, UInt64s, mix64
from ftlib.text.minhash import Shingles, ngram_hashes
from ftlib.text.scripts import word_pattern
from ftlib.text.words import hash_words

MIN_ROWS = 10
"""Records that a source must have before any text of it counts as common."""
MIN_SHARE = 0.5
"""Share of them that must have a shingle, and more."""
SAMPLE = 400
_SALT = np.uint64(0x5851F42D4C957F2D)
_PASSAGE_CHARS = 200
_SMALL_FILES = "files of few records"
_FEW = ""
"""Stands for all sources of fewer than `MIN_ROWS` records."""


@dataclass(frozen=True)
class Common:
    """Common shingles."""

    values: UInt64s
    """uint64, sorted: of all sources."""
    by_source: dict[str, UInt64s]
    """Of each source that has some; uint64, sorted."""
    small: frozenset[str]
    """Sources of fewer than `MIN_ROWS` records, counted together."""

    def __bool__(self) -> bool:
        return bool(len(self.values))

    def name(self, source: str) -> str:
        """The name under which a source was counted."""
        return _FEW if source in self.small else source

    def expected(self, sources: Sequence[str]) -> np.ndarray:
        """How many common shingles each record's source has; int64 [num_records]."""
        sizes = {name: len(self.by_source.get(self.name(name), ())) for name in set(sources)}
        return np.array([sizes[name] for name in sources], dtype=np.int64)


NOTHING = Common(np.empty(0, dtype=np.uint64), {}, frozenset())


def shingles_of(table: pa.Table) -> Shingles:
    """The shingle sets of a `SIGNATURE` table."""
    lists = table["shingles"].combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy()
    return Shingles(pc.list_flatten(lists).to_numpy(), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def find_common(blocks: Sequence[Any], num_partitions: int, present: Any) -> Common:
    """Count shingles by source.

    Args:
        blocks: references of `SIGNATURE` tables.
        num_partitions: of the exchange.
        present: (tables, columns) → the rows that take part.
    """
    import ray

    def count(tables: list[pa.Table]) -> Counter[str]:
        return Counter(present(tables, [s.SOURCE])[s.SOURCE].to_pylist())

    sizes = sum(ray.get(map_blocks(blocks, count)), Counter[str]())
    small = frozenset(name for name, n in sizes.items() if n < MIN_ROWS)
    totals = Counter({name: n for name, n in sizes.items() if name not in small})
    totals[_FEW] = sum(sizes[name] for name in small)
    numbers = {name: number for number, name in enumerate(sorted(name for name, n in totals.items() if n >= MIN_ROWS))}
    if not numbers:
        return NOTHING
    num_parts = min(num_partitions, len(numbers))

    def partition(tables: list[pa.Table]) -> list[list[tuple[int, int, UInt64s, np.ndarray]]]:
        pieces: list[list[tuple[int, int, UInt64s, np.ndarray]]] = [[] for _ in range(num_parts)]
        for number, rows, values, counts in _count(
            present(tables, [s.ROW, s.SOURCE, "shingles"]), small, totals, numbers
        ):
            pieces[number % num_parts].append((number, rows, values, counts))
        return pieces

    def reduce(index: int, pieces: list[list[tuple[int, int, UInt64s, np.ndarray]]]) -> dict[int, UInt64s]:
        found: dict[int, UInt64s] = {}
        together = [item for piece in pieces for item in piece]
        for number in sorted({item[0] for item in together}):
            own = [item for item in together if item[0] == number]
            values, place = np.unique(np.concatenate([item[2] for item in own]), return_inverse=True)
            counts = np.bincount(place, weights=np.concatenate([item[3] for item in own]), minlength=len(values))
            num_rows = sum(item[1] for item in own)
            if num_rows >= MIN_ROWS and (often := counts > MIN_SHARE * num_rows).any():
                found[number] = values[often]
        return found

    names = {number: name for name, number in numbers.items()}
    parts = ray.get(exchange(blocks, partition, reduce, num_parts))
    by_source = {names[number]: values for part in parts for number, values in part.items()}
    if not by_source:
        return NOTHING
    return Common(np.unique(np.concatenate(list(by_source.values()))), by_source, small)


def _count(
    table: pa.Table, small: frozenset[str], totals: Counter[str], numbers: dict[str, int]
) -> list[tuple[int, int, UInt64s, np.ndarray]]:
    """Of each source: its number, rows in the sample, their distinct shingles, and rows with each."""
    names = [_FEW if name in small else name for name in table[s.SOURCE].to_pylist()]
    own = np.array([numbers.get(name, -1) for name in names], dtype=np.int64)
    rates = {number: min(SAMPLE / totals[name], 1.0) for name, number in numbers.items()}
    rate = np.array([rates.get(number, 0.0) for number in own.tolist()])
    drawn = mix64(table[s.ROW].to_numpy() ^ _SALT).astype(np.float64) / 2.0**64 < rate
    own, shingles = own[drawn], shingles_of(table.filter(pa.array(drawn)))
    owners = np.repeat(own, np.diff(shingles.offsets))
    return [
        (
            number,
            int(np.count_nonzero(own == number)),
            *np.unique(shingles.values[owners == number], return_counts=True),
        )
        for number in np.unique(own).tolist()
    ]


def describe_common(
    processed: Sequence[Any], signatures: Sequence[Any], common: Common, *, key: bytes, ngram: int, shown: bool
) -> list[CommonTextFacts]:
    """Name the text that sources share, by a passage of a redacted record.

    Args:
        processed: references of `PROCESSED` tables.
        signatures: references of `SIGNATURE` tables of their rows.
        common: what these share.
        key: with which the rows were signed.
        ngram: of the shingles.
        shown: whether texts may be shown.
    """
    import ray

    if not common:
        return []
    shared = ray.put(common)

    def count(tables: list[pa.Table]) -> dict[str, tuple[int, int]]:
        table, known = pa.concat_tables(tables), ray.get(shared)
        if not table.num_rows:
            return {}
        shingles, rows = shingles_of(table), table[s.ROW].to_numpy()
        names = [known.name(source) for source in table[s.SOURCE].to_pylist()]
        found: dict[str, tuple[int, int]] = {}
        for name, values in known.by_source.items():
            inside = np.add.reduceat(np.isin(shingles.values, values), shingles.offsets[:-1], dtype=np.int64)
            having = rows[(2 * inside >= len(values)) & (np.array(names) == name)]
            if len(having):
                found[name] = len(having), int(having.min())
        return found

    totals: dict[str, tuple[int, int]] = {}
    for part in ray.get(map_blocks(signatures, count)):
        for name, (n, row) in part.items():
            before = totals.get(name, (0, row))
            totals[name] = before[0] + n, min(before[1], row)
    wanted = ray.put({row: name for name, (_, row) in totals.items()})

    def name_text(tables: list[pa.Table]) -> dict[str, str]:
        table, rows = pa.concat_tables(tables), ray.get(wanted)
        table = table.filter(pc.is_in(table[s.ROW], pa.array(list(rows), pa.uint64())))
        known = ray.get(shared)
        return {
            rows[record[s.ROW]]: passage("\n".join(spoken(record)), known.by_source[rows[record[s.ROW]]], key, ngram)
            for record in table.to_pylist()
        }

    texts: dict[str, str] = {}
    for named in ray.get(map_blocks(processed, name_text)) if shown else []:
        texts |= named
    return [
        {"source": name or _SMALL_FILES, "num_rows": n, "text": texts.get(name, "")}
        for name, (n, _) in sorted(totals.items(), key=lambda item: (-item[1][0], item[0]))
    ]


def passage(text: str, values: UInt64s, key: bytes, ngram: int) -> str:
    """The longest run of a text whose n-grams are among `values` (sorted), shortened."""
    spans = [match.span() for match in re.finditer(word_pattern(), text)]
    tokens, bounds = hash_words([text[start:stop] for start, stop in spans], KeyedHash(key, "token"))
    if len(spans) < ngram or not np.array_equal(bounds, np.arange(len(spans) + 1)):
        return ""
    grams = np.isin(ngram_hashes(tokens, ngram), values)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], grams, [False]]).astype(np.int8))).reshape(-1, 2)
    if not len(edges):
        return ""
    start, stop = edges[np.argmax(edges[:, 1] - edges[:, 0])].tolist()
    found = " ".join(text[spans[start][0] : spans[stop + ngram - 2][1]].split())
    return found if len(found) <= _PASSAGE_CHARS else found[:_PASSAGE_CHARS] + "…"
