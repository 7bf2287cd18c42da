"""A person's rows in a prepared dataset, and the dataset's next version, in which they are gone.

Found are rows of the subject (by keyed hash), rows with a given id, quarantined rows whose raw bytes hold the key, and
rows of nobody (no subject) that were kept in place of a near-duplicate of the person's: those hold the person's words.
Rows of other subjects stay, also when they say the same.

Each file is read whole, one at a time; split files without such a row are copied as they are. The report of the new
version holds the remaining rows' counts alone: samples of the old one might quote the person. Not resumable: it takes
seconds, and the folder appears whole or not at all.
"""

import hashlib
import html
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftlib.core.fingerprints import fingerprint
from ftlib.core.storage import exists, join, read_bytes, write_bytes, write_text
from ftlib.data import schema as s
from ftlib.data.dataset import REPORT_FILES, output_folder
from ftlib.data.facts import Counts, stage_facts
from ftlib.data.lineage import read_parquet, rows_where
from ftlib.data.near_keys import near_ids, near_rows
from ftlib.data.person import Person
from ftlib.data.prepared import KIND, SUCCESS, training_key
from ftlib.data.redact import FAILED
from ftlib.data.write import (
    DROPPED_FILE,
    LINEAGE_FILE,
    QUARANTINE_FILE,
    REDACTIONS_FILE,
    REVIEW_FILE,
    encode_table,
)
from ftlib.registry.manifest import MANIFEST, build_manifest, finished, verify_files, write_manifest
from ftlib.registry.search import Found

_KEPT_FIELDS = ("ner_model", "keyed_by", "dedup")


@dataclass(frozen=True)
class Holding:
    """A dataset and the person's rows in it."""

    found: Found
    lineage: pa.Table
    """`schema.LINEAGE`."""
    rows: np.ndarray
    """bool [num_rows of lineage]: the person's."""
    person: Person
    copied_ids: frozenset[str]
    """Ids of rows of nobody that were kept in place of the person's."""

    @property
    def places(self) -> dict[str, int]:
        """Where the rows are: split, `dropped`, `quarantine` → number."""
        places = self.lineage["place"].filter(pa.array(self.rows)).to_pylist()
        return dict(sorted(Counter(places).items()))

    def hit(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table with `id` and `subject` are the person's; bool [num_rows]."""
        copies = pc.and_(pc.is_null(table[s.SUBJECT]), _in(table[s.ID], self.copied_ids))
        found: np.ndarray = (_own(table, self.person) | copies.to_numpy(zero_copy_only=False)).astype(bool)
        return found

    @property
    def key(self) -> str:
        """Key of the next version: the same for the same person and dataset."""
        who = [sorted(self.person.subjects), sorted(self.person.ids)]
        files = self.found.manifest["files"]
        return fingerprint({"kind": KIND, "parent": self.found.manifest["key"], "files": files, "without": who})


def _strings(values: frozenset[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _in(column: Any, values: frozenset[str]) -> Any:
    return pc.is_in(column, _strings(values))


def _own(table: pa.Table, person: Person) -> np.ndarray:
    own: np.ndarray = pc.or_(_in(table[s.SUBJECT], person.subjects), _in(table[s.ID], person.ids)).to_numpy()
    return own


def find_rows(found: Found, person: Person) -> Holding | None:
    """The person's rows in a dataset with lineage; None when there are none."""
    path, raw = join(found.folder, LINEAGE_FILE), _in_raw(found.folder, person)
    if s.SUBJECT_FOLDED not in _columns(path):
        person = replace(person, subjects=person.subjects | person.older)
    named = pc.field(s.SUBJECT).isin(_strings(person.subjects)) | pc.field(s.ID).isin(_strings(person.ids))
    if not raw and not read_parquet(path, [s.ID], named).num_rows:
        return None
    lineage = read_parquet(path)
    # Raw bytes that mention a key are the person's only where nobody else is known to be meant.
    unnamed = pc.is_null(lineage[s.SUBJECT]).to_numpy(zero_copy_only=False).astype(bool)
    rows = _own(lineage, person) | (_at(lineage, raw) & unnamed)
    if not rows.any():
        return None
    keepers = read_parquet(join(found.folder, DROPPED_FILE), [s.KEEPER_ID])[s.KEEPER_ID]
    kept_for = keepers.filter(pa.array(rows_where(lineage, s.IN_DROPPED, rows)))
    copied = frozenset(id_ for id_ in kept_for.to_pylist() if id_ is not None)
    holding = Holding(found, lineage, rows, person, copied)
    in_split = pc.is_in(lineage["place"], pa.array(s.SPLITS)).to_numpy()
    return Holding(found, lineage, rows | (holding.hit(lineage) & in_split), person, copied)


def _columns(path: str) -> list[str]:
    """Column names of a table of a dataset."""
    names: list[str] = read_parquet(path, filters=pc.scalar(False)).column_names
    return names


def find_near(found: Found, person: Person) -> dict[str, Any] | None:
    """Rows under other keys that are written like one of the person's; None when there are none.

    Returns:
        `path`; `num_rows` and `num_keys` of them and `places` (place → rows); `num_ids`: ids written like a given
        one. `num_rows` is None for a dataset of a version that kept no folded hashes: it was not checked.
    """
    path = join(found.folder, LINEAGE_FILE)
    ids = near_ids(read_parquet(path, [s.ID])[s.ID].to_pylist(), person.plain_ids) if person.plain_ids else []
    if s.SUBJECT_FOLDED not in _columns(path):
        return {"path": found.folder, "num_rows": None, "num_keys": None, "places": {}, "num_ids": len(ids)}
    alike = pc.field(s.SUBJECT_FOLDED).isin(_strings(person.folded))
    table = read_parquet(path, [s.SUBJECT, s.SUBJECT_FOLDED, "place"], alike)
    table = table.filter(pa.array(near_rows(table, person.subjects, person.folded)))
    if not table.num_rows and not ids:
        return None
    return {
        "path": found.folder,
        "num_rows": table.num_rows,
        "num_keys": pc.count_distinct(table[s.SUBJECT]).as_py(),
        "places": dict(sorted(Counter(table["place"].to_pylist()).items())),
        "num_ids": len(ids),
    }


def _in_raw(folder: str, person: Person) -> set[tuple[str, int]]:
    """Source and position of rows in quarantine whose kept raw bytes hold one of the keys."""
    broken = read_parquet(join(folder, QUARANTINE_FILE), [s.SOURCE, s.POSITION, s.RAW])
    broken = broken.filter(pc.is_valid(broken[s.RAW])).to_pylist()
    return {(row[s.SOURCE], row[s.POSITION]) for row in broken if person.is_in_raw(row[s.RAW])}


def _at(table: pa.Table, places: set[tuple[str, int]]) -> np.ndarray:
    """Which rows of a table with `source` and `position` are at one of these; bool [num_rows]."""
    if not places:
        return np.zeros(table.num_rows, dtype=bool)
    pairs = zip(table[s.SOURCE].to_pylist(), table[s.POSITION].to_pylist(), strict=True)
    return np.fromiter((pair in places for pair in pairs), dtype=bool, count=table.num_rows)


def write_version(holding: Holding, path: str, started: float) -> dict[str, Any]:
    """Write the dataset without the rows, or find it written; returns its manifest."""
    done = finished(path, holding.key)
    if done and exists(join(path, SUCCESS)):
        return done
    old = holding.found.manifest
    # A changed file would look genuine in the new version, whose manifest is made anew.
    verify_files(holding.found.folder, old, sorted(name for name in old["files"] if name not in REPORT_FILES))
    with output_folder(path) as folder:
        contents = _Contents(holding)
        digests: dict[str, str] = {}
        for name in sorted(old["files"]):
            content = contents.of(name)
            if content is not None:
                write_bytes(join(folder, name), content)
                digests[name] = hashlib.sha256(content).hexdigest()
        contents.check()
        counts = contents.counts()
        record = _record(holding)
        for name, text in _report(old, counts, record).items():
            write_text(join(folder, name), text)
            digests[name] = hashlib.sha256(text.encode()).hexdigest()
        manifest = build_manifest(
            KIND,
            holding.key,
            old["config"],
            inputs=old.get("inputs"),
            counts=counts,
            files=dict(sorted(digests.items())),
            parents=[join(holding.found.folder, MANIFEST)],
            started=started,
            stages=stage_facts(contents.counters, counts["num_in"], (FAILED,)),
            **{name: old[name] for name in _KEPT_FIELDS if name in old},
            erasure=record,
        )
        if "config" in old.get("timing", {}):
            manifest["timing"]["config"] = old["timing"]["config"]
        write_manifest(folder, manifest)
    return manifest


def _record(holding: Holding) -> dict[str, Any]:
    """What the new version says about where it comes from."""
    old = holding.found
    return {
        "reason": "records of a data subject were erased",
        "parent": old.folder,
        "parent_key": old.manifest["key"],
        "parent_training_key": training_key(old.manifest["files"]),
        "parent_manifest_sha256": old.sha256,
        "subjects": sorted(holding.person.subjects),
        "ids": sorted(holding.person.hashed_ids),
        "num_rows": int(holding.rows.sum()),
        "places": holding.places,
    }


class _Contents:
    """The files of the new version, one after the other, with the counts of what is left."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self.counters = Counts()
        self._removed: Counter[str] = Counter()
        self._num_seen: Counter[str] = Counter()

    def of(self, name: str) -> bytes | None:
        """The content of a file; None for one that is made anew or not known.

        A large table is a folder of parts: ask for these in the order of their names, one after the other.
        """
        path, table = join(self._holding.found.folder, name), name.split("/", 1)[0]
        if table in s.SPLITS:
            return self._split(path, table)
        if table in (DROPPED_FILE, REDACTIONS_FILE, QUARANTINE_FILE, LINEAGE_FILE):
            return encode_table(self._rest(table, read_parquet(path)))
        return self._review(read_bytes(path)) if table == REVIEW_FILE else None

    def _part(self, name: str, chosen: np.ndarray, num_rows: int) -> np.ndarray:
        """`chosen` (bool over all rows of a table) for its next part, which has this many rows."""
        start = self._num_seen[name]
        self._num_seen[name] += num_rows
        return chosen[start : start + num_rows]

    def _split(self, path: str, split: str) -> bytes:
        table = read_parquet(path)
        gone = self._holding.hit(table)
        self._removed[split] += int(gone.sum())
        self.counters.splits[split] += int((~gone).sum())
        return encode_table(table.filter(pa.array(~gone))) if gone.any() else read_bytes(path)

    def _rest(self, name: str, table: pa.Table) -> pa.Table:
        lineage, rows = self._holding.lineage, self._holding.rows
        if name == LINEAGE_FILE:
            return table.filter(pa.array(~self._part(name, rows, table.num_rows)))
        if name == REDACTIONS_FILE:
            found = np.repeat(rows, lineage["num_redactions"].to_numpy())
            return table.filter(pa.array(~self._part(name, found, table.num_rows)))
        if name == QUARANTINE_FILE:
            gone = _at(table, _pairs(lineage.filter(pa.array(rows))))
            kept = table.filter(pa.array(~gone))
            self.counters.quarantined.update(kept[s.ERROR].to_pylist())
        else:
            gone = self._part(name, rows_where(lineage, s.IN_DROPPED, rows), table.num_rows)
            kept = self._without_keepers(table.filter(pa.array(~gone)))
            self.counters.dropped.update(zip(kept[s.STAGE].to_pylist(), kept[s.REASON].to_pylist(), strict=True))
        self._removed[s.IN_QUARANTINE if name == QUARANTINE_FILE else s.IN_DROPPED] += int(gone.sum())
        return kept

    def _without_keepers(self, dropped: pa.Table) -> pa.Table:
        """The drops stay on record; the erased row that they were dropped for is no longer named."""
        lineage, rows = self._holding.lineage, self._holding.rows
        gone = set(lineage[s.ID].filter(pa.array(rows)).to_pylist())
        gone -= set(lineage[s.ID].filter(pa.array(~rows)).to_pylist())
        named = _in(dropped[s.KEEPER_ID], frozenset(gone))
        index = dropped.column_names.index(s.KEEPER_ID)
        keepers = pc.if_else(named, pa.scalar(None, pa.string()), dropped[s.KEEPER_ID])
        return dropped.set_column(index, s.KEEPER_ID, keepers)

    def _review(self, content: bytes) -> bytes:
        gone = _pairs(self._holding.lineage.filter(pa.array(self._holding.rows)))
        kept = []
        for line in content.splitlines(keepends=True):
            data = json.loads(line)["data"]
            if (data[s.SOURCE], data[s.POSITION]) not in gone:
                kept.append(line)
        return b"".join(kept)

    def check(self) -> None:
        """Every row that was found is gone from the place where the lineage says it is, and no other."""
        if dict(self._removed) != dict.fromkeys(self._removed, 0) | self._holding.places:
            raise RuntimeError(f"{self._holding.found.folder}: {LINEAGE_FILE} does not match the other files")

    def counts(self) -> dict[str, Any]:
        """The manifest's counts."""
        counters = self.counters
        return {
            "num_in": counters.num_kept + counters.num_dropped + counters.num_quarantined,
            "num_out": counters.num_kept,
            "num_dropped": counters.num_dropped,
            "num_quarantined": counters.num_quarantined,
            "splits": {split: counters.splits[split] for split in s.SPLITS},
            "dropped": {f"{stage}/{reason}": n for (stage, reason), n in sorted(counters.dropped.items())},
            "quarantined": dict(sorted(counters.quarantined.items())),
        }


def _pairs(table: pa.Table) -> set[tuple[str, int]]:
    return set(zip(table[s.SOURCE].to_pylist(), table[s.POSITION].to_pylist(), strict=True))


def _report(old: dict[str, Any], counts: dict[str, Any], record: dict[str, Any]) -> dict[str, str]:
    """`report.json` and `report.html`: the account of what is left, and why there is a new version."""
    summary = {
        "num_in": counts["num_in"],
        "num_kept": counts["num_out"],
        "num_dropped": counts["num_dropped"],
        "num_quarantined": counts["num_quarantined"],
        "accounted": True,
    }
    report = {"version": 1, "summary": summary, "counts": counts, "erasure": record}
    rows: Sequence[tuple[str, Any]] = [
        ("Rows that are left", counts["num_in"]),
        *((f"in {split}", number) for split, number in counts["splits"].items()),
        *((f"dropped: {reason}", number) for reason, number in counts["dropped"].items()),
        *((f"quarantined: {error}", number) for error, number in counts["quarantined"].items()),
        ("Rows that were erased", record["num_rows"]),
        ("Made from", record["parent"]),
        ("Prepared with ftlib", old.get("ftlib")),
    ]
    cells = "".join(f"<tr><th>{html.escape(str(name))}<td>{html.escape(str(value))}" for name, value in rows)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Prepared data after an erasure'
        "</title><style>body{font:16px system-ui;margin:1rem;max-width:50rem}th{text-align:left;font-weight:400;"
        "padding-right:1rem}td{overflow-wrap:anywhere}</style><h1>Prepared data after an erasure</h1><p>Records of a "
        "data subject were erased; the full report of the version before may quote them and is not carried over.</p>"
        f"<table>{cells}</table></html>\n"
    )
    return {"report.json": json.dumps(report, indent=2, ensure_ascii=False) + "\n", "report.html": page}
