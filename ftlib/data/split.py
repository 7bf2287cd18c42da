"""Train, validation and test: stratified by label, and never cutting through a group.

In: row keys with hashes of id, label, subject and group (uint64, 0: none), and the group of each row. Groups are the
connected components of links (near-duplicates before and after redaction), shared subjects and shared groups. Within
each label, groups are taken in the order of a seeded hash of their ids, so a split depends on ids and seed and not on
order; quotas follow the fractions by largest remainder. By time, groups are taken from the one with the newest record
on instead, without regard to labels.

`assign_splits` does all of it in memory. The pieces that it is made of work on a part of the rows or groups, and
`data.split_tasks` puts them together for many rows, with the same result.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import SplitConfig
from ftlib.data.schema import SPLITS
from ftlib.data.sign import NO_TIME
from ftlib.text.components import Edges, components, star_edges
from ftlib.text.keyed import UInt64s, mix64

TRAIN, VAL, TEST = range(len(SPLITS))
SPLIT = "split"
"""Column of a `RowMap`: uint8, index into `SPLITS`."""
_MIN_GROUPS = len(SPLITS)
_GROUPS_AT_ONCE = 1 << 16

SEQUENCE = pa.schema(
    [
        ("age", pa.int64()),
        ("hash", pa.uint64()),
        ("first", pa.uint64()),
        ("size", pa.int64()),
        ("label", pa.uint64()),
        ("home", pa.uint64()),
        ("group", pa.int64()),
    ]
)
"""Groups. `age`: minus the newest time (0 where the split does not go by time), `hash` and `first`: seeded hash and row
key of its first row, which order groups; `size`: rows; `label`: stratum; `home` and `group`: partition and number in it
where its rows are."""
ORDER = ("age", "hash", "first")


@dataclass(frozen=True)
class SplitRows:
    """The rows to be split; uint64 [num_rows] each."""

    rows: UInt64s
    """Row keys."""
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


@dataclass(frozen=True)
class Strata:
    """What quotas are worked out from; adds up over parts."""

    sizes: Counter[int]
    """Stratum (hash of a label) → rows."""
    num_groups: int = 0
    largest: int = 0
    """Rows of the largest group."""

    def __add__(self, other: "Strata") -> "Strata":
        largest = max(self.largest, other.largest)
        return Strata(self.sizes + other.sizes, self.num_groups + other.num_groups, largest)


@dataclass
class Quota:
    """Rows that a split still wants."""

    labels: UInt64s
    """Strata, sorted."""
    rows: np.ndarray
    """int64 [num_strata]; below 0 where a group overshot."""
    missing: int
    """In all."""

    @property
    def stratified_done(self) -> bool:
        """Whether no group can be taken for its stratum any more."""
        return self.missing <= 0 or not (self.rows > 0).any()


def assign_splits(table: SplitRows, links: Edges, config: SplitConfig, seed: int) -> tuple[np.ndarray, int]:
    """The split of each row (uint8 [num_rows], index into `SPLITS`), and the size of the largest group.

    Args:
        table: the rows.
        links: uint64 [num_links, 2]; may name rows that are not in `table`, through which groups connect.
        config: fractions.
        seed: of the hash that orders groups.
    """
    if not len(table.rows):
        return np.empty(0, dtype=np.uint8), 0
    edges = [links, *(same_value(table.rows, column) for column in named_columns(table, config))]
    members, roots = components(np.concatenate(edges))
    root = table.rows.copy()
    if len(members):
        index = np.minimum(np.searchsorted(members, table.rows), len(members) - 1)
        root = np.where(members[index] == table.rows, roots[index], table.rows)
    group, groups = group_rows(table, root, config, seed, home=0)
    strata = strata_of(groups)
    sequence = in_sequence([groups])
    taken = np.full(sequence.num_rows, TRAIN, dtype=np.uint8)
    for split, fraction in split_order(config):
        quota = quota_of(strata, fraction)
        for stratified in (True, False):
            take(sequence, taken, split, quota, stratified=stratified)
    chosen = np.full(groups.num_rows, TRAIN, dtype=np.uint8)
    chosen[sequence["group"].to_numpy()] = taken
    return chosen[group], strata.largest


def split_order(config: SplitConfig) -> list[tuple[int, float]]:
    """Splits beside train and their fractions, in the order in which they take groups."""
    return [(TEST, config.test_fraction), (VAL, config.val_fraction)]


def named_columns(table: SplitRows, config: SplitConfig) -> list[UInt64s]:
    """Columns whose rows of one value belong together."""
    columns = [table.subjects if config.group_by_subject else None, table.groups]
    return [column for column in columns if column is not None]


def same_value(rows: UInt64s, values: UInt64s) -> Edges:
    """Edges between the rows of each value but 0."""
    return star_edges(values[values != 0], rows[values != 0])


def group_rows(
    table: SplitRows, root: UInt64s, config: SplitConfig, seed: int, home: int
) -> tuple[np.ndarray, pa.Table]:
    """Number the groups of rows that are here as a whole.

    Args:
        table: the rows.
        root: what names each one's group; uint64 [num_rows].
        config: whether to stratify.
        seed: of the hash that orders groups.
        home: number of this part.

    Returns:
        Number of the group of each row (int64 [num_rows]), and a `SEQUENCE` table in the order of these numbers.
    """
    _, group = np.unique(root, return_inverse=True)
    order_hash = mix64(table.ids ^ mix64(np.full(1, seed % 2**64, dtype=np.uint64)))
    # Rows by group, the one with the smallest hash first: it gives the group its place and its stratum.
    order = np.lexsort((table.rows, order_hash, group))
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    first = order[begins]
    count = len(first)
    by_label = config.stratify and table.times is None
    age = np.zeros(count, dtype=np.int64)
    if table.times is not None and count:
        age = -np.maximum.reduceat(table.times[order], begins)
    columns = {
        "age": age,
        "hash": order_hash[first],
        "first": table.rows[first],
        "size": np.bincount(group, minlength=count).astype(np.int64),
        "label": table.labels[first] if by_label else np.zeros(count, dtype=np.uint64),
        "home": np.full(count, home, dtype=np.uint64),
        "group": np.arange(count),
    }
    return group, pa.table([columns[name] for name in SEQUENCE.names], schema=SEQUENCE)


def strata_of(groups: pa.Table) -> Strata:
    """Rows of each stratum."""
    if not groups.num_rows:
        return Strata(Counter())
    sizes = groups["size"].to_numpy()
    labels, inverse = np.unique(groups["label"].to_numpy(), return_inverse=True)
    rows = np.bincount(inverse, weights=sizes).astype(np.int64)
    return Strata(Counter(dict(zip(labels.tolist(), rows.tolist(), strict=True))), len(sizes), int(sizes.max()))


def in_sequence(pieces: Sequence[pa.Table]) -> pa.Table:
    """Groups in the order in which they are taken; those without any date are left out: they stay in train."""
    table = pa.concat_tables([SEQUENCE.empty_table(), *pieces]).combine_chunks()
    table = table.filter(pa.array(table["age"].to_numpy() < -NO_TIME))
    age, order_hash, first = (table[name].to_numpy() for name in ORDER)
    return table.take(np.lexsort((first, order_hash, age)))


def quota_of(strata: Strata, fraction: float) -> Quota:
    """What a split of this fraction wants of each stratum."""
    labels = np.array(sorted(strata.sizes), dtype=np.uint64)
    sizes = np.array([strata.sizes[label] for label in labels.tolist()], dtype=np.int64)
    target = round(int(sizes.sum()) * fraction)
    if fraction > 0 and target == 0 and strata.num_groups >= _MIN_GROUPS:
        target = 1
    return Quota(labels, _quotas(sizes, target), target)


def _quotas(sizes: np.ndarray, target: int) -> np.ndarray:
    """Shares of `target` in proportion to `sizes`, by largest remainder; int64 [num_strata], sum = target."""
    exact = sizes * (target / max(int(sizes.sum()), 1))
    quota = np.floor(exact).astype(np.int64)
    rest = np.argsort(quota - exact, kind="stable")[: max(target - int(quota.sum()), 0)]
    quota[rest] += 1
    return quota


def take(sequence: pa.Table, taken: np.ndarray, split: int, quota: Quota, *, stratified: bool) -> None:
    """Give groups of `TRAIN` to `split`, one after the other.

    Args:
        sequence: groups, in order.
        taken: uint8 [num_groups]: split of each; changed.
        split: which one.
        quota: what it still wants; changed.
        stratified: take for each stratum's quota; otherwise what is missing in all, from any stratum.
    """
    sizes = sequence["size"].to_numpy()
    strata = np.searchsorted(quota.labels, sequence["label"].to_numpy())
    for start in range(0, len(sizes), _GROUPS_AT_ONCE):
        if quota.missing <= 0 or (stratified and quota.stratified_done):
            return
        part = slice(start, start + _GROUPS_AT_ONCE)
        possible = (taken[part] == TRAIN) & (sizes[part] <= quota.missing)
        if stratified:
            possible &= quota.rows[strata[part]] > 0
        chosen = start + np.flatnonzero(possible)
        found = _take_some(sizes[chosen], strata[chosen], quota, stratified=stratified)
        taken[chosen[found]] = split


def _take_some(sizes: np.ndarray, strata: np.ndarray, quota: Quota, *, stratified: bool) -> list[int]:
    """Which of the groups are taken, in order; changes the quota."""
    left, missing = quota.rows.tolist(), quota.missing
    found: list[int] = []
    for number, (size, stratum) in enumerate(zip(sizes.tolist(), strata.tolist(), strict=True)):
        if missing <= 0:
            break
        if size > missing:
            continue
        if stratified:
            # A group may overshoot its quota when that is nearer to it than leaving it out.
            if left[stratum] <= 0 or size > 2 * left[stratum]:
                continue
            left[stratum] -= size
        missing -= size
        found.append(number)
    quota.rows, quota.missing = np.array(left, dtype=np.int64), missing
    return found
