"""Train, validation and test: stratified by label, and never cutting through a group.

In: row keys with hashes of id, label, subject and group (uint64, 0: none), and links between rows that must stay
together (near-duplicates before and after redaction). Out: the split of each row. Groups are the connected components
of links, shared subjects and shared groups. Within each label, groups are taken in the order of a seeded hash of their
ids, so a split depends on ids and seed and not on order; quotas follow the fractions by largest remainder. By time,
groups are taken from the one with the newest record on instead, without regard to labels.
"""

from dataclasses import dataclass

import numpy as np

from ftlib.config.prepare import SplitConfig
from ftlib.data.schema import SPLITS
from ftlib.data.sign import NO_TIME
from ftlib.text.components import Edges, components
from ftlib.text.keyed import UInt64s, mix64

TRAIN, VAL, TEST = range(len(SPLITS))
_MIN_GROUPS = len(SPLITS)


@dataclass(frozen=True)
class SplitRows:
    """The rows to be split, sorted by row key; uint64 [num_rows] each."""

    rows: UInt64s
    ids: UInt64s
    """Hash of the id."""
    labels: UInt64s
    """Hash of the label, 0 without one."""
    subjects: UInt64s
    """Hash of the data subject, 0 without one."""
    groups: UInt64s | None = None
    """Hash of the value of `split.group_column`, 0 without one."""
    times: np.ndarray | None = None
    """int64: seconds of `split.by_time`, `NO_TIME` without a date."""


def assign_splits(table: SplitRows, links: Edges, config: SplitConfig, seed: int) -> tuple[np.ndarray, int]:
    """The split of each row (uint8 [num_rows], index into `SPLITS`), and the size of the largest group.

    Args:
        table: the rows.
        links: uint64 [num_links, 2]; may name rows that are not in `table`, through which groups connect.
        config: fractions.
        seed: of the hash that orders groups.
    """
    rows = table.rows
    if not len(rows):
        return np.empty(0, dtype=np.uint8), 0
    named = [table.subjects if config.group_by_subject else None, table.groups]
    group = _groups(rows, links, [column for column in named if column is not None])
    order_hash = mix64(table.ids ^ mix64(np.full(1, seed % 2**64, dtype=np.uint64)))
    # Rows by group, the one with the smallest hash first: it gives the group its place and its stratum.
    order = np.lexsort((rows, order_hash, group))
    first = order[np.concatenate([[True], np.diff(group[order]) != 0])]
    sizes = np.bincount(group)
    by_label = config.stratify and table.times is None
    labels = table.labels[first] if by_label else np.zeros(len(first), dtype=np.uint64)
    _, strata = np.unique(labels, return_inverse=True)
    sequence = np.lexsort((rows[first], order_hash[first]))
    if table.times is not None:
        newest = np.maximum.reduceat(table.times[order], np.flatnonzero(np.diff(group[order], prepend=-1)))
        sequence = sequence[np.argsort(-newest[sequence], kind="stable")]
        # Groups without any date stay where they are: in train.
        sequence = sequence[newest[sequence] > NO_TIME]
    chosen = np.full(len(sizes), TRAIN, dtype=np.uint8)
    groups = _Groups(sizes, strata, sequence)
    for split, fraction in ((TEST, config.test_fraction), (VAL, config.val_fraction)):
        _fill(chosen, split, fraction, groups)
    return chosen[group], int(sizes.max())


@dataclass(frozen=True)
class _Groups:
    sizes: np.ndarray
    """int64 [num_groups]: rows in each."""
    strata: np.ndarray
    """int64 [num_groups]: number of each one's label."""
    sequence: np.ndarray
    """int64 [num_groups]: the order in which groups are taken."""


def _groups(rows: UInt64s, links: Edges, columns: list[UInt64s]) -> np.ndarray:
    """Group number of each row, dense from 0; int64 [num_rows]. `columns`: rows of one value but 0 belong together."""
    edges = [links]
    for values in columns:
        named = np.flatnonzero(values)
        _, first, inverse = np.unique(values[named], return_index=True, return_inverse=True)
        same = np.stack([rows[named][first][inverse], rows[named]], axis=1)
        edges.append(same[same[:, 0] != same[:, 1]])
    members, roots = components(np.concatenate(edges))
    root = rows.copy()
    if len(members):
        index = np.minimum(np.searchsorted(members, rows), len(members) - 1)
        root = np.where(members[index] == rows, roots[index], rows)
    _, group = np.unique(root, return_inverse=True)
    return group


def _fill(chosen: np.ndarray, split: int, fraction: float, groups: _Groups) -> None:
    """Give groups of `TRAIN` to `split`: to each stratum's quota, then what is missing in all from any stratum."""
    sizes, strata = groups.sizes, groups.strata
    target = round(int(sizes.sum()) * fraction)
    if fraction > 0 and target == 0 and len(sizes) >= _MIN_GROUPS:
        target = 1
    quota = _quotas(np.bincount(strata, weights=sizes).astype(np.int64), target)
    missing = target
    for group in groups.sequence.tolist():
        stratum, size = strata[group], sizes[group]
        # A group may overshoot its quota when that is nearer to it than leaving it out.
        if chosen[group] == TRAIN and quota[stratum] > 0 and size <= min(2 * quota[stratum], missing):
            chosen[group] = split
            quota[stratum] -= size
            missing -= size
    for group in groups.sequence.tolist():
        if missing <= 0:
            break
        if chosen[group] == TRAIN and sizes[group] <= missing:
            chosen[group] = split
            missing -= sizes[group]


def _quotas(sizes: np.ndarray, target: int) -> np.ndarray:
    """Shares of `target` in proportion to `sizes`, by largest remainder; int64 [num_strata], sum = target."""
    exact = sizes * (target / max(int(sizes.sum()), 1))
    quota = np.floor(exact).astype(np.int64)
    rest = np.argsort(quota - exact, kind="stable")[: max(target - int(quota.sum()), 0)]
    quota[rest] += 1
    return quota
