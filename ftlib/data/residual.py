"""The output scanned again: what an independent detector still finds in the redacted rows, in every column of them.

In: references of `schema.PROCESSED` tables and the row keys that are kept. Out: `ResidualFacts`, counts by entity; no
value and no text. The sample are the kept rows with the smallest hash of their key, so it depends on the rows alone.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import PiiConfig
from ftlib.core.errors import GateError
from ftlib.core.logging import get_logger
from ftlib.data import schema as s
from ftlib.data.report_facts import ResidualFacts
from ftlib.data.row_keys import row_keys
from ftlib.data.rowmap import RowMap
from ftlib.data.scanned import shown_strings
from ftlib.runtime.exchange import gather, map_blocks
from ftlib.text.keyed import UInt64s, mix64

logger = get_logger(__name__)

_SHOWN = [s.SOURCE, s.MESSAGES, s.TEXT, s.REJECTED, s.LABEL, s.METADATA, s.TOOLS, s.FINDINGS]
_NAMES = (s.SOURCE, s.LABEL)
_VAGUE = frozenset({"PERSON", "LOCATION", "ORGANIZATION", "DATE_TIME", "URL"})
"""Not counted in names of classes and files, where a model takes many a word for a person: `Card_Arrival`."""
_ROWS_PER_TASK = 500  # a task first loads a pipeline, which takes seconds


def find_residual(processed: list[Any], kept: RowMap, config: PiiConfig) -> ResidualFacts | None:
    """Scan the sample; None where nothing is redacted or the sample is empty."""
    import ray

    if config.profile == "none" or config.residual_sample == 0:
        return None
    sample = choose_sample(kept, config.residual_sample)
    if not sample.num_rows:
        return None

    def pick(tables: list[pa.Table]) -> list[pa.Table]:
        rows = [table.filter(pa.array(sample.contains(row_keys(table)))) for table in tables]
        table = pa.concat_tables(rows).select(_SHOWN)
        return [table] if table.num_rows else []

    def scan(*picked: list[pa.Table]) -> tuple[Counter[str], Counter[str], int, str]:
        return scan_tables([table for tables in picked for table in tables], config)

    picked = map_blocks(processed, pick)
    tasks = min(len(picked), max(1, -(-sample.num_rows // _ROWS_PER_TASK)))
    scan_task = ray.remote(scan)
    results = gather([scan_task.remote(*picked[i::tasks]) for i in range(tasks)], "scanning the output", logger)
    findings, records = Counter[str](), Counter[str]()
    for found, with_any, _, _ in results:
        findings.update(found)
        records.update(with_any)
    return {
        "detector": results[0][3],
        "num_scanned": sample.num_rows,
        "num_records": sum(result[2] for result in results),
        "entities": [
            {"entity": entity, "num_findings": count, "num_records": records[entity]}
            for entity, count in sorted(findings.items(), key=lambda item: (-item[1], item[0]))
        ],
    }


@dataclass(frozen=True)
class RowSample:
    """The rows whose keys have the smallest hashes: told by the largest of these."""

    rows: RowMap
    limit: int
    """Largest hash in the sample."""
    num_rows: int

    def contains(self, rows: UInt64s) -> np.ndarray:
        """Which of `rows` are in the sample; bool [len(rows)]."""
        low = mix64(rows) <= np.uint64(self.limit)
        found = np.zeros(len(rows), dtype=bool)
        found[low] = self.rows.contains(rows[low])
        return found


def choose_sample(kept: RowMap, size: int | None) -> RowSample:
    """A sample of about any rows; `size` None: all."""
    num_rows = kept.num_rows()
    if size is None or num_rows <= size:
        return RowSample(kept, 2**64 - 1, num_rows)

    def smallest(part: pa.Table) -> UInt64s:
        return np.sort(mix64(row_keys(part)))[:size]

    hashes = np.sort(np.concatenate(gather(kept.each(smallest), "choosing a sample", logger)))
    return RowSample(kept, int(hashes[size - 1]), size)


def scan_tables(tables: list[pa.Table], config: PiiConfig) -> tuple[Counter[str], Counter[str], int, str]:
    """Findings by entity, records with each entity, records with any, and the detector's version."""
    from ftlib.text.pii.residual import ResidualScanner, replaced_places

    scanner = ResidualScanner(config)
    findings, records, num_records = Counter[str](), Counter[str](), 0
    for record in (record for table in tables for record in table.to_pylist()):
        seen: Counter[str] = Counter()
        for name, cue, text in shown_strings(record):
            head = f"{cue}: " if cue else ""
            own = [(f["start"], f["end"], f["replacement"]) for f in record[s.FINDINGS] if f["field"] == name]
            places = [(start + len(head), end + len(head)) for start, end in replaced_places(own)]
            found = scanner.scan(head + text, [(0, len(head)), *places] if head else places)
            seen.update(item.entity for item in found if name not in _NAMES or item.entity not in _VAGUE)
        findings.update(seen)
        records.update(seen.keys())
        num_records += bool(seen)
    return findings, records, num_records, scanner.version


def exceeds(residual: ResidualFacts | None, config: PiiConfig) -> bool:
    """Whether more of the scanned records than `pii.max_residual` hold a residual finding."""
    if config.max_residual is None or residual is None:
        return False
    return residual["num_records"] > config.max_residual * residual["num_scanned"]


def refuse_residual(residual: ResidualFacts, config: PiiConfig, result: dict[str, Any]) -> GateError:
    """The gate's answer."""
    names = ", ".join(f"{row['entity']} {row['num_findings']}" for row in residual["entities"][:5])
    return GateError(
        f"a second detector still finds personal data in {residual['num_records']} of {residual['num_scanned']} "
        f"records ({names}), more than pii.max_residual={config.max_residual} allows; see report.html. The dataset has "
        "no _SUCCESS, so that no job reads it: add pii.patterns or pii.deny_list, or raise the limit",
        result,
    )
