"""The stages of a preparation on a connected cluster, from read tasks to the split of every kept row.

The input is read twice: once for keyed hashes, once for redaction of what is left, so that no raw text waits anywhere.
The driver holds row keys (8 bytes a row), references and counters, never text. Redacted rows wait in files beside the
output: a job that died goes on from them and repeats the rest. When a keeper is lost to a filter, to redaction or to
quarantine, all rows that were dropped for it are processed after all, and those that pass are compared again with what
is kept. At the end every row that was read is found in exactly one place, or the job fails.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import PrepareConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import join
from ftlib.data import passes
from ftlib.data import schema as s
from ftlib.data.blocks import (
    NO_ROWS,
    Decided,
    cluster_sizes,
    collect,
    conflict_groups,
    conflicts_in,
    count_decided,
    count_left_out,
    count_placed,
    count_rows,
    held_rows,
    kept_table,
    only_dropped,
    only_links,
    reasons_in,
    restrict,
    split_columns,
    summarise,
    verdicts,
)
from ftlib.data.decontaminate import dropped_rows, overlap_with_test
from ftlib.data.dedup import (
    REVIEW,
    common_text,
    contains,
    find_equal,
    find_near,
    follow_keepers,
    row_keys,
)
from ftlib.data.facts import Counts
from ftlib.data.filter import Marked
from ftlib.data.leftout import LeftOut, LeftOutFacts, refuse_left_out
from ftlib.data.mix import mix_rows
from ftlib.data.read import ReadSettings, Selection
from ftlib.data.redact import store_ids
from ftlib.data.references import References
from ftlib.data.report import ResidualFacts
from ftlib.data.residual import find_residual
from ftlib.data.review import Answer, Decision, Held, resolve, row_key_of
from ftlib.data.rowfacts import RowFacts
from ftlib.data.rows import ReadTask
from ftlib.data.sign import SignSettings, sign
from ftlib.data.split import TRAIN, SplitRows, assign_splits
from ftlib.data.stored import PASSES, Store, StoredBlock, blocks_of
from ftlib.data.write import Assignment
from ftlib.runtime.cluster import cluster_resources
from ftlib.runtime.exchange import map_blocks
from ftlib.text.components import Edges
from ftlib.text.keyed import UInt64s
from ftlib.text.minhash import choose_bands, expected_recall

logger = get_logger(__name__)

NO_LINKS: Edges = np.empty((0, 2), dtype=np.uint64)
_LARGE_GROUP = 0.2
_ROWS_PER_PARTITION = 20_000  # fewer are not worth a task


@dataclass
class Outcome:
    """What is to be written, and what is to be said about it."""

    processed: list[StoredBlock]
    """`schema.PROCESSED` tables."""
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
    residual: ResidualFacts | None = None
    """What a second detector still finds in the redacted rows."""
    left_out: list[LeftOutFacts] = field(default_factory=list)
    """Columns and keys that no record carries on."""
    mix: list[dict[str, Any]] = field(default_factory=list)
    """Rows and weights of train by label or source, where they are weighted."""

    @property
    def num_rows(self) -> int:
        """All rows read."""
        return sum(self.num_rows_by_source.values())


class Flow:
    """One run. `folder`: where redacted rows wait for the last exchange, and for a next attempt if this one dies."""

    def __init__(
        self,
        config: PrepareConfig,
        key: bytes,
        tasks: Sequence[ReadTask],
        folder: str,
        answers: Sequence[Answer] = (),
        *,
        references: References | None = None,
    ) -> None:
        self._config, self._key, self._tasks, self._folder = config, key, tasks, folder
        self._answers = answers
        self._decisions: dict[int, Decision] = {}
        self._left_out: list[LeftOutFacts] = []
        cluster = cluster_resources()
        shared = passes.share_cpus(cluster.get("CPU", 1.0), config.execution.num_workers)
        self._resources = passes.share_gpus(shared, cluster.get("GPU", 0.0), config.pii)
        self._references = references or References()
        self._sign = SignSettings(
            config.dedup,
            key,
            group_field=config.split.group_column,
            split_time_field=config.split.by_time,
            filter_time_field=config.filter.date_field if config.filter.max_age_days else None,
            benchmarks=self._references.benchmarks,
            benchmark_ngram=config.decontaminate.ngram,
        )
        self._partitions = config.execution.num_partitions
        self._sources = {task.rank: task.source for task in tasks}

    def run(self) -> Outcome:
        """All stages up to the split."""
        signatures, rows, by_source, decided_first = self.find_duplicates()
        first = self._settle(decided_first)
        facts = RowFacts.of(signatures, self._config, bool(len(self._references.benchmarks.texts)))
        logger.info("%d duplicates dropped, %d rows held for review", len(first.removed), len(first.held))
        chosen, marked = Selection(skip=first.removed), Marked(first.held, facts.stale)
        processed = self._process(PASSES[0], chosen, marked, len(rows) - len(first.removed))
        kept, lost, broken = verdicts(processed)
        self._check_broken(broken, len(rows))
        decided, removed, links = first.blocks, first.removed, first.links
        retry = first.removed[contains(lost, first.keepers)]
        if len(retry):
            logger.info("%d rows take part again: what they duplicated was not kept", len(retry))
            again = self._process(PASSES[1], Selection(take=retry), Marked(NO_ROWS, facts.stale), len(retry))
            passed, _, _ = verdicts(again)
            alive = np.union1d(kept, passed)
            second = self._decide(signatures, np.setdiff1d(rows, alive), preferred=kept, conflicts=False)
            decided = [*restrict(decided, retry, inside=False), *restrict(second.blocks, retry, inside=True)]
            gone = second.removed[contains(retry, second.removed)]
            removed = np.union1d(np.setdiff1d(removed, retry), gone)
            kept = np.setdiff1d(alive, gone)
            processed, links = [*processed, *again], np.concatenate([links, second.links])
        if not len(kept):
            raise self._nothing_left(processed, decided, removed)
        del signatures  # the largest thing in the object store
        shapes = {task.source: task.shape for task in self._tasks}
        found = _Rows(processed, decided, removed, links, rows, first.clusters, facts)
        return self._split(found, by_source, shapes)

    def find_duplicates(self, tables: Any = None) -> tuple[list[Any], UInt64s, dict[str, int], Decided]:
        """The first pass: signatures, all row keys, rows of each source, and what is dropped, held or linked.

        `tables`: a dataset of `schema.READ` where the records are in memory; by default the input is read.
        """
        signatures, rows, by_source = self._read(tables)
        self._log_recall()
        if not self._references.corpus:
            return signatures, rows, by_source, self._decide(signatures)
        known = self._in_corpus(signatures)
        logger.info("%d rows are near-duplicates of the reference corpus", len(known.removed))
        return signatures, rows, by_source, self._decide(signatures, known.removed).after(known)

    def _log_recall(self) -> None:
        config = self._config.dedup
        bands, rows = choose_bands(config.threshold, config.num_permutations)
        recall = expected_recall(config.threshold, config.num_permutations)
        shares = ", ".join(f"{value:.1%} at {similarity}" for similarity, value in list(recall.items())[:3])
        logger.info("near-duplicates: %d bands of %d rows find %s of the pairs", bands, rows, shares)

    def _in_corpus(self, signatures: list[Any]) -> Decided:
        """Near-duplicates of the reference corpus."""
        import ray

        references, none = self._references, ray.put(NO_ROWS)
        tables = passes.read_tables(references.corpus, self._reader(), self._resources)
        corpus = passes.run_pass(
            passes.signed(tables, self._sign, self._resources), "reading and hashing dedup.against", None
        )
        both = [*signatures, *corpus]
        near = find_near(
            both,
            self._config.dedup,
            self._partitions,
            preferred=none,
            without=none,
            first_reference=references.first_row,
            common=common_text(both, self._partitions, none),
        )
        return summarise(near)

    def _reader(self, keep_raw: bool = False) -> ReadSettings:
        return ReadSettings(self._config.input, self._key, self._config.execution.rows_per_block, keep_raw)

    def _read(self, tables: Any) -> tuple[list[Any], UInt64s, dict[str, int]]:
        """The first pass: signatures, all row keys (sorted), rows of each source."""
        if tables is None:
            tables = passes.read_tables(self._tasks, self._reader(), self._resources)
        blocks = passes.run_pass(
            passes.signed(tables, self._sign, self._resources), "reading and hashing", self._estimate()
        )
        counted = collect(map_blocks(blocks, count_rows))
        rows = np.sort(np.concatenate([NO_ROWS, *(item[0] for item in counted)]))
        by_source = sum((item[1] for item in counted), Counter[str]())
        broken = sum(item[2] for item in counted)
        self._check_broken(broken, len(rows))
        self._left_out = sum(collect(map_blocks(blocks, count_left_out)), LeftOut()).facts()
        if self._config.input.strict:
            refuse_left_out(self._left_out)
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
    ) -> Decided:
        """Conflicts, exact and near duplicates among the rows that are not in `without`."""
        import ray

        config = self._config
        if conflicts is None:
            conflicts = config.filter.enabled and config.filter.label_conflicts == "review"
        first = ray.put(preferred)
        equal = find_equal(signatures, self._partitions, conflicts=conflicts, preferred=first, without=ray.put(without))
        settled = collect(map_blocks(equal, lambda tables: row_keys(pa.concat_tables(tables))), "comparing records")
        out = ray.put(np.union1d(without, np.concatenate([NO_ROWS, *settled])))
        common = common_text(signatures, self._partitions, out)
        near = find_near(signatures, config.dedup, self._partitions, preferred=first, without=out, common=common)
        blocks = [*follow_keepers(equal, near), *near]
        if config.dedup.enabled and config.dedup.action == "drop":
            return summarise(blocks)
        clusters = NO_LINKS
        if config.dedup.enabled:
            weighed = summarise(blocks)
            clusters = np.stack([weighed.keepers, weighed.removed], axis=1)
        return replace(summarise(map_blocks(blocks, only_links)), clusters=clusters)

    def _settle(self, decided: Decided) -> Decided:
        """Take what a person decided off the hold; the rows of one conflict still share a split."""
        import ray

        if not self._answers:
            return decided
        ranks = {task.source: task.rank for task in self._tasks}
        places = [row_key_of(answer.place, ranks) for answer in self._answers if answer.place is not None]
        keys = ray.put(np.sort(np.array([row for row in places if row is not None], dtype=np.uint64)))
        ids = ray.put([answer.id for answer in self._answers if answer.place is None])
        stored = store_ids(decided.blocks, self._config.pii, self._key)
        found = collect(map_blocks(stored, lambda tables: held_rows(tables, ray.get(ids), ray.get(keys))))
        held = pa.concat_tables(found)
        rows, groups = row_keys(held), held[s.KEEPER_ROW].to_numpy()
        self._decisions = resolve(self._answers, Held(rows, held[s.ID].to_pylist(), groups), ranks)
        settled = np.sort(np.fromiter(self._decisions, dtype=np.uint64, count=len(self._decisions)))
        logger.info("%d rows were decided by a person", len(settled))
        chosen = contains(settled, rows)
        return replace(
            decided,
            blocks=restrict(decided.blocks, settled, inside=False),
            held=np.setdiff1d(decided.held, settled),
            links=np.concatenate([decided.links, np.stack([groups[chosen], rows[chosen]], axis=1)]),
        )

    def _process(self, name: str, selection: Selection, marked: Marked, total: int) -> list[StoredBlock]:
        """A second pass: redaction and filters of the selected rows, but those that an earlier attempt has stored."""
        import ray

        config, store = self._config, Store(join(self._folder, name))
        earlier, done = store.done()
        left = total - len(done)
        resources = self._resources.for_rows(left)
        if left <= 0:
            return earlier
        tables = passes.read_tables(
            self._tasks, self._reader(config.quarantine.keep_raw), resources, ray.put(selection.without(done))
        )
        decisions = ray.put(self._decisions)
        if self._decisions:
            tables = passes.edited(tables, decisions, resources)
        redacted = passes.redacted(tables, config.pii, self._key, resources)
        filtered = passes.filtered(redacted, config.filter, ray.put(marked), decisions, resources)
        receipts = passes.stored(filtered, store, config.execution.rows_per_block, resources)
        logger.info("%d rows to redact in up to %d processes, which load first", left, resources.num_actors)
        return [*earlier, *blocks_of(ray.get(passes.run_pass(receipts, "redacting and filtering", left)))]

    def _split(self, rows: "_Rows", by_source: dict[str, int], shapes: dict[str, str]) -> Outcome:
        import ray

        config = self._config
        decided = store_ids(map_blocks(rows.decided, only_dropped), config.pii, self._key)
        removed = ray.put(rows.removed)
        links = np.concatenate([rows.links, self._links_after_redaction(rows.processed, removed)])
        found = collect(map_blocks(rows.processed, lambda tables: split_columns(tables, ray.get(removed))))
        kept, ids, labels, subjects = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(kept)
        kept = kept[order]
        table = SplitRows(kept, ids[order], labels[order], subjects[order], *rows.facts.split_columns(kept))
        splits, largest = assign_splits(table, links, config.split, config.seed)
        warnings = []
        if len(kept) and largest > max(_LARGE_GROUP * len(kept), 2):
            share = f"{largest / len(kept):.0%}"
            warnings.append(f"{share} of the kept records are alike or belong together and had to stay in one split")
        assignment = Assignment(kept, splits, rows.removed)
        assignment, contaminated = self._decontaminate(rows, assignment)
        decided = [*decided, *contaminated]
        mixed = mix_rows(
            assignment, labels[order][contains(assignment.rows, kept)], rows.clusters, config, self._sources
        )
        reference = ray.put(mixed.assignment)
        processed = collect(map_blocks(rows.processed, lambda tables: count_placed(tables, ray.get(reference))))
        dropped = collect(map_blocks(decided, count_decided))
        self._check_account(rows.all_rows, [assignment.removed, *(item[1] for item in processed)])
        counts = sum((item[0] for item in processed), Counts()) + sum((item[0] for item in dropped), Counts())
        groups = conflict_groups(collect(map_blocks(rows.decided, conflicts_in)))
        return Outcome(
            processed=rows.processed,
            decided=decided,
            assignment=reference,
            counts=counts,
            num_rows_by_source=by_source,
            shapes=shapes,
            cluster_sizes=cluster_sizes([item[1] for item in dropped]),
            conflicts=groups[0],
            conflict_groups=groups[1],
            warnings=[*warnings, *mixed.warnings],
            left_out=self._left_out,
            mix=mixed.facts(counts, by_source, config.mix.weights_by),
            residual=find_residual(rows.processed, kept[order], config.pii),
        )

    def _decontaminate(self, rows: "_Rows", assignment: Assignment) -> tuple[Assignment, list[Any]]:
        """Take contaminated rows out of train; references of their `DECISION` tables."""
        import ray

        config = self._config.decontaminate
        dirty, codes = rows.facts.overlaps(assignment.rows[assignment.splits == TRAIN])
        if config.against_test:
            found = overlap_with_test(rows.processed, ray.put(assignment), config.ngram, self._key)
            # A row that a benchmark holds keeps that reason.
            new = ~contains(dirty, found[0])
            dirty, codes = np.concatenate([dirty, found[0][new]]), np.concatenate([codes, found[1][new]])
            order = np.argsort(dirty)
            dirty, codes = dirty[order], codes[order]
        if not len(dirty):
            return assignment, []
        logger.info("%d rows of train overlap with a benchmark or the test split and are dropped", len(dirty))
        clean = ~contains(dirty, assignment.rows)
        if not (assignment.splits[clean] == TRAIN).any():
            raise UserError(
                "decontaminate: every record of train overlaps with a benchmark or the test split; "
                "raise decontaminate.ngram, or set decontaminate.against_test=false"
            )
        left = Assignment(assignment.rows[clean], assignment.splits[clean], np.union1d(assignment.removed, dirty))
        return left, dropped_rows(rows.processed, dirty, codes)

    def _links_after_redaction(self, processed: list[StoredBlock], removed: Any) -> Edges:
        """Records that are near-duplicates only once they are redacted decide sides as well."""
        import ray

        config = self._config
        settings = SignSettings(config.dedup, self._key)

        def sign_kept(tables: list[pa.Table]) -> pa.Table:
            return sign(kept_table(tables, ray.get(removed)), settings)

        signatures = map_blocks(processed, sign_kept)
        none = ray.put(NO_ROWS)
        common = common_text(signatures, self._partitions, none)
        near = find_near(signatures, config.dedup, self._partitions, preferred=none, without=none, common=common)
        return summarise(near).links

    @staticmethod
    def _check_account(rows: UInt64s, places: list[UInt64s]) -> None:
        """Every row that was read stands in exactly one place."""
        placed = np.sort(np.concatenate(places))
        if not np.array_equal(placed, rows):
            raise RuntimeError(
                f"{len(rows)} rows were read but {len(placed)} are accounted for; was an input changed meanwhile?"
            )

    def _nothing_left(self, processed: list[StoredBlock], decided: list[Any], removed: UInt64s) -> UserError:
        import ray

        reference = ray.put(removed)
        reasons: Counter[str] = Counter()
        for counts, _ in collect(map_blocks(decided, count_decided)):
            reasons.update({reason: n for (stage, reason), n in counts.dropped.items() if stage != REVIEW})
        for table in collect(map_blocks(processed, lambda tables: reasons_in(tables, ray.get(reference)))):
            reasons.update(table)
        listed = ", ".join(
            f"{reason} {n}" for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        )
        return UserError(f"no rows are left to train on: {listed}. Loosen filter.* or look at the input")


@dataclass(frozen=True)
class _Rows:
    """All blocks after the last pass."""

    processed: list[StoredBlock]
    decided: list[Any]
    removed: UInt64s
    links: Edges
    all_rows: UInt64s
    clusters: Edges
    facts: RowFacts
