"""Canonical records in memory: tables of any version brought to today's schema, and what a message says.

A message of `schema.MESSAGE_TYPE` comes out of Arrow with every field, most of them null; `turn` leaves the null ones
out, so that a chat template, a review task or a reader of JSON sees what was there.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ftlib.data import schema as s

INSTRUCTING = ("system", "developer")
"""Roles that instruct rather than converse."""


def conform(table: pa.Table, schema: pa.Schema = s.RECORD) -> pa.Table:
    """A table with the columns and types of `schema`; what an earlier version did not write is null."""
    if table.schema.equals(schema):
        return table
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def read_records_file(path: str, filesystem: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns (default: all) of a split's Parquet file, also one that an earlier version wrote."""
    import pyarrow.parquet as pq

    names = list(columns or s.RECORD.names)
    there = set(pq.read_schema(path, filesystem=filesystem).names)
    table = pq.read_table(path, filesystem=filesystem, columns=[name for name in names if name in there])
    return conform(table, pa.schema([s.RECORD.field(name) for name in names]))


def turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without its null fields; `content` stays, null where a turn only calls tools."""
    kept = {name: value for name, value in message.items() if value is not None or name == s.CONTENT}
    if calls := kept.get(s.TOOL_CALLS):
        kept[s.TOOL_CALLS] = [{name: value for name, value in call.items() if value is not None} for call in calls]
    else:
        kept.pop(s.TOOL_CALLS, None)
    return kept


def turns(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a record without their null fields; none where it is plain text."""
    return [turn(message) for message in record.get(s.MESSAGES) or ()]


def said(message: Mapping[str, Any]) -> str:
    """All text of a message: reasoning, content, and each tool call as its name and arguments."""
    parts = [message.get(s.REASONING), message.get(s.CONTENT)]
    for call in message.get(s.TOOL_CALLS) or ():
        function = call.get("function") or {}
        parts.append(" ".join(part for part in (function.get("name"), function.get("arguments")) if part))
    return "\n".join(part for part in parts if part)


def is_bad_answer_alone(record: Mapping[str, Any]) -> bool:
    """Whether a record is a prompt with nothing but an undesirable answer to it, in `rejected`."""
    messages = record.get(s.MESSAGES)
    if not messages or record.get(s.REJECTED) is None or record.get(s.TEXT) is not None:
        return False
    return bool(messages[-1]["role"] != "assistant")


def tool_definitions(record: Mapping[str, Any]) -> list[Any] | None:
    """The tools that a record defines, parsed; None where it defines none."""
    value = record.get(s.TOOLS)
    found: list[Any] | None = json.loads(value) if value else None
    return found or None
