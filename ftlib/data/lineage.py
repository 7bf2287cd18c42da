"""Lineage of a prepared dataset: from which file and row a record came, where it ended, and what touched it.

`python -m ftlib.data.lineage DATASET ID` prints what `trace` finds as JSON. The answer comes from `lineage.parquet`,
`dropped.parquet` and `redactions.parquet`; it needs no key and holds no text. Each file is read once, filtered by id.
"""

import json
import sys
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftlib.core.errors import UserError
from ftlib.core.storage import exists, filesystem, join
from ftlib.data import schema as s
from ftlib.data.prepared import open_prepared
from ftlib.data.write import DROPPED_FILE, LINEAGE_FILE, REDACTIONS_FILE


def read_parquet(path: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """A Parquet file, or the part of it that passes `filters`, local or behind a URI."""
    fs, inner = filesystem(path)
    return pq.read_table(inner, filesystem=fs, columns=columns, filters=filters)


def has_lineage(path: str) -> bool:
    """Whether a dataset says where its rows came from; those of earlier versions of ftlib do not."""
    return exists(join(path, LINEAGE_FILE))


def trace(path: str, id_: str) -> dict[str, Any]:
    """All that a prepared dataset knows of the rows with this id.

    Args:
        path: the dataset's folder or URI.
        id_: the id as stored: as given, derived, or the keyed hash that stands for an id with personal data.

    Returns:
        `id` and `rows`, one for each input row with this id, by source and position: `source`, `position` (byte offset
        in JSONL, row number in other formats), `subject` (keyed hash), `place` (`train`, `val`, `test`, `dropped` or
        `quarantine`), `findings` (field, entity, count), and of a dropped row `stage`, `reason`, `keeper_id` and
        `score`, of one in quarantine `error`. `duplicates`: rows that were dropped in favour of this id.

    Raises:
        UserError: no finished dataset, one without lineage, or an id that it does not hold.
    """
    open_prepared(path)
    if not has_lineage(path):
        raise UserError(f"{path}: no {LINEAGE_FILE}, so an earlier version made it; prepare it again")
    of_id = pc.field(s.ID) == id_
    rows = read_parquet(join(path, LINEAGE_FILE), filters=of_id).to_pylist()
    if not rows:
        raise UserError(f"{path}: no row has this id; ids stand in {LINEAGE_FILE}")
    dropped = read_parquet(join(path, DROPPED_FILE), filters=of_id | (pc.field(s.KEEPER_ID) == id_)).to_pylist()
    fates = iter([row for row in dropped if row[s.ID] == id_])
    redactions = iter(read_parquet(join(path, REDACTIONS_FILE), filters=of_id).to_pylist())
    return {
        "id": id_,
        "rows": [_row(path, row, fates, redactions) for row in rows],
        "duplicates": [
            {name: row[name] for name in (s.ID, s.SOURCE, s.REASON, s.SCORE)}
            for row in dropped
            if row[s.KEEPER_ID] == id_
        ],
    }


def _row(path: str, row: dict[str, Any], fates: Any, redactions: Any) -> dict[str, Any]:
    """One row's account. `fates`, `redactions`: the lines of the id that are left in the other files, in order."""
    found = {name: row[name] for name in (s.SOURCE, s.POSITION, s.SUBJECT, "place")}
    if row["place"] == s.IN_DROPPED:
        fate = next(fates)
        found |= {name: fate[name] for name in (s.STAGE, s.REASON, s.KEEPER_ID, s.SCORE)}
    elif row["place"] == s.IN_QUARANTINE:
        broken = read_parquet(
            join(path, "quarantine.parquet"),
            columns=[s.ERROR],
            filters=(pc.field(s.SOURCE) == row[s.SOURCE]) & (pc.field(s.POSITION) == row[s.POSITION]),
        )
        found[s.ERROR] = broken[s.ERROR][0].as_py()
    own = [next(redactions) for _ in range(row["num_redactions"])]
    counts = Counter((item["field"], item["entity"]) for item in own)
    found["findings"] = [
        {"field": field, "entity": entity, "count": count} for (field, entity), count in sorted(counts.items())
    ]
    return found


def rows_where(lineage: pa.Table, place: str, chosen: np.ndarray) -> np.ndarray:
    """`chosen` (bool [num_rows] over a lineage table) for the rows of one place, in that place's order."""
    in_place: np.ndarray = chosen[pc.equal(lineage["place"], place).to_numpy()]
    return in_place


def main(argv: list[str] | None = None) -> int:
    """Print a trace; the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if len(arguments) != 2:
            raise UserError("usage: python -m ftlib.data.lineage DATASET ID")
        print(json.dumps(trace(*arguments), indent=2, ensure_ascii=False))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
