"""The stages of a preparation on a connected cluster, from read tasks to the split of every kept row.

The input is read twice: once for keyed hashes, once for redaction of what is left, so that no raw text waits anywhere.
The driver holds references and counters, neither text nor anything of each row: what is known of rows by their keys is
in maps that are cut into ranges (`data.rowmap`). Redacted rows wait in files beside the output: a job that died goes on
from them and repeats the rest. When a keeper is lost to a filter, to redaction or to quarantine, all rows that were
dropped for it are processed after all, and those that pass are compared again with what is kept. At the end every row
that was read is found in exactly one place, or the job fails.
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
    Decided,
    RowCounts,
    cluster_sizes,
    collect,
    conflict_groups,
    count_decided,
    count_left_out,
    count_placed,
    count_rows,
    dropped_edges,
    held_rows,
    kept_only,
    kept_table,
    links_in,
    lost_keepers,
    mere_links,
    only_dropped,
    only_links,
    reasons_in,
    restrict,
    settled_rows,
    split_columns,
    summarise,
    verdicts,
)
from ftlib.data.broken import BrokenFacts, mostly_broken
from ftlib.data.common import describe_common
from ftlib.data.decontaminate import contaminated, dropped_rows, overlap_with_test
from ftlib.data.dedup import REVIEW, common_text, find_equal, find_near, follow_keepers
from ftlib.data.facts import Counts
from ftlib.data.filter import Marked
from ftlib.data.leftout import LeftOut, LeftOutFacts, hide_people, refuse_left_out
from ftlib.data.losses import find_losses
from ftlib.data.mix import mix_rows
from ftlib.data.read import ReadSettings, Selection
from ftlib.data.redact import NameScanner, store_ids, store_labels
from ftlib.data.references import References
from ftlib.data.report_facts import CommonTextFacts, LossFacts, ResidualFacts, SemanticFacts
from ftlib.data.residual import find_residual
from ftlib.data.review import Answer, Decision, Held, resolve, row_key_of
from ftlib.data.row_keys import NO_ROWS, row_keys
from ftlib.data.rowfacts import RowFacts
from ftlib.data.rowmap import NO_MAP, ROWS_PER_SAMPLE, Fingerprint, RowMap, choose_bounds
from ftlib.data.rows import ReadTask
from ftlib.data.semantic import check_model, find_semantic
from ftlib.data.sign import JUDGING_SHAPES, SignSettings, sign
from ftlib.data.split import SPLIT, TRAIN
from ftlib.data.split_tasks import split_rows
from ftlib.data.stored import PASSES, Store, StoredBlock, blocks_of
from ftlib.data.write import Assignment
from ftlib.runtime.cluster import cluster_resources
from ftlib.runtime.exchange import map_blocks, wait_for
from ftlib.text.minhash import choose_bands, expected_recall

logger = get_logger(__name__)

_LARGE_GROUP = 0.2
_NUM_LOGGED = 20
_ROWS_PER_PARTITION = 20_000  # fewer are not worth a task
_MAX_ROWS_PER_PARTITION = 500_000  # signatures of more, about 400 MB, are too much for one


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
    losses: list[LossFacts] = field(default_factory=list)
    """Sources that lost much to one reason."""
    common_text: list[CommonTextFacts] = field(default_factory=list)
    """What most records of a source share."""
    semantic: SemanticFacts | None = None
    """How alike the kept rows are in meaning."""
    left_out: list[LeftOutFacts] = field(default_factory=list)
    """Columns and keys that no record carries on."""
    broken: list[BrokenFacts] = field(default_factory=list)
    """Sources that are mostly no records."""
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
        self._broken: list[BrokenFacts] = []
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
            judged=self._judged(),
        )
        self._partitions = config.execution.num_partitions
        self._rows_per_block = passes.rows_per_block(config.execution, self._tasks)
        self._bounds = NO_ROWS
        self._sources = {task.rank: task.source for task in tasks}

    def _judged(self) -> frozenset[str]:
        """Sources whose answers are judged one by one."""
        tasks = (*self._tasks, *self._references.corpus)
        return frozenset(task.source for task in tasks if task.shape in JUDGING_SHAPES)

    def run(self) -> Outcome:
        """All stages up to the split."""
        if (model := self._config.dedup.semantic.model) is not None:
            check_model(model)
        signatures, rows, by_source, decided_first = self.find_duplicates()
        first = self._settle(decided_first)
        facts = RowFacts.of(signatures, self._config, bool(len(self._references.benchmarks.texts)), self._bounds)
        num_removed = first.removed.num_rows()
        logger.info("%d duplicates dropped, %d rows held for review", num_removed, first.held.num_rows())
        chosen, marked = Selection((first.removed,)), Marked(first.held, facts.stale)
        processed = self._process(PASSES[0], chosen, marked, rows.num_rows - num_removed)
        verdict, broken = verdicts(processed, self._bounds)
        self._check_broken(broken, rows.num_rows)
        kept, decided, removed, links = kept_only(verdict), first.blocks, first.removed, first.links
        retry = lost_keepers(first.removed, verdict)
        if num_retry := retry.num_rows():
            logger.info("%d rows take part again: what they duplicated was not kept", num_retry)
            again = self._process(PASSES[1], Selection(take=retry), Marked(NO_MAP, facts.stale), num_retry)
            alive = kept.union(kept_only(verdicts(again, self._bounds)[0]))
            second = self._decide(signatures, among=alive, preferred=kept, conflicts=False)
            decided = [*restrict(decided, retry, within=False), *restrict(second.blocks, retry, within=True)]
            gone = second.removed.within(retry)
            removed = removed.without(retry).union(gone)
            kept = alive.without(gone)
            processed, links = [*processed, *again], [*links, *second.links]
        if not kept.num_rows():
            raise self._nothing_left(processed, decided, removed)
        del signatures  # the largest thing in the object store
        shapes = {task.source: task.shape for task in self._tasks}
        found = _Rows(processed, decided, removed, links, rows, first.clusters, facts)
        return self._split(found, by_source, shapes)

    def find_duplicates(self, tables: Any = None) -> tuple[list[Any], Fingerprint, dict[str, int], Decided]:
        """The first pass: signatures, the fingerprint of all rows, rows of each source, and what is decided.

        `tables`: a dataset of `schema.READ` where the records are in memory; by default the input is read.
        """
        signatures, rows, by_source = self._read(tables)
        self._log_recall()
        if not self._references.corpus:
            return signatures, rows, by_source, self._decide(signatures)
        known = self._in_corpus(signatures)
        logger.info("%d rows are near-duplicates of the reference corpus", known.removed.num_rows())
        return signatures, rows, by_source, self._decide(signatures, known.removed).after(known)

    def _log_recall(self) -> None:
        config = self._config.dedup
        bands, rows = choose_bands(config.threshold, config.num_permutations)
        recall = expected_recall(config.threshold, config.num_permutations)
        shares = ", ".join(f"{value:.1%} at {similarity}" for similarity, value in list(recall.items())[:3])
        logger.info("near-duplicates: %d bands of %d rows find %s of the pairs", bands, rows, shares)

    def _in_corpus(self, signatures: list[Any]) -> Decided:
        """Near-duplicates of the reference corpus."""
        references = self._references
        tables = passes.read_tables(references.corpus, self._reader(), self._resources)
        corpus = passes.run_pass(
            passes.signed(tables, self._sign, self._resources), "reading and hashing dedup.against", None
        )
        both = [*signatures, *corpus]
        near = find_near(
            both,
            self._config.dedup,
            self._partitions,
            self._bounds,
            first_reference=references.first_row,
            common=common_text(both, self._partitions),
        )
        return summarise(near, self._bounds)

    def _reader(self, keep_raw: bool = False) -> ReadSettings:
        return ReadSettings(self._config.input, self._key, self._rows_per_block, keep_raw)

    def _read(self, tables: Any) -> tuple[list[Any], Fingerprint, dict[str, int]]:
        """The first pass: signatures, the fingerprint of all rows, rows of each source."""
        if tables is None:
            tables = passes.read_tables(self._tasks, self._reader(), self._resources)
        blocks = passes.run_pass(
            passes.signed(tables, self._sign, self._resources), "reading and hashing", self._estimate()
        )
        counted = collect(map_blocks(blocks, count_rows))
        if not counted:
            raise UserError("no rows were read; were the inputs emptied meanwhile?")
        found = sum(counted[1:], counted[0])
        num_rows = found.rows.num_rows
        self._check_broken(found.broken_by_source.total(), num_rows, read=True)
        self._broken = self._mostly_broken(found)
        left_out = sum(collect(map_blocks(blocks, count_left_out)), LeftOut()).facts()
        self._left_out = hide_people(left_out, NameScanner(self._config.pii, self._key).name)
        if self._config.input.strict:
            refuse_left_out(self._left_out)
        wanted = max(self._partitions, -(-num_rows // _MAX_ROWS_PER_PARTITION))
        self._partitions = min(wanted, 1 + num_rows // _ROWS_PER_PARTITION)
        self._bounds = choose_bounds(found.sample, min(self._partitions, 1 + num_rows // ROWS_PER_SAMPLE))
        return blocks, found.rows, dict(sorted(found.by_source.items()))

    def _mostly_broken(self, counts: RowCounts) -> list[BrokenFacts]:
        """Why most rows of some sources are no records, which few broken rows in all would hide."""
        sources = mostly_broken(counts.broken_by_source, counts.by_source)
        if not sources:
            return []
        tasks = [task for task in self._tasks if task.source in set(sources)]
        found = passes.broken_rows(tasks, self._reader(), self._resources)
        facts: list[BrokenFacts] = [
            {
                "source": source,
                "num_rows": counts.by_source[source],
                "num_broken": counts.broken_by_source[source],
                "reasons": found.reasons_of(source),
            }
            for source in sources
        ]
        for item in facts[:_NUM_LOGGED]:
            logger.warning(
                "%s: %d of %d rows are no records and go to quarantine: %s",
                item["source"], item["num_broken"], item["num_rows"], "; ".join(item["reasons"]),
            )  # fmt: skip
        if len(facts) > _NUM_LOGGED:
            logger.warning("%d more files like these; the report names them", len(facts) - _NUM_LOGGED)
        return facts

    def _estimate(self) -> int:
        """About how many rows there are, from the first rows of each file."""
        return sum(task.num_rows_estimate for task in self._tasks)

    def _check_broken(self, broken: int, total: int, read: bool = False) -> None:
        """Raise UserError where too many rows are broken. `read`: by reading, so that reading again says why."""
        limit = self._config.quarantine.max_fraction
        if total > broken and broken <= limit * total:
            return
        reasons = ""
        if read:
            reasons = f": {passes.broken_rows(self._tasks, self._reader(), self._resources).describe()}"
        if total == broken:
            raise UserError(
                f"none of the {total} rows is a record{reasons}; is input.shape or the files' encoding right?"
            )
        raise UserError(
            f"{broken} of {total} rows are broken, more than quarantine.max_fraction={limit} allows{reasons}; "
            "mend the export, or raise the limit to see them in quarantine.parquet"
        )

    def _decide(
        self,
        signatures: list[Any],
        without: RowMap = NO_MAP,
        preferred: RowMap = NO_MAP,
        conflicts: bool | None = None,
        *,
        among: RowMap | None = None,
    ) -> Decided:
        """Conflicts, exact and near duplicates among the rows that are not in `without` and are in `among`."""
        config, bounds = self._config, self._bounds
        if conflicts is None:
            conflicts = config.filter.enabled and config.filter.label_conflicts == "review"
        equal = find_equal(
            signatures, self._partitions, conflicts=conflicts, preferred=preferred, without=without, among=among
        )
        settled = RowMap.cut(equal, bounds, settled_rows)
        out = without.union(settled)
        common = common_text(signatures, self._partitions, out, among)
        near = find_near(
            signatures, config.dedup, self._partitions, bounds, preferred=preferred, without=out, among=among,
            common=common,
        )  # fmt: skip
        blocks = [*follow_keepers(equal, near, self._partitions), *near, *map_blocks(equal, mere_links)]
        wait_for(blocks, "comparing records", logger)
        if config.dedup.enabled and config.dedup.action == "drop":
            return summarise(blocks, bounds)
        clusters = dropped_edges(summarise(blocks, bounds).removed) if config.dedup.enabled else []
        return replace(summarise(map_blocks(blocks, only_links), bounds), clusters=clusters)

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
        chosen = np.isin(rows, settled)
        settled_rows = RowMap.cut([ray.put(pa.table({s.ROW: settled}))], self._bounds, pa.concat_tables)
        return replace(
            decided,
            blocks=restrict(decided.blocks, settled_rows, within=False),
            held=decided.held.without(settled_rows),
            links=[*decided.links, ray.put(np.stack([groups[chosen], rows[chosen]], axis=1))],
        )

    def _process(self, name: str, selection: Selection, marked: Marked, total: int) -> list[StoredBlock]:
        """A second pass: redaction and filters of the selected rows, but those that an earlier attempt has stored."""
        import ray

        config, store = self._config, Store(join(self._folder, name))
        earlier, done = store.done(self._bounds)
        left = total - done.num_rows()
        resources = self._resources.for_rows(left)
        if left <= 0:
            return earlier
        tables = passes.read_tables(
            self._tasks, self._reader(config.quarantine.keep_raw), resources, ray.put(selection.without(done))
        )
        decisions = ray.put(self._decisions)
        if self._decisions:
            tables = passes.edited(tables, decisions, resources)
        redacted = passes.redacted(tables, config.pii, self._key, resources, self._rows_per_block)
        filtered = passes.filtered(redacted, config.filter, ray.put(marked), decisions, resources)
        receipts = passes.stored(filtered, store, self._rows_per_block, resources)
        logger.info("%d rows to redact in up to %d processes, which load first", left, resources.num_actors)
        return [*earlier, *blocks_of(passes.run_pass(receipts, "redacting and filtering", left))]

    def _split(self, rows: "_Rows", by_source: dict[str, int], shapes: dict[str, str]) -> Outcome:
        import ray

        config = self._config
        decided = store_ids(map_blocks(rows.decided, only_dropped), config.pii, self._key)
        removed = rows.removed
        after, shared_text = self._links_after_redaction(rows.processed, removed)
        meant, semantic = find_semantic(
            rows.processed,
            lambda tables: kept_table(tables, removed),
            config.dedup.semantic,
            self._partitions,
        )
        links = [*rows.links, *after, *meant]
        kept = RowMap.cut(rows.processed, self._bounds, lambda tables: split_columns(tables, removed))
        kept = rows.facts.with_split_columns(kept)
        placed, largest = split_rows(kept, links, config.split, config.seed, self._partitions)
        num_kept, warnings = kept.num_rows(), []
        if largest > max(_LARGE_GROUP * num_kept, 2):
            share = f"{largest / num_kept:.0%}"
            warnings.append(f"{share} of the kept records are alike or belong together and had to stay in one split")
        assignment, dirty = self._decontaminate(rows, Assignment(placed, removed))
        decided = [*decided, *dirty]
        mixed = mix_rows(
            assignment, kept, rows.clusters, config, sources=self._sources, num_partitions=self._partitions
        )
        reference = ray.put(mixed.assignment)
        counted = collect(map_blocks(rows.processed, lambda tables: count_placed(tables, ray.get(reference))))
        marks = collect(assignment.removed.each(lambda part: Fingerprint.of(row_keys(part))))
        self._check_account(rows.all_rows, sum([*marks, *(item[1] for item in counted)], Fingerprint()))
        dropped = collect(map_blocks(decided, count_decided))
        groups = store_labels(conflict_groups(rows.decided, self._partitions), config.pii, self._key)
        counts = sum([*(item[0] for item in counted), *dropped], Counts())
        return Outcome(
            processed=rows.processed,
            decided=decided,
            assignment=reference,
            counts=counts,
            num_rows_by_source=by_source,
            shapes=shapes,
            cluster_sizes=cluster_sizes(decided, self._partitions),
            conflicts=groups[0],
            conflict_groups=groups[1],
            warnings=[*warnings, *mixed.warnings],
            left_out=self._left_out,
            broken=self._broken,
            mix=mixed.facts(counts, by_source, config.mix.weights_by),
            residual=find_residual(rows.processed, kept, config.pii),
            common_text=shared_text,
            semantic=semantic,
            losses=find_losses(
                config,
                self._key,
                self._tasks,
                decided=decided,
                processed=rows.processed,
                removed=assignment.removed,
                num_rows=by_source,
                resources=self._resources,
            ),
        )

    def _decontaminate(self, rows: "_Rows", assignment: Assignment) -> tuple[Assignment, list[Any]]:
        """Take contaminated rows out of train; references of their `DECISION` tables."""
        import ray

        config, test = self._config.decontaminate, NO_MAP
        if config.against_test:
            test = overlap_with_test(rows.processed, ray.put(assignment), config.ngram, self._key, self._bounds)
        if not (test.parts or rows.facts.dirty.parts):
            return assignment, []
        dirty = contaminated(assignment.placed, rows.facts.dirty, test)
        if not (num_dirty := dirty.num_rows()):
            return assignment, []
        logger.info("%d rows of train overlap with a benchmark or the test split and are dropped", num_dirty)
        left = assignment.placed.without(dirty)
        if not any(collect(left.each(lambda part: bool((part[SPLIT].to_numpy() == TRAIN).any())))):
            raise UserError(
                "decontaminate: every record of train overlaps with a benchmark or the test split; "
                "raise decontaminate.ngram, or set decontaminate.against_test=false"
            )
        return Assignment(left, assignment.removed.union(dirty)), dropped_rows(rows.processed, dirty)

    def _links_after_redaction(
        self, processed: list[StoredBlock], removed: RowMap
    ) -> tuple[list[Any], list[CommonTextFacts]]:
        """Records that are near-duplicates only once they are redacted decide sides as well.

        Returns references of edges, and the text that most records of a source share.
        """
        config = self._config
        settings = SignSettings(config.dedup, self._key)
        signatures = map_blocks(processed, lambda tables: sign(kept_table(tables, removed), settings))
        common = common_text(signatures, self._partitions)
        near = find_near(signatures, config.dedup, self._partitions, self._bounds, common=common)
        shown = config.pii.profile != "none"
        described = describe_common(processed, signatures, common, key=self._key, ngram=config.dedup.ngram, shown=shown)
        return map_blocks(near, links_in), described

    @staticmethod
    def _check_account(rows: Fingerprint, placed: Fingerprint) -> None:
        """Every row that was read stands in exactly one place."""
        if placed != rows:
            raise RuntimeError(
                f"{rows.num_rows} rows were read and {placed.num_rows} are accounted for, but they are not the same; "
                "was an input changed meanwhile?"
            )

    def _nothing_left(self, processed: list[StoredBlock], decided: list[Any], removed: RowMap) -> UserError:
        reasons: Counter[str] = Counter()
        for counts in collect(map_blocks(decided, count_decided)):
            reasons.update({reason: n for (stage, reason), n in counts.dropped.items() if stage != REVIEW})
        for table in collect(map_blocks(processed, lambda tables: reasons_in(tables, removed))):
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
    removed: RowMap
    links: list[Any]
    all_rows: Fingerprint
    clusters: list[Any]
    facts: RowFacts
