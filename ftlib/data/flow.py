"""The stages of a preparation on a connected cluster, from read tasks to the split of every kept row.

The input is read twice: once for keyed hashes, once for redaction of what is left, so that no raw text waits anywhere.
The driver holds row keys (8 bytes a row), references and counters, never text. When a keeper is lost to a filter, to
redaction or to quarantine, all rows that were dropped for it are processed after all, and those that pass are compared
again with what is kept. At the end every row that was read is found in exactly one place, or the job fails.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftlib.config.prepare import PrepareConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.data import passes
from ftlib.data import schema as s
from ftlib.data.dedup import (
    DECISION,
    REVIEW,
    SignSettings,
    contains,
    find_equal,
    find_near,
    follow_keepers,
    row_keys,
    sign,
)
from ftlib.data.facts import Counts, count_decisions, count_processed
from ftlib.data.filter import kept_rows
from ftlib.data.read import ReadSettings, Selection
from ftlib.data.redact import store_ids
from ftlib.data.rows import ReadTask
from ftlib.data.split import SplitRows, assign_splits
from ftlib.data.write import Assignment, id_hashes
from ftlib.runtime.cluster import cluster_resources
from ftlib.runtime.exchange import gather, map_blocks
from ftlib.text.components import Edges
from ftlib.text.keyed import KeyedHash, UInt64s

logger = get_logger(__name__)

NO_ROWS: UInt64s = np.empty(0, dtype=np.uint64)
_LARGE_GROUP = 0.2
_ROWS_PER_PARTITION = 20_000  # fewer are not worth a task


@dataclass
class Outcome:
    """What is to be written, and what is to be said about it."""

    processed: list[Any]
    """References of `schema.PROCESSED` tables."""
    decided: list[Any]
    """References of `DECISION` tables of dropped rows."""
    assignment: Any
    """Reference of the `Assignment`."""
    counts: Counts
    num_rows_by_source: dict[str, int]
    shapes: dict[str, str]
    cluster_sizes: Counter[int]
    conflicts: Counter[tuple[str, ...]]
    """Labels of a group of the same input → rows."""
    conflict_groups: Counter[tuple[str, ...]]
    warnings: list[str] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """All rows read."""
        return sum(self.num_rows_by_source.values())


@dataclass(frozen=True)
class _Decided:
    """Decisions of a round of deduplication: the blocks, and what the driver needs of them."""

    blocks: list[Any]
    removed: UInt64s
    """Rows dropped as duplicates, sorted."""
    keepers: UInt64s
    """The keeper of each of `removed`."""
    held: UInt64s
    """Rows for review, sorted."""
    links: Edges


class Flow:
    """One run."""

    def __init__(self, config: PrepareConfig, key: bytes, tasks: Sequence[ReadTask]) -> None:
        self._config, self._key, self._tasks = config, key, tasks
        cpus = cluster_resources().get("CPU", 1.0)
        self._resources = passes.share_cpus(cpus, config.execution.num_workers)
        self._sign = SignSettings(config.dedup, key)
        self._partitions = config.execution.num_partitions

    def run(self) -> Outcome:
        """All stages up to the split."""
        signatures, rows, by_source = self._read()
        first = self._decide(signatures)
        logger.info("%d duplicates dropped, %d rows held for review", len(first.removed), len(first.held))
        processed = self._process(Selection(skip=first.removed), first.held, len(rows) - len(first.removed))
        kept, lost, broken = _verdicts(processed)
        self._check_broken(broken, len(rows))
        decided, removed, links = first.blocks, first.removed, first.links
        retry = first.removed[contains(lost, first.keepers)]
        if len(retry):
            logger.info("%d rows take part again: what they duplicated was not kept", len(retry))
            again = self._process(Selection(take=retry), NO_ROWS, len(retry))
            passed, _, _ = _verdicts(again)
            alive = np.union1d(kept, passed)
            second = self._decide(signatures, np.setdiff1d(rows, alive), preferred=kept, conflicts=False)
            decided = [*_restrict(decided, retry, inside=False), *_restrict(second.blocks, retry, inside=True)]
            gone = second.removed[contains(retry, second.removed)]
            removed = np.union1d(np.setdiff1d(removed, retry), gone)
            kept = np.setdiff1d(alive, gone)
            processed, links = [*processed, *again], np.concatenate([links, second.links])
        if not len(kept):
            raise self._nothing_left(processed, decided, removed)
        shapes = {task.source: task.shape for task in self._tasks}
        return self._split(_Rows(processed, decided, removed, links, rows), by_source, shapes)

    def _reader(self, keep_raw: bool = False) -> ReadSettings:
        return ReadSettings(self._config.input, self._key, self._config.execution.rows_per_block, keep_raw)

    def _read(self) -> tuple[list[Any], UInt64s, dict[str, int]]:
        """The first pass: signatures, all row keys (sorted), rows of each source."""
        tables = passes.read_tables(self._tasks, self._reader(), self._resources)
        blocks = passes.run_pass(
            passes.signed(tables, self._sign, self._resources), "reading and hashing", self._estimate()
        )
        counted = _get(map_blocks(blocks, _count_rows))
        rows = np.sort(np.concatenate([NO_ROWS, *(item[0] for item in counted)]))
        by_source = sum((item[1] for item in counted), Counter[str]())
        broken = sum(item[2] for item in counted)
        self._check_broken(broken, len(rows))
        self._partitions = min(self._partitions, 1 + len(rows) // _ROWS_PER_PARTITION)
        return blocks, rows, dict(sorted(by_source.items()))

    def _estimate(self) -> int:
        """About how many rows there are, from the first rows of each file."""
        return sum(task.num_rows_estimate for task in self._tasks)

    def _check_broken(self, broken: int, total: int) -> None:
        limit = self._config.quarantine.max_fraction
        if total == broken:
            raise UserError(f"none of the {total} rows is a record; is input.shape or the files' encoding right?")
        if broken > limit * total:
            raise UserError(
                f"{broken} of {total} rows are broken, more than quarantine.max_fraction={limit} allows; "
                "mend the export, or raise the limit to see them in quarantine.parquet"
            )

    def _decide(
        self,
        signatures: list[Any],
        without: UInt64s = NO_ROWS,
        preferred: UInt64s = NO_ROWS,
        conflicts: bool | None = None,
    ) -> _Decided:
        """Conflicts, exact and near duplicates among the rows that are not in `without`."""
        import ray

        config = self._config
        if conflicts is None:
            conflicts = config.filter.enabled and config.filter.label_conflicts == "review"
        first = ray.put(preferred)
        equal = find_equal(signatures, self._partitions, conflicts=conflicts, preferred=first, without=ray.put(without))
        settled = _get(map_blocks(equal, lambda tables: row_keys(pa.concat_tables(tables))), "comparing records")
        out = ray.put(np.union1d(without, np.concatenate([NO_ROWS, *settled])))
        near = find_near(signatures, config.dedup, self._partitions, preferred=first, without=out)
        blocks = [*follow_keepers(equal, near), *near]
        if not config.dedup.enabled:
            blocks = map_blocks(blocks, _only_links)
        return _summary(blocks)

    def _process(self, selection: Selection, held: UInt64s, total: int) -> list[Any]:
        """A second pass: redaction and filters of the selected rows."""
        import ray

        config, resources = self._config, self._resources
        tables = passes.read_tables(
            self._tasks, self._reader(config.quarantine.keep_raw), resources, ray.put(selection)
        )
        redacted = passes.redacted(tables, config.pii, self._key, resources)
        filtered = passes.filtered(redacted, config.filter, ray.put(held), resources)
        logger.info("%d rows to redact in up to %d processes, which load first", total, resources.num_actors)
        return passes.run_pass(filtered, "redacting and filtering", total)

    def _split(self, rows: "_Rows", by_source: dict[str, int], shapes: dict[str, str]) -> Outcome:
        import ray

        config = self._config
        decided = store_ids(map_blocks(rows.decided, _only_dropped), config.pii, self._key)
        removed = rows.removed
        links = np.concatenate([rows.links, self._links_after_redaction(rows.processed, removed)])
        found = _get(map_blocks(rows.processed, lambda tables: _split_columns(tables, removed)))
        kept, ids, labels, subjects = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(kept)
        table = SplitRows(kept[order], ids[order], labels[order], subjects[order])
        splits, largest = assign_splits(table, links, config.split, config.seed)
        warnings = []
        if len(kept) and largest > max(_LARGE_GROUP * len(kept), 2):
            share = f"{largest / len(kept):.0%}"
            warnings.append(f"{share} of the kept records are alike or of one subject and had to stay in one split")
        assignment = Assignment(kept[order], splits, removed)
        reference = ray.put(assignment)
        processed = _get(map_blocks(rows.processed, lambda tables: _count_processed(tables, ray.get(reference))))
        dropped = _get(map_blocks(decided, _count_decisions))
        self._check_account(rows.all_rows, [removed, *(item[1] for item in processed)])
        counts = sum((item[0] for item in processed), Counts()) + sum((item[0] for item in dropped), Counts())
        groups = _conflict_groups(_get(map_blocks(rows.decided, _conflicts)))
        return Outcome(
            processed=rows.processed,
            decided=decided,
            assignment=reference,
            counts=counts,
            num_rows_by_source=by_source,
            shapes=shapes,
            cluster_sizes=_cluster_sizes([item[1] for item in dropped]),
            conflicts=groups[0],
            conflict_groups=groups[1],
            warnings=warnings,
        )

    def _links_after_redaction(self, processed: list[Any], removed: UInt64s) -> Edges:
        """Records that are near-duplicates only once they are redacted decide sides as well."""
        import ray

        settings, config = self._sign, self._config

        def sign_kept(tables: list[pa.Table]) -> pa.Table:
            return sign(_kept(tables, removed), settings)

        signatures = map_blocks(processed, sign_kept)
        none = ray.put(NO_ROWS)
        near = find_near(signatures, config.dedup, self._partitions, preferred=none, without=none)
        return _summary(near).links

    @staticmethod
    def _check_account(rows: UInt64s, places: list[UInt64s]) -> None:
        """Every row that was read stands in exactly one place."""
        placed = np.sort(np.concatenate(places))
        if not np.array_equal(placed, rows):
            raise RuntimeError(
                f"{len(rows)} rows were read but {len(placed)} are accounted for; was an input changed meanwhile?"
            )

    def _nothing_left(self, processed: list[Any], decided: list[Any], removed: UInt64s) -> UserError:
        reasons: Counter[str] = Counter()
        for counts, _ in _get(map_blocks(decided, _count_decisions)):
            reasons.update({reason: n for (stage, reason), n in counts.dropped.items() if stage != REVIEW})
        for table in _get(map_blocks(processed, lambda tables: _reasons(tables, removed))):
            reasons.update(table)
        listed = ", ".join(
            f"{reason} {n}" for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        )
        return UserError(f"no rows are left to train on: {listed}. Loosen filter.* or look at the input")


@dataclass(frozen=True)
class _Rows:
    """All blocks after the last pass."""

    processed: list[Any]
    decided: list[Any]
    removed: UInt64s
    links: Edges
    all_rows: UInt64s


def _get(references: list[Any], label: str = "collecting counts") -> list[Any]:
    return gather(references, label, logger)


def _count_rows(tables: list[pa.Table]) -> tuple[UInt64s, Counter[str], int]:
    table = pa.concat_tables(tables)
    return row_keys(table), Counter(table[s.SOURCE].to_pylist()), int(pc.sum(table["broken"]).as_py() or 0)


def _only_links(tables: list[pa.Table]) -> pa.Table:
    """Duplicates that are not dropped, but stay together; what is held for review stays held."""
    table = pa.concat_tables(tables)
    stage = pc.if_else(pc.equal(table[s.STAGE], REVIEW), table[s.STAGE], pa.scalar(None, pa.string()))
    return table.set_column(table.column_names.index(s.STAGE), s.STAGE, stage)


def _only_dropped(tables: list[pa.Table]) -> pa.Table:
    """Rows that deduplication drops: those for review come out of the second pass, links are no rows."""
    table = pa.concat_tables(tables)
    return table.filter(pc.and_(pc.is_valid(table[s.STAGE]), pc.not_equal(table[s.STAGE], REVIEW)))


def _summary(blocks: list[Any]) -> _Decided:
    """The row keys in `DECISION` blocks, by what happens to them."""

    def columns(tables: list[pa.Table]) -> tuple[UInt64s, UInt64s, np.ndarray, np.ndarray]:
        table = pa.concat_tables(tables)
        stage = table[s.STAGE]
        held = pc.fill_null(pc.equal(stage, REVIEW), False).to_numpy()
        return row_keys(table), table[s.KEEPER_ROW].to_numpy(), held, pc.is_valid(stage).to_numpy() & ~held

    parts = [
        (NO_ROWS, NO_ROWS, np.empty(0, dtype=bool), np.empty(0, dtype=bool)),
        *_get(map_blocks(blocks, columns), "finding near-duplicates"),
    ]
    rows, keepers, held, dropped = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(rows[dropped])
    links = np.stack([keepers[~held], rows[~held]], axis=1)
    return _Decided(blocks, rows[dropped][order], keepers[dropped][order], np.sort(rows[held]), links)


def _restrict(blocks: list[Any], rows: UInt64s, *, inside: bool) -> list[Any]:
    """`DECISION` rows that are in `rows`, or that are not."""

    def run(tables: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(tables)
        return table.filter(pa.array(contains(rows, row_keys(table)) == inside))

    return map_blocks(blocks, run)


def _verdicts(processed: list[Any]) -> tuple[UInt64s, UInt64s, int]:
    """Sorted row keys that are kept, those that are not, and how many of these are for quarantine."""

    def run(tables: list[pa.Table]) -> tuple[UInt64s, UInt64s, int]:
        table = pa.concat_tables(tables)
        kept, rows = kept_rows(table), row_keys(table)
        return rows[kept], rows[~kept], table.num_rows - table[s.ERROR].null_count

    parts = [(NO_ROWS, NO_ROWS, 0), *_get(map_blocks(processed, run))]
    kept, lost, broken = zip(*parts, strict=True)
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(lost)), sum(broken)


def _kept(tables: list[pa.Table], removed: UInt64s) -> pa.Table:
    table = pa.concat_tables(tables)
    return table.filter(pa.array(kept_rows(table) & ~contains(removed, row_keys(table))))


def _split_columns(tables: list[pa.Table], removed: UInt64s) -> tuple[UInt64s, UInt64s, UInt64s, UInt64s]:
    """Row keys of kept rows with hashes of id, label and subject (0: none)."""
    table = _kept(tables, removed)

    def hashes(name: str) -> UInt64s:
        hasher = KeyedHash(b"ftlib", name)
        values = table[name].to_pylist()
        return np.array([0 if value is None else hasher.uint64(value.encode()) for value in values], dtype=np.uint64)

    return row_keys(table), id_hashes(table[s.ID].to_pylist()), hashes(s.LABEL), hashes(s.SUBJECT)


def _count_processed(tables: list[pa.Table], assignment: Assignment) -> tuple[Counts, UInt64s]:
    table = assignment.valid(pa.concat_tables(tables))
    return count_processed(table, assignment.of(table)), row_keys(table)


def _count_decisions(tables: list[pa.Table]) -> tuple[Counts, Counter[int]]:
    table = pa.concat_tables(tables)
    return count_decisions(table), Counter(table.filter(pc.is_valid(table[s.STAGE]))[s.KEEPER_ROW].to_pylist())


def _cluster_sizes(keepers: list[Counter[int]]) -> Counter[int]:
    """Size, keeper included → number of clusters."""
    return Counter(n + 1 for n in sum(keepers, Counter[int]()).values())


def _conflicts(tables: list[pa.Table]) -> dict[int, list[str]]:
    """Labels of the rows held for review, by the group's first row."""
    table = pa.concat_tables([DECISION.empty_table(), *tables])
    table = table.filter(pc.fill_null(pc.equal(table[s.STAGE], REVIEW), False))
    groups: dict[int, list[str]] = {}
    for group, label in zip(table[s.KEEPER_ROW].to_pylist(), table[s.LABEL].to_pylist(), strict=True):
        groups.setdefault(group, []).append(label or "")
    return groups


def _conflict_groups(found: list[dict[int, list[str]]]) -> tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]:
    """Rows and groups by the labels that contradict each other; no labels where answers do."""
    merged: dict[int, list[str]] = {}
    for groups in found:
        for group, labels in groups.items():
            merged.setdefault(group, []).extend(labels)
    rows: Counter[tuple[str, ...]] = Counter()
    number: Counter[tuple[str, ...]] = Counter()
    for labels in merged.values():
        key = tuple(sorted({label for label in labels if label}))
        rows[key] += len(labels)
        number[key] += 1
    return rows, number


def _reasons(tables: list[pa.Table], removed: UInt64s) -> Counter[str]:
    table = pa.concat_tables(tables)
    table = table.filter(pa.array(~contains(removed, row_keys(table))))
    return Counter(pc.coalesce(table[s.ERROR], table[s.REASON], pa.scalar("kept")).to_pylist())
