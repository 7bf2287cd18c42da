"""The split: fractions, strata, groups that stay together, and no dependence on order."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.config.prepare import SplitConfig
from ftlib.data.sign import NO_TIME
from ftlib.data.split import SplitRows, assign_splits
from ftlib.text.keyed import mix64

NO_LINKS = np.empty((0, 2), dtype=np.uint64)


def table(count, labels=None, subjects=None, seed=0):
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(10**6, count, replace=False)).astype(np.uint64)
    zeros = np.zeros(count, dtype=np.uint64)
    ids = generator.integers(0, 2**64, count, dtype=np.uint64)
    return SplitRows(rows, ids, zeros if labels is None else labels, zeros if subjects is None else subjects)


def sizes(splits):
    return np.bincount(splits, minlength=3).tolist()


@pytest.mark.parametrize("count", [20, 100, 999])
def test_fractions(count):
    splits, largest = assign_splits(table(count), NO_LINKS, SplitConfig(val_fraction=0.1, test_fraction=0.2), 0)
    assert sizes(splits) == [count - round(0.1 * count) - round(0.2 * count), round(0.1 * count), round(0.2 * count)]
    assert largest == 1


def test_every_label_has_its_share():
    labels = np.repeat(np.array([11, 22, 33], dtype=np.uint64), [600, 300, 100])
    splits, _ = assign_splits(table(1000, labels), NO_LINKS, SplitConfig(val_fraction=0.1, test_fraction=0.2), 0)
    for label, count in ((11, 600), (22, 300), (33, 100)):
        assert sizes(splits[labels == label]) == [0.7 * count, 0.1 * count, 0.2 * count]


def test_groups_and_subjects_stay_together():
    data = table(300, subjects=np.concatenate([np.arange(1, 101), np.arange(1, 101), np.zeros(100)]).astype(np.uint64))
    generator = np.random.default_rng(5)
    links = data.rows[generator.integers(0, 300, (60, 2))]
    splits, largest = assign_splits(data, links, SplitConfig(val_fraction=0.15, test_fraction=0.25), 3)
    where = dict(zip(data.rows.tolist(), splits.tolist(), strict=True))
    assert all(where[int(a)] == where[int(b)] for a, b in links)
    assert all(len(set(splits[data.subjects == subject])) == 1 for subject in range(1, 101))
    assert largest > 2
    assert abs(sizes(splits)[2] - 75) <= 3 and abs(sizes(splits)[1] - 45) <= 3


def test_groups_connect_through_rows_that_were_dropped():
    data = table(50)
    gone = np.uint64(10**7)
    links = np.array([[gone, data.rows[3]], [gone, data.rows[40]]], dtype=np.uint64)
    for seed in range(30):
        splits, _ = assign_splits(data, links, SplitConfig(val_fraction=0.3, test_fraction=0.3), seed)
        assert splits[3] == splits[40]


def test_subjects_may_be_cut_when_told():
    data = table(100, subjects=np.ones(100, dtype=np.uint64))
    assert sizes(assign_splits(data, NO_LINKS, SplitConfig(), 0)[0])[0] == 100
    assert sizes(assign_splits(data, NO_LINKS, SplitConfig(group_by_subject=False), 0)[0]) == [80, 5, 15]


def test_a_split_depends_on_ids_and_seed_not_on_positions():
    data = table(200, np.random.default_rng(1).integers(1, 4, 200).astype(np.uint64))
    splits, _ = assign_splits(data, NO_LINKS, SplitConfig(), 0)
    by_id = dict(zip(data.ids.tolist(), splits.tolist(), strict=True))
    order = np.random.default_rng(2).permutation(200)
    moved = SplitRows(data.rows, data.ids[order], data.labels[order], data.subjects[order])
    again, _ = assign_splits(moved, NO_LINKS, SplitConfig(), 0)
    assert dict(zip(moved.ids.tolist(), again.tolist(), strict=True)) == by_id
    other, _ = assign_splits(data, NO_LINKS, SplitConfig(), 1)
    assert sizes(other) == sizes(splits) and not np.array_equal(other, splits)


def test_a_giant_group_stays_in_training_and_the_rest_fills_the_test():
    data = table(100)
    links = np.stack([data.rows[:1].repeat(70), data.rows[:70]], axis=1)
    splits, largest = assign_splits(data, links, SplitConfig(val_fraction=0.05, test_fraction=0.15), 0)
    assert largest == 70
    assert set(splits[:70].tolist()) == {0}
    assert sizes(splits) == [80, 5, 15]


def test_few_rows_still_give_a_validation_row():
    splits, _ = assign_splits(table(8), NO_LINKS, SplitConfig(val_fraction=0.05, test_fraction=0.15), 0)
    assert sizes(splits) == [6, 1, 1]


def test_no_fractions_and_no_rows():
    assert sizes(assign_splits(table(10), NO_LINKS, SplitConfig(val_fraction=0, test_fraction=0), 0)[0]) == [10, 0, 0]
    assert len(assign_splits(table(0), NO_LINKS, SplitConfig(), 0)[0]) == 0


def test_the_newest_records_are_tested_and_those_without_a_date_are_learnt_from():
    data = table(100, labels=np.repeat(np.array([1, 2], dtype=np.uint64), 50))
    times = np.random.default_rng(8).permutation(100).astype(np.int64)
    times[times < 10] = NO_TIME
    dated = replace(data, times=times)
    config = SplitConfig(val_fraction=0.1, test_fraction=0.2)
    splits, _ = assign_splits(dated, NO_LINKS, config, 0)
    assert sorted(times[splits == 2].tolist()) == list(range(80, 100))
    assert sorted(times[splits == 1].tolist()) == list(range(70, 80))
    assert np.array_equal(splits, assign_splits(dated, NO_LINKS, config, 7)[0])
    assert sizes(assign_splits(replace(data, times=np.full(100, NO_TIME)), NO_LINKS, config, 0)[0]) == [100, 0, 0]


def test_by_time_a_group_goes_with_its_newest_record():
    data = replace(table(50), times=np.arange(50))
    links = np.array([[data.rows[0], data.rows[49]]], dtype=np.uint64)
    splits, _ = assign_splits(data, links, SplitConfig(val_fraction=0.1, test_fraction=0.1), 0)
    assert np.flatnonzero(splits == 2).tolist() == [0, 46, 47, 48, 49]


def test_groups_of_a_column_stay_together_beside_subjects():
    groups = np.concatenate([np.arange(1, 41), np.arange(1, 41), np.zeros(20)]).astype(np.uint64)
    subjects = np.zeros(100, dtype=np.uint64)
    subjects[[0, 99]] = 7
    data = replace(table(100, subjects=subjects), groups=groups)
    for seed in range(10):
        splits, largest = assign_splits(data, NO_LINKS, SplitConfig(val_fraction=0.2, test_fraction=0.3), seed)
        assert np.array_equal(splits[:40], splits[40:80]) and splits[0] == splits[99]
        assert largest == 3


def by_hand(data, links, config, seed):
    """Row by row: groups by repeated joining, then one group after the other to the first split that wants it."""
    rows = data.rows.tolist()
    near = {row: {row} for row in rows}
    for left, right in links.tolist():
        near.setdefault(left, {left}).add(right)
        near.setdefault(right, {right}).add(left)
    for subject in set(data.subjects.tolist()) - {0}:
        same = {row for row, value in zip(rows, data.subjects.tolist(), strict=True) if value == subject}
        for row in same:
            near[row] |= same
    group = {}
    for row in near:
        waiting = [row]
        while waiting:
            if group.setdefault(item := waiting.pop(), row) == row and near[item]:
                waiting += near[item] - group.keys()
    hashes = dict(zip(rows, mix64(data.ids ^ mix64(np.array([seed], dtype=np.uint64))).tolist(), strict=True))
    labels = dict(zip(rows, data.labels.tolist(), strict=True))
    members = {}
    for row in sorted(rows, key=lambda row: (hashes[row], row)):
        members.setdefault(group[row], []).append(row)
    label_of = {name: labels[found[0]] for name, found in members.items()}
    where = dict.fromkeys(members, 0)
    for split, fraction in ((2, config.test_fraction), (1, config.val_fraction)):
        sizes = Counter(label_of[name] for name, found in members.items() for _ in found)
        missing = round(len(rows) * fraction) or int(fraction > 0 and len(members) >= 3)
        exact = {label: size * (missing / len(rows)) for label, size in sizes.items()}
        quota = {label: int(value) for label, value in exact.items()}
        by_remainder = sorted(exact, key=lambda label: (quota[label] - exact[label], label))
        for label in by_remainder[: missing - sum(quota.values())]:
            quota[label] += 1
        for name, found in members.items():
            left = quota[label_of[name]]
            if where[name] == 0 and left > 0 and len(found) <= min(2 * left, missing):
                where[name], missing, quota[label_of[name]] = split, missing - len(found), left - len(found)
        for name, found in members.items():
            if where[name] == 0 and 0 < len(found) <= missing:
                where[name], missing = split, missing - len(found)
    return [where[group[row]] for row in rows]


@given(st.integers(0, 2**32), st.integers(3, 300), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_against_a_split_by_hand(seed, count, num_links):
    generator = np.random.default_rng(seed)
    labels = generator.choice(np.array([0, 11, 22, 33], dtype=np.uint64), count, p=[0.1, 0.5, 0.35, 0.05])
    data = table(count, labels, generator.integers(0, count, count).astype(np.uint64), seed)
    links = generator.choice(np.concatenate([data.rows, np.arange(10**7, 10**7 + 9)]), (num_links, 2)).astype(np.uint64)
    config = SplitConfig(val_fraction=0.1, test_fraction=0.25)
    assert assign_splits(data, links, config, seed)[0].tolist() == by_hand(data, links, config, seed)
