"""The exchange on a real cluster: nothing lost, nothing doubled, whatever the number of blocks and partitions."""

from collections import Counter

import numpy as np
import pytest

from ftlib.core.logging import get_logger
from ftlib.runtime.exchange import exchange, gather, map_blocks, partition_indices, tree_reduce

LOGGER = get_logger(__name__)


def word_count(ray, blocks, num_partitions):
    def partition(inputs):
        keys = np.concatenate([np.asarray(block, dtype=np.uint64) for block in inputs])
        return [keys[index] for index in partition_indices(keys, num_partitions)]

    def reduce(index, pieces):
        values = np.concatenate([np.empty(0, dtype=np.uint64), *pieces])
        assert all(int(value) % num_partitions == index for value in values)
        return Counter(values.tolist())

    return gather(exchange([ray.put(block) for block in blocks], partition, reduce, num_partitions), "test", LOGGER)


@pytest.mark.parametrize("num_partitions", [1, 3])
@pytest.mark.parametrize("num_blocks", [0, 1, 11])
def test_every_row_arrives_once_in_its_partition(ray_local, num_blocks, num_partitions):
    import ray

    values = np.random.default_rng(0).integers(0, 50, 400).tolist() if num_blocks else []
    blocks = [part.tolist() for part in np.array_split(values, num_blocks)] if num_blocks else []
    found = word_count(ray, blocks, num_partitions)
    assert len(found) == num_partitions
    assert sum(found, Counter()) == Counter(values)


def test_a_wrong_number_of_pieces_is_an_error(ray_local):
    import ray

    with pytest.raises(Exception, match="2 pieces, 3 are needed"):
        ray.get(exchange([ray.put(1)], lambda blocks: [1, 2], lambda index, pieces: None, 3))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_tree_reduce_keeps_the_order(ray_local, count):
    import ray

    parts = [ray.put([i]) for i in range(count)]
    assert ray.get(tree_reduce(parts, lambda left, right: left + right)) == list(range(count))


def test_map_blocks_covers_all_blocks_in_order(ray_local):
    import ray

    groups = ray.get(map_blocks([ray.put(i) for i in range(23)], lambda blocks: blocks))
    assert [item for group in groups for item in group] == list(range(23))


def test_partition_indices():
    keys = np.array([4, 1, 3, 0, 7], dtype=np.uint64)
    assert [part.tolist() for part in partition_indices(keys, 3)] == [[2, 3], [0, 1, 4], []]
