"""Rows in ranges of keys, components and splits over partitions: equal to what one process makes of them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftlib.config.prepare import SplitConfig
from ftlib.data import schema as s
from ftlib.data.connect import ROOT, connect
from ftlib.data.mix import COPIES, cluster_copies
from ftlib.data.residual import choose_sample
from ftlib.data.row_keys import row_keys
from ftlib.data.rowmap import NO_MAP, Fingerprint, RowMap, choose_bounds
from ftlib.data.sign import NO_TIME
from ftlib.data.split import SplitRows, assign_splits
from ftlib.data.split_tasks import SPLIT, split_rows
from ftlib.text.components import components
from ftlib.text.keyed import mix64

SLOW = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


def some_rows(generator, count):
    """Keys of several files, as a job has them."""
    ranks = generator.integers(0, 3, count).astype(np.uint64) << np.uint64(s.ROW_POSITION_BITS)
    return np.unique(ranks | generator.integers(0, 10 * count + 1, count).astype(np.uint64))


def whole(found):
    return pa.concat_tables(found.fetch(range(len(found.parts))))


def blocks_of(ray, table, number):
    """The table in blocks whose rows are in no order."""
    order = np.random.default_rng(number).permutation(table.num_rows)
    return [ray.put(table.take(part)) for part in np.array_split(order, number)]


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 5))
@SLOW
def test_a_map_finds_what_its_blocks_hold(ray_local, seed, num_parts, num_blocks):
    import ray

    generator = np.random.default_rng(seed)
    rows = some_rows(generator, 300)
    values = generator.integers(0, 99, len(rows))
    bounds = choose_bounds(rows[::7], num_parts)
    table = pa.table({s.ROW: rows, "value": values})
    found = RowMap.cut(blocks_of(ray, table, num_blocks), bounds, pa.concat_tables)
    assert len(found.parts) == len(bounds) + 1 and found.num_rows() == len(rows)
    assert whole(found).equals(table.combine_chunks())
    others = generator.choice(np.concatenate([rows, rows + np.uint64(1)]), 100)
    assert np.array_equal(found.contains(others), np.isin(others, rows))
    known = dict(zip(rows.tolist(), values.tolist(), strict=True))
    assert found.values(others, "value", -1).tolist() == [known.get(row, -1) for row in others.tolist()]
    for first, last in ((0, 2**64 - 1), sorted(generator.choice(rows, 2).tolist()), (int(rows[3]) + 1, int(rows[9]))):
        assert found.between(first, last).tolist() == rows[(rows >= first) & (rows <= last)].tolist()
    half = RowMap.cut(blocks_of(ray, table.slice(0, 100), 2), bounds, pa.concat_tables)
    assert whole(found.within(half)).equals(table.slice(0, 100).combine_chunks())
    assert whole(found.without(half)).equals(table.slice(100).combine_chunks())
    assert np.array_equal(row_keys(whole(half.union(found.without(half)))), rows)
    marks = [Fingerprint.of(row_keys(part)) for part in found.fetch(range(len(found.parts)))]
    assert sum(marks, Fingerprint()) == Fingerprint.of(rows) != Fingerprint.of(rows[1:])


def test_an_empty_map(ray_local):
    rows = np.array([3, 5], dtype=np.uint64)
    some = RowMap.local(rows)
    assert not NO_MAP.contains(rows).any() and NO_MAP.values(rows, "value", 7).tolist() == [7, 7]
    assert NO_MAP.between(0, 9).tolist() == [] and NO_MAP.num_rows() == 0 and some.num_rows() == 2
    assert some.without(NO_MAP) is some and some.within(NO_MAP).num_rows() == 0 and some.union(NO_MAP) is some


def chains(generator, rows, count):
    """Random edges, long chains and a hub."""
    pairs = generator.choice(rows, (count, 2))
    chain = generator.permutation(rows)[: len(rows) // 3]
    hub = np.stack([np.full(20, rows[-1]), generator.choice(rows, 20)], axis=1)
    return np.concatenate([pairs, np.stack([chain[1:], chain[:-1]], axis=1), hub])


@pytest.mark.parametrize("at_once", [0, 10**6])
@pytest.mark.parametrize(("num_parts", "num_arrays"), [(1, 1), (3, 4)])
def test_components_are_those_of_one_process(ray_local, at_once, num_parts, num_arrays):
    import ray

    generator = np.random.default_rng(num_parts + at_once)
    rows = some_rows(generator, 600)
    edges = chains(generator, rows, 60)
    expected = components(edges)
    arrays = [ray.put(part) for part in np.array_split(generator.permutation(edges), num_arrays)]
    found = connect(arrays, choose_bounds(rows, num_parts), 3, at_once)
    assert np.array_equal(row_keys(whole(found)), expected[0])
    assert np.array_equal(whole(found)[ROOT].to_numpy(), expected[1])


def test_no_edges_connect_nothing(ray_local):
    import ray

    none = np.empty((0, 2), dtype=np.uint64)
    for at_once in (-1, 10):
        assert connect([ray.put(none)] * 2, choose_bounds(np.arange(9, dtype=np.uint64), 2), 2, at_once).num_rows() == 0
    assert connect([], np.empty(0, dtype=np.uint64), 2).num_rows() == 0


def rows_to_split(generator, count, by_time, with_groups):
    rows = some_rows(generator, count)
    count = len(rows)
    labels = generator.choice(np.array([0, 11, 22, 33], dtype=np.uint64), count, p=[0.1, 0.6, 0.28, 0.02])
    subjects = generator.integers(0, count // 2, count).astype(np.uint64)
    times = generator.integers(0, 40, count)
    times[::9] = NO_TIME
    groups = np.where(generator.random(count) < 0.2, generator.integers(1, 30, count), 0).astype(np.uint64)
    ids = generator.integers(0, 2**64, count, dtype=np.uint64)
    return SplitRows(rows, ids, labels, subjects, groups if with_groups else None, times if by_time else None)


@pytest.mark.parametrize("by_time", [False, True])
@given(st.integers(0, 2**32), st.integers(1, 5), st.booleans(), st.booleans())
@SLOW
def test_the_split_over_partitions_is_that_of_one_process(ray_local, by_time, seed, num_parts, with_groups, stratify):
    """For any number of parts, blocks and partitions, near-duplicates, subjects and groups on one side."""
    import ray

    generator = np.random.default_rng(seed)
    table = rows_to_split(generator, 400, by_time, with_groups)
    beside = np.concatenate([table.rows, some_rows(generator, 50)])  # links through rows that were dropped
    links = generator.choice(beside, (80, 2))
    config = SplitConfig(val_fraction=0.1, test_fraction=0.2, stratify=stratify)
    expected, largest = assign_splits(table, links, config, seed)
    columns = {
        s.ROW: table.rows, "id_hash": table.ids, "label_hash": table.labels, "subject_hash": table.subjects,
        "group_hash": table.groups, "time": table.times,
    }  # fmt: skip
    arrow = pa.table({name: values for name, values in columns.items() if values is not None})
    rows = RowMap.cut(blocks_of(ray, arrow, 3), choose_bounds(table.rows, num_parts), pa.concat_tables)
    arrays = [ray.put(part) for part in np.array_split(links, 2)]
    for at_once in (0, 10**6):
        found, size = split_rows(rows, arrays, config, seed, num_parts, rows_at_once=at_once, edges_at_once=at_once)
        assert np.array_equal(row_keys(whole(found)), table.rows) and size == largest
        assert np.array_equal(whole(found)[SPLIT].to_numpy(), expected)


@pytest.mark.parametrize("num_parts", [1, 3])
def test_the_sample_is_the_same_for_any_order_of_rows(ray_local, num_parts):
    import ray

    rows = np.arange(1000, dtype=np.uint64) << np.uint64(3)
    kept = RowMap.cut(blocks_of(ray, pa.table({s.ROW: rows}), 4), choose_bounds(rows, num_parts), pa.concat_tables)
    sample = choose_sample(kept, 50)
    chosen = rows[sample.contains(rows)]
    assert chosen.tolist() == np.sort(rows[np.argsort(mix64(rows))[:50]]).tolist()
    assert sample.num_rows == 50 and not sample.contains(rows + np.uint64(1)).any()
    everything = choose_sample(kept, None)
    assert everything.num_rows == 1000 and everything.contains(rows).all()


@pytest.mark.parametrize("num_parts", [1, 3])
def test_a_cluster_weighs_as_one_record(ray_local, num_parts):
    import ray

    rows = np.array([1, 2, 3, 4, 5, 9], dtype=np.uint64)
    clusters = np.array([[1, 3], [1, 4], [7, 5], [7, 9], [2, 8]], dtype=np.uint64)  # 7 and 8 were not kept
    table = pa.table({s.ROW: rows})
    placed = RowMap.cut(blocks_of(ray, table, 2), choose_bounds(rows, num_parts), pa.concat_tables)
    found = whole(cluster_copies(placed, [ray.put(clusters[:2]), ray.put(clusters[2:])], 2))
    assert row_keys(found).tolist() == rows.tolist() and found[COPIES].to_pylist() == [3, 1, 3, 3, 2, 2]
    assert whole(cluster_copies(placed, [], 2))[COPIES].to_pylist() == [1] * 6
