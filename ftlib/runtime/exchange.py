"""A two-stage exchange on Ray Core tasks: map → partition → reduce.

Map tasks read blocks and return one piece for each partition as separate objects (`num_returns=P`); reduce task p gets
the p-th piece of every map task. Pieces arrive in the order of the blocks, which is no order to rely on: a reducer
sorts. Memory: a reduce task holds its partition. Objects: maps × partitions, kept small by reading several blocks in a
map task. A failed task is retried from its inputs, so `partition` and `reduce` must be pure. Measured on two cores with
16 M (key, document) rows: 25 s, against 136 s of `Dataset.repartition(keys=…)`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from ftlib.core.logging import Progress

Block = TypeVar("Block")
MAPS_PER_CPU = 2
MAX_BLOCKS_PER_MAP = 16
_POLL_S = 1.0


def exchange(
    blocks: Sequence[Any],
    partition: Callable[[list[Any]], list[Any]],
    reduce: Callable[[int, list[Any]], Any],
    num_partitions: int,
) -> list[Any]:
    """Move rows between blocks and partitions.

    Args:
        blocks: object references of the input blocks, or objects with a method `load` that gives one.
        partition: blocks of one map task → exactly `num_partitions` pieces.
        reduce: (number of the partition, pieces) → result.
        num_partitions: number of reduce tasks.

    Returns:
        References of the `num_partitions` results, in order. An empty list of blocks gives `reduce(p, [])`.
    """
    import ray

    def map_group(*inputs: Any) -> Any:
        pieces = partition(loaded(inputs))
        if len(pieces) != num_partitions:
            raise ValueError(f"partition returned {len(pieces)} pieces, {num_partitions} are needed")
        return pieces[0] if num_partitions == 1 else pieces

    def reduce_partition(index: int, *pieces: Any) -> Any:
        return reduce(index, list(pieces))

    map_task, reduce_task = ray.remote(num_returns=num_partitions)(map_group), ray.remote(reduce_partition)
    mapped = [map_task.remote(*group) for group in group_blocks(blocks)]
    if num_partitions == 1:
        mapped = [[piece] for piece in mapped]
    return [reduce_task.remote(p, *(pieces[p] for pieces in mapped)) for p in range(num_partitions)]


def loaded(inputs: Iterable[Any]) -> list[Any]:
    """The blocks of one map task: those that are on storage are loaded here, in the task."""
    return [item.load() if hasattr(item, "load") else item for item in inputs]


def map_blocks(blocks: Sequence[Any], function: Callable[[list[Any]], Any]) -> list[Any]:
    """References of `function(group)` over groups of blocks: the map stage alone."""
    import ray

    def map_group(*inputs: Any) -> Any:
        return function(loaded(inputs))

    task = ray.remote(map_group)
    return [task.remote(*group) for group in group_blocks(blocks)]


def tree_reduce(values: Sequence[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """Reference of all values combined pairwise, in log₂ rounds; the order of the values is kept."""
    import ray

    task = ray.remote(combine)
    level = list(values)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [task.remote(a, b) for a, b in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


def wait_for(references: Sequence[Any], label: str, logger: logging.Logger) -> None:
    """Wait for the tasks behind references, whose values stay where they are; those done are logged."""
    import ray

    progress = Progress(f"{label} (tasks)", len(references), logger)
    waiting = list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_S, fetch_local=False)
        progress.advance(len(done))


def gather(references: Sequence[Any], label: str, logger: logging.Logger) -> list[Any]:
    """Values of the references, in order; tasks done are logged every few seconds."""
    import ray

    wait_for(references, label, logger)
    values: list[Any] = ray.get(list(references))
    return values


def group_blocks(blocks: Sequence[Any]) -> list[Sequence[Any]]:
    """Cut a list of blocks into groups: `MAPS_PER_CPU` for each CPU, more where a task's memory needs it."""
    import ray

    wanted = max(1, int(ray.cluster_resources().get("CPU", 1)) * MAPS_PER_CPU)
    size = min(max(1, -(-len(blocks) // wanted)), MAX_BLOCKS_PER_MAP)
    return [blocks[start : start + size] for start in range(0, len(blocks), size)]


def partition_indices(keys: np.ndarray, num_partitions: int) -> list[np.ndarray]:
    """Indices of the rows of each partition by `key % num_partitions`, ascending. `keys`: uint64, well mixed."""
    target = (keys % np.uint64(num_partitions)).astype(np.int64)
    order = np.argsort(target, kind="stable")
    return np.split(order, np.searchsorted(target[order], np.arange(1, num_partitions)))
