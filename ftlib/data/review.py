"""Review by a person: what `review.jsonl` holds, and the answers that come back with `review.decisions`.

Out: one Label Studio task a line, `{"data": …, "predictions": […]}`. `data` is the redacted record with its `id`,
`source`, `position` and the `reason` why it is held; the prediction fills the text areas `answer` and `label` with what
the record says now. Names that the labelling interface must use: choices `decision` (accept, edit, reject), text areas
`answer` and `label`, on an object `record` that shows `messages`.

In: a Label Studio export (JSON or JSON-MIN) or JSONL lines `{"id", "decision", "answer"?, "label"?}` (`text` means
`answer`; `source` and `position` name a row exactly where ids repeat). accept: the row is kept as it is, past the hold
and the filters. edit: its last answer (or its text) and its label are replaced before redaction, then as accept.
reject: it is dropped, stage `review`, reason `rejected`. A task without an annotation stays held.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.core.errors import UserError
from ftlib.core.storage import read_bytes
from ftlib.data import schema as s
from ftlib.data.dedup import REVIEW
from ftlib.data.filter import FILTER
from ftlib.data.records import is_bad_answer_alone, turns
from ftlib.data.row_keys import contains, row_keys
from ftlib.text.keyed import UInt64s

ACCEPT, EDIT, REJECT = "accept", "edit", "reject"
REJECTED = "rejected"
REVIEWED = [s.ID, s.SOURCE, s.POSITION, s.REASON, s.LABEL, s.MESSAGES, s.TEXT, s.REJECTED, s.METADATA, s.TOOLS]
_SHOWN = 10


@dataclass(frozen=True)
class Decision:
    """What a person decided about one row. Edits that are None change nothing."""

    verdict: str
    answer: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Answer:
    """A decision as it came back, for the row that `place` (source, position) or else `id` names."""

    id: str
    place: tuple[str, int] | None
    decision: Decision


class _MalformedError(Exception):
    pass


def as_task(record: Mapping[str, Any]) -> dict[str, Any]:
    """The Label Studio task of a record that is held; `record` has the columns `REVIEWED`."""
    data = {name: record[name] for name in REVIEWED if record[name] is not None}
    data[s.METADATA] = json.loads(data.get(s.METADATA) or "{}")
    data[s.MESSAGES] = turns(record) or [{"role": "text", "content": record[s.TEXT]}]
    shown = {"answer": _answer_in(data), "label": record[s.LABEL]}
    result = [
        {"from_name": name, "to_name": "record", "type": "textarea", "value": {"text": [value]}}
        for name, value in shown.items()
        if value
    ]
    return {"data": data, "predictions": [{"model_version": "ftlib", "result": result}]}


def read_decisions(path: str) -> list[Answer]:
    """The answers in a file; raises UserError that names every one that is malformed (by id or number, never text)."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        is_list = text.lstrip()[:1] == "["
        items = json.loads(text) if is_list else [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError:
        raise UserError(f"review.decisions={path}: neither a JSON list nor lines of JSON in UTF-8") from None
    found: dict[Any, Answer] = {}
    problems = []
    for number, item in enumerate(items, start=1):
        try:
            answer = _parse(item)
            if answer is None:
                continue
            name = answer.place or answer.id
            if name in found and found[name] != answer:
                raise _MalformedError("decided twice, differently")
            found[name] = answer
        except _MalformedError as error:
            problems.append(f"{_name(item) or f'number {number}'} ({error})")
    if problems:
        raise UserError(f"review.decisions={path}: {len(problems)} decisions are malformed: {listed(problems)}")
    if not found:
        raise UserError(f"review.decisions={path}: holds no decision")
    return list(found.values())


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _name(item: Any) -> str:
    data = item.get("data", item) if isinstance(item, dict) else {}
    return str(data.get("id", "")) if isinstance(data, dict) else ""


def _parse(item: Any) -> Answer | None:
    """One decision; None for a task that nobody decided."""
    if not isinstance(item, dict):
        raise _MalformedError("not an object")
    data, fields = item, item
    if isinstance(item.get("data"), dict):
        data = item["data"]
        annotations = [each for each in item.get("annotations") or [] if not each.get("was_cancelled")]
        if not annotations:
            return None
        every = [_fields_of(each.get("result") or []) for each in annotations]
        if any(each != every[0] for each in every):
            raise _MalformedError("annotators decided differently")
        fields = every[0]
    place = None
    if isinstance(data.get(s.SOURCE), str) and isinstance(data.get(s.POSITION), int):
        place = (data[s.SOURCE], data[s.POSITION])
    id_ = data.get("id")
    if place is None and (not isinstance(id_, str | int) or id_ == ""):
        raise _MalformedError("no id")
    shown = data if data is not item else {}
    return Answer(str(id_), place, _decision(fields, shown))


def _fields_of(result: list[dict[str, Any]]) -> dict[str, Any]:
    """`decision`, `answer` and `label` of an annotation's regions."""
    fields: dict[str, Any] = {}
    for region in result:
        value = region.get("value") or {}
        name = str(region.get("from_name"))
        content = value.get("choices") or value.get("text")
        if "choices" in value and name != "label":
            name = "decision"
        if content:
            fields[name] = content
    return fields


def _decision(fields: Mapping[str, Any], shown: Mapping[str, Any]) -> Decision:
    """A decision from its fields. `shown`: the record as the person saw it; what was left as it was is no edit."""
    verdict = str(_one(fields.get("decision")) or "").strip().lower()
    if verdict not in (ACCEPT, EDIT, REJECT):
        raise _MalformedError(f"decision must be {ACCEPT}, {EDIT} or {REJECT}")
    if verdict != EDIT:
        return Decision(verdict)
    answers = {text for name in ("answer", "text") if (text := _one(fields.get(name))) is not None}
    label = _one(fields.get("label"))
    if len(answers) > 1:
        raise _MalformedError("answer and text differ")
    answer = next(iter(answers), None)
    if answer is None and label is None:
        raise _MalformedError("an edit needs an answer, a text or a label")
    if answer is not None and not answer.strip():
        raise _MalformedError("the edited answer is empty")
    return Decision(
        EDIT,
        None if answer == _answer_in(shown) else answer,
        None if label == shown.get(s.LABEL) else label,
    )


def _one(value: Any) -> str | None:
    """A text, or the only one of a list; raises for several or for anything else."""
    if isinstance(value, list):
        if len(value) > 1:
            raise _MalformedError("several values for one field")
        value = value[0] if value else None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _MalformedError("a field is not text")


def _answer_in(data: Mapping[str, Any]) -> str | None:
    """What an edit replaces: the last words of the assistant, an undesirable answer alone, or the text."""
    turn = _answer_turn(data)
    if turn is not None:
        words: str | None = turn.get(s.CONTENT)
        return words
    return data.get(s.REJECTED) if is_bad_answer_alone(data) else data.get(s.TEXT)


def _answer_turn(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The last turn of the assistant that says something, else the last that calls a tool; None without any."""
    if is_bad_answer_alone(record):
        return None
    answers = [turn for turn in record.get(s.MESSAGES) or () if turn["role"] == "assistant"]
    return next((turn for turn in reversed(answers) if turn.get(s.CONTENT)), answers[-1] if answers else None)


@dataclass(frozen=True)
class Held:
    """The rows that answers may be about, by row key."""

    rows: UInt64s
    ids: Sequence[str]
    """As stored."""
    groups: UInt64s
    """The first row of each one's conflict."""


def resolve(answers: Sequence[Answer], held: Held, ranks: Mapping[str, int]) -> dict[int, Decision]:
    """Decisions by row key. `ranks`: number of each source.

    Raises UserError with the ids of answers that name no held row, or more than one.
    """
    rows = held.rows.tolist()
    by_id: dict[str, list[int]] = {}
    for row, id_ in zip(rows, held.ids, strict=True):
        by_id.setdefault(id_, []).append(row)
    known = set(rows)
    found: dict[int, Decision] = {}
    unknown: list[str] = []
    several: list[str] = []
    for answer in answers:
        matches = by_id.get(answer.id, [])
        if answer.place is not None:
            matches = [row for row in [row_key_of(answer.place, ranks)] if row in known]
        if len(matches) != 1:
            (several if matches else unknown).append(answer.id)
        elif found.setdefault(matches[0], answer.decision) != answer.decision:
            raise UserError(f"review.decisions: {answer.id} is decided twice, differently")
    if unknown:
        raise UserError(
            f"review.decisions: {len(unknown)} ids are not among the rows held for review: {listed(sorted(unknown))}; "
            "take them from review.jsonl of the same inputs and configuration"
        )
    if several:
        raise UserError(
            f"review.decisions: {len(several)} ids belong to several held rows: {listed(sorted(several))}; "
            "give source and position as well, as in review.jsonl"
        )
    return found


def row_key_of(place: tuple[str, int], ranks: Mapping[str, int]) -> int | None:
    """The row key of a source and position; None for a source that is not read."""
    rank = ranks.get(place[0])
    return None if rank is None else (rank << s.ROW_POSITION_BITS) | place[1]


def _decided_rows(table: pa.Table, decisions: Mapping[int, Decision]) -> list[tuple[int, Decision]]:
    """Index and decision of the rows of a table that were decided."""
    rows = row_keys(table)
    keys = np.fromiter(decisions, dtype=np.uint64, count=len(decisions))
    return [(int(i), decisions[int(rows[i])]) for i in np.flatnonzero(contains(np.sort(keys), rows))]


def apply_edits(table: pa.Table, decisions: Mapping[int, Decision]) -> pa.Table:
    """Put edited answers and labels into a `schema.READ` table, before it is redacted."""
    edits = [(i, decision) for i, decision in _decided_rows(table, decisions) if decision.verdict == EDIT]
    if not edits:
        return table
    columns = {name: table[name].to_pylist() for name in (s.MESSAGES, s.TEXT, s.REJECTED, s.LABEL)}
    for i, edit in edits:
        if edit.label is not None:
            columns[s.LABEL][i] = edit.label
        if edit.answer is None:
            continue
        record = {name: values[i] for name, values in columns.items()}
        turn = _answer_turn(record)
        if turn is not None:
            turn[s.CONTENT] = edit.answer
        else:
            columns[s.REJECTED if is_bad_answer_alone(record) else s.TEXT][i] = edit.answer
    return _with_columns(table, columns)


def apply_decisions(table: pa.Table, decisions: Mapping[int, Decision]) -> pa.Table:
    """Let a person's word stand over hold and filters in a `schema.PROCESSED` table; redaction's stands over theirs."""
    decided = _decided_rows(table, decisions)
    if not decided:
        return table
    columns = {name: table[name].to_pylist() for name in (s.STAGE, s.REASON)}
    for i, decision in decided:
        if decision.verdict == REJECT:
            columns[s.STAGE][i], columns[s.REASON][i] = REVIEW, REJECTED
        elif columns[s.STAGE][i] in (REVIEW, FILTER):
            columns[s.STAGE][i] = columns[s.REASON][i] = None
    return _with_columns(table, columns)


def _with_columns(table: pa.Table, columns: Mapping[str, list[Any]]) -> pa.Table:
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(index, name, pa.array(values, table.schema.field(name).type))
    return table
