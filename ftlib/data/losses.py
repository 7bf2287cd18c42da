"""Sources that lose much of their rows to one reason, with examples: what a reader must see before trusting a dataset.

In: `DECISION` and `PROCESSED` tables. Out: `Loss`es, each with a few pairs (or single records) as they read after
redaction, cut to where the two differ. Rows that were dropped before redaction are read and redacted here, a few of
them, and only where a source lost much. Records that were not scanned, and those of a profile that redacts nothing, are
named by their place alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftlib.config.prepare import PrepareConfig
from ftlib.data import passes
from ftlib.data import schema as s
from ftlib.data.dedup import REVIEW
from ftlib.data.read import ReadSettings, Selection
from ftlib.data.report_facts import LossFacts
from ftlib.data.row_keys import contains, row_keys
from ftlib.data.rowmap import RowMap
from ftlib.data.rows import ReadTask
from ftlib.data.sign import spoken
from ftlib.runtime.exchange import map_blocks
from ftlib.text.keyed import UInt64s

MAX_SHARE = 1 / 3
"""A source that loses more of its rows than this to one reason is worth a look."""
MIN_ROWS = 10
"""Sources of fewer rows lose a third by chance."""
NUM_EXAMPLES, NUM_LOSSES = 3, 5
_BEFORE_CHARS, _SHOWN_CHARS = 40, 160

Reason = tuple[str, str, str]
"""Source, stage, reason."""


@dataclass
class Lost:
    """Rows by why they were left out, and the first of each with their keepers."""

    counts: Counter[Reason] = field(default_factory=Counter)
    first: dict[Reason, list[tuple[int, int]]] = field(default_factory=dict)
    """(row key, row key of the keeper, or -1), sorted."""

    def __add__(self, other: "Lost") -> "Lost":
        first = {
            key: sorted([*self.first.get(key, ()), *other.first.get(key, ())])[:NUM_EXAMPLES]
            for key in self.first.keys() | other.first.keys()
        }
        return Lost(self.counts + other.counts, first)


def lost_rows(table: pa.Table) -> Lost:
    """Dropped rows of a `DECISION` or `PROCESSED` table."""
    table = table.filter(pc.and_(pc.is_valid(table[s.STAGE]), pc.not_equal(table[s.STAGE], REVIEW)))
    found = Lost()
    keepers = table[s.KEEPER_ROW].to_pylist() if s.KEEPER_ROW in table.column_names else [None] * table.num_rows
    keys = zip(table[s.SOURCE].to_pylist(), table[s.STAGE].to_pylist(), table[s.REASON].to_pylist(), strict=True)
    for key, row, keeper in zip(keys, table[s.ROW].to_pylist(), keepers, strict=True):
        found.counts[key] += 1
        found.first.setdefault(key, []).append((row, -1 if keeper is None else keeper))
    return Lost(found.counts, {key: sorted(pairs)[:NUM_EXAMPLES] for key, pairs in found.first.items()})


def find_losses(
    config: PrepareConfig,
    key: bytes,
    tasks: Sequence[ReadTask],
    *,
    decided: Sequence[Any],
    processed: Sequence[Any],
    removed: RowMap,
    num_rows: dict[str, int],
    resources: passes.Resources,
) -> list[LossFacts]:
    """What each source lost, worst first.

    Args:
        config: the job's.
        key: of keyed hashes.
        tasks: of the reading, from which examples are read again.
        decided: references of `DECISION` tables.
        processed: references of `PROCESSED` tables.
        removed: rows that stand in `decided`.
        num_rows: rows read of each source.
        resources: of a pass.
    """
    import ray

    def of_decided(tables: list[pa.Table]) -> Lost:
        return lost_rows(pa.concat_tables(tables))

    def of_processed(tables: list[pa.Table]) -> Lost:
        table = pa.concat_tables(tables)
        return lost_rows(table.filter(pa.array(~removed.contains(row_keys(table)))))

    parts = ray.get([*map_blocks(decided, of_decided), *map_blocks(processed, of_processed)])
    lost = sum(parts, Lost())
    large = [
        (reason, n)
        for reason, n in lost.counts.items()
        if num_rows.get(reason[0], 0) >= MIN_ROWS and n > MAX_SHARE * num_rows[reason[0]]
    ]
    large.sort(key=lambda item: (-item[1] / num_rows[item[0][0]], item[0]))
    large = large[:NUM_LOSSES]
    if not large:
        return []
    pairs = [pair for reason, _ in large for pair in lost.first[reason]]
    wanted = np.unique(np.array([row for pair in pairs for row in pair if row >= 0], dtype=np.uint64))
    texts = _texts(config, key, tasks, processed, wanted, resources=resources) if config.pii.profile != "none" else {}
    sources = {task.rank: task.source for task in tasks}
    return [
        {
            "source": reason[0],
            "stage": reason[1],
            "reason": reason[2],
            "num_rows": n,
            "num_in": num_rows[reason[0]],
            "examples": [_example(row, keeper, texts, sources) for row, keeper in lost.first[reason]],
        }
        for reason, n in large
    ]


def _texts(
    config: PrepareConfig,
    key: bytes,
    tasks: Sequence[ReadTask],
    processed: Sequence[Any],
    wanted: UInt64s,
    *,
    resources: passes.Resources,
) -> dict[int, str]:
    """Row key → redacted text; rows that were not scanned are left out."""
    import ray

    def shown(tables: list[pa.Table]) -> dict[int, str]:
        table = pa.concat_tables(tables)
        table = table.filter(pa.array(contains(wanted, row_keys(table))))
        table = table.filter(
            pc.and_(table[s.ERROR].is_null(), pc.fill_null(pc.not_equal(table[s.STAGE], "redact"), True))
        )
        return {record[s.ROW]: "\n".join(spoken(record)) for record in table.to_pylist()}

    found: dict[int, str] = {}
    for part in ray.get(map_blocks(processed, shown)):
        found |= part
    missing = wanted[~contains(np.sort(np.array(list(found), dtype=np.uint64)), wanted)]
    if len(missing):
        ranks = set((missing >> np.uint64(s.ROW_POSITION_BITS)).tolist())
        settings = ReadSettings(config.input, key, passes.rows_per_block(config.execution, tasks))
        tables = passes.read_tables(
            [task for task in tasks if task.rank in ranks],
            settings,
            resources,
            ray.put(Selection(take=RowMap.local(missing))),
        )
        redacted = passes.redacted(tables, config.pii, key, resources.for_rows(len(missing)))
        for part in ray.get(map_blocks(passes.run_pass(redacted, "redacting examples", len(missing)), shown)):
            found |= part
    return found


def _example(row: int, keeper: int, texts: dict[int, str], sources: dict[int, str]) -> str:
    """A record, or a pair of records, by place and by what they say where they begin to differ."""

    def place(key: int) -> str:
        return f"{sources[key >> s.ROW_POSITION_BITS]}:{key & ((1 << s.ROW_POSITION_BITS) - 1)}"

    if keeper < 0 or keeper >> s.ROW_POSITION_BITS not in sources:
        return f"{place(row)} “{_cut(texts[row], 0)}”" if row in texts else place(row)
    if row not in texts or keeper not in texts:
        return f"{place(row)} and {place(keeper)}"
    start = max(first_difference(texts[row], texts[keeper]) - _BEFORE_CHARS, 0)
    return f"{place(row)} “{_cut(texts[row], start)}” — kept: {place(keeper)} “{_cut(texts[keeper], start)}”"


def first_difference(left: str, right: str) -> int:
    """Index of the first character in which two texts differ."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (first, second) in pairs if first != second), min(len(left), len(right)))


def _cut(text: str, start: int) -> str:
    shown = " ".join(text[start : start + _SHOWN_CHARS].split())
    return f"{'…' if start else ''}{shown}{'…' if start + _SHOWN_CHARS < len(text) else ''}"
