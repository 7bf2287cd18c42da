"""The passes over the input as Ray Data pipelines: reading and signing; reading, redacting and filtering.

Each gives references of Arrow blocks, in no order that means anything. Blocks with raw text exist in the object store
only between a read task and the actor that redacts it, held back by Ray Data's backpressure; redacted rows go to files.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ftlib.config.prepare import ExecutionConfig, FilterConfig, PiiConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import Progress, get_logger
from ftlib.data import schema as s
from ftlib.data.broken import BrokenRows
from ftlib.data.filter import apply_filters
from ftlib.data.read import ReadSettings, Selection, group_tasks, read_group
from ftlib.data.redact import redactor_class
from ftlib.data.review import apply_decisions, apply_edits
from ftlib.data.rows import ReadTask
from ftlib.data.sign import SIGNATURE, SignSettings, sign
from ftlib.data.stored import RECEIPT, Store
from ftlib.runtime.exchange import gather

logger = get_logger(__name__)

_MIN_ROWS_PER_BLOCK, _MAX_ROWS_PER_BLOCK, _USUAL_BLOCKS = 2048, 65_536, 256
_PIECES_PER_BLOCK = 8
_BATCHES_PER_BLOCK = 4
_BLOCK_BYTES = 32 << 20
_CPUS_FOR_ONE_READ = 16
_ROWS_WORTH_AN_ACTOR = 500


@dataclass(frozen=True)
class Resources:
    """How the CPUs are shared between redaction actors and everything else."""

    num_actors: int
    cpus_per_actor: float
    cpus_per_task: float
    chosen: bool = False
    """Whether the user gave the number of actors."""

    def for_rows(self, num_rows: int) -> "Resources":
        """No more actors than have a share of the rows that is worth loading an analyzer."""
        enough = max(1, num_rows // _ROWS_WORTH_AN_ACTOR)
        return self if self.chosen else replace(self, num_actors=min(self.num_actors, enough))


def share_cpus(total_cpus: float, num_workers: int | None) -> Resources:
    """Actors on all CPUs would leave none for reads and hang them: part of each is left to those."""
    reserve = max(1.0, total_cpus / _CPUS_FOR_ONE_READ) if total_cpus > 1 else 0.5
    workers = num_workers or max(1, int(total_cpus))
    share = min(1.0, (total_cpus - reserve) / workers)
    per_actor, per_task = max(0.01, int(share * 100) / 100), 0.5 if total_cpus > 1 else 0.25
    return Resources(workers, per_actor, per_task, chosen=num_workers is not None)


def share_gpus(resources: Resources, gpus: float, config: PiiConfig) -> Resources:
    """As many redaction actors as the cluster's GPUs allow. Raises UserError where there is no GPU for one."""
    if not config.num_gpus:
        return resources
    if config.num_gpus > gpus:
        raise UserError(
            f"pii.num_gpus={config.num_gpus:g}: the cluster has {gpus:g} GPUs, so no redaction process could start; "
            "lower it, or set pii.num_gpus=0 to run the models on CPUs"
        )
    return replace(resources, num_actors=max(1, min(resources.num_actors, int(gpus / config.num_gpus))))


def rows_per_block(config: ExecutionConfig, tasks: Sequence[ReadTask]) -> int:
    """Rows that travel together: few enough for small inputs to spread, so many that large ones are few blocks."""
    if config.rows_per_block is not None:
        return config.rows_per_block
    estimate = max(1, sum(task.num_rows_estimate for task in tasks))
    bytes_each = max(1, sum(task.num_bytes for task in tasks) // estimate)
    wanted = min(-(-estimate // _USUAL_BLOCKS), _MAX_ROWS_PER_BLOCK, _BLOCK_BYTES // bytes_each)
    return max(wanted, _MIN_ROWS_PER_BLOCK)


def configure_ray_data() -> None:
    """Quiet and small: defaults of Ray Data are for clusters of hundreds of CPUs."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = _BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def read_tables(tasks: Sequence[ReadTask], settings: ReadSettings, resources: Resources, selection: Any = None) -> Any:
    """Dataset of `schema.READ`. `selection`: reference of a `Selection`."""
    import ray
    import ray.data

    groups = group_tasks(tasks, settings.rows_per_block)

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        chosen: Selection | None = None if selection is None else ray.get(selection)
        for number in batch["group"].to_pylist():
            yield from read_group(groups[number], settings, chosen)

    numbers = [{"group": number} for number in range(len(groups))]
    return ray.data.from_items(numbers, override_num_blocks=len(groups)).map_batches(
        read, batch_size=1, batch_format="pyarrow", num_cpus=resources.cpus_per_task
    )


def broken_rows(tasks: Sequence[ReadTask], settings: ReadSettings, resources: Resources) -> BrokenRows:
    """Read the input once more for the reasons of the rows that are no records."""
    import ray

    def run(group: list[ReadTask]) -> BrokenRows:
        found = BrokenRows()
        for table in read_group(group, settings):
            found.add(table)
        return found

    remote = ray.remote(run).options(num_cpus=resources.cpus_per_task)
    groups = group_tasks(tasks, settings.rows_per_block)
    return BrokenRows.merge(gather([remote.remote(group) for group in groups], "counting the broken rows", logger))


def signed(dataset: Any, settings: SignSettings, resources: Resources) -> Any:
    """`schema.READ` → `sign.SIGNATURE`."""

    def run(table: pa.Table) -> pa.Table:
        return sign(table, settings) if table.num_rows else SIGNATURE.empty_table()

    return _map(dataset, run, resources)


def redacted(
    dataset: Any, config: PiiConfig, key: bytes, resources: Resources, rows_per_block: int = _MIN_ROWS_PER_BLOCK
) -> Any:
    """`schema.READ` → `schema.PROCESSED` in a pool of actors, each with its own analyzer.

    Blocks of `rows_per_block` rows are cut into pieces that keep all actors busy to the end.
    """
    from ray.data import ActorPoolStrategy

    rows = max(config.batch_size * _BATCHES_PER_BLOCK, rows_per_block // _PIECES_PER_BLOCK)
    small = dataset.repartition(target_num_rows_per_block=rows)
    # Its tasks ask for a whole CPU, which no node has free beside its actors: on several nodes nothing would move.
    small._logical_plan.dag.ray_remote_args["num_cpus"] = resources.cpus_per_task
    return small.map_batches(
        redactor_class(config, key),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=resources.num_actors, initial_size=resources.num_actors),
        num_cpus=resources.cpus_per_actor,
        num_gpus=config.num_gpus or None,
    )


def edited(dataset: Any, decisions: Any, resources: Resources) -> Any:
    """`schema.READ` with what a person changed. `decisions`: reference of `Decision`s by row key."""
    import ray

    def run(table: pa.Table) -> pa.Table:
        return apply_edits(table, ray.get(decisions)) if table.num_rows else s.READ.empty_table()

    return _map(dataset, run, resources)


def filtered(dataset: Any, config: FilterConfig, marked: Any, decisions: Any, resources: Resources) -> Any:
    """Quality filters, then what a person decided.

    Args:
        dataset: of `schema.PROCESSED`.
        config: limits.
        marked: reference of a `Marked`.
        decisions: reference of `Decision`s by row key.
        resources: of a task.
    """
    import ray

    def run(table: pa.Table) -> pa.Table:
        if not table.num_rows:
            return s.PROCESSED.empty_table()
        return apply_decisions(apply_filters(table, config, ray.get(marked)), ray.get(decisions))

    return _map(dataset, run, resources)


def stored(dataset: Any, store: Store, rows_per_block: int, resources: Resources) -> Any:
    """Writes `schema.PROCESSED` to files of about `rows_per_block` rows; blocks are receipts."""

    def run(table: pa.Table) -> pa.Table:
        return store.write(table) if table.num_rows else RECEIPT.empty_table()

    return dataset.map_batches(
        run, batch_size=rows_per_block, batch_format="pyarrow", zero_copy_batch=True, num_cpus=resources.cpus_per_task
    )


def _map(dataset: Any, function: Callable[[pa.Table], pa.Table], resources: Resources) -> Any:
    return dataset.map_batches(
        function, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=resources.cpus_per_task
    )


def run_pass(dataset: Any, label: str, total: int | None) -> list[Any]:
    """Execute a pipeline; references of its blocks, with progress on the log."""
    progress = Progress(label, total, logger)
    blocks: list[Any] = []
    for bundle in dataset.iter_internal_ref_bundles():
        if rows := bundle.num_rows():
            blocks.extend(bundle.block_refs)
            progress.advance(rows)
    progress.finish()
    return blocks
