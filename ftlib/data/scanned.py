"""Every place of a record where a person may stand, and the record with what was found there replaced.

In: a record of `schema.READ`. Out: `Field`s, each with the strings to look at and, once their findings are there, the
replacements. Text that holds JSON, metadata, tool arguments and tool definitions are taken apart: each value is looked
at together with its key (`pin: 4711`), each key on its own, and only literals are replaced, so that the JSON stays
valid. In a text, offsets are characters of the text; in `metadata`, `tools` and arguments that are JSON, a JSON pointer
follows the field's name and offsets are characters of the value that it points to (`#` after the pointer: of the key).
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftlib.data import schema as s
from ftlib.text.json_text import Leaf, Path, find_json, is_json, leaves, pointer, quoted
from ftlib.text.pii.finding import Finding, merge_findings
from ftlib.text.pii.keys import NAMES_A_VALUE, cue_of, entity_of, tells

_LONG_NUMBER_DIGITS, _CUED_NUMBER_DIGITS = 7, 4
_HEAD_CHARS = 120
"""A key tells about the beginning of a long value; all of a short one."""
_KEY_SCORE = 0.9
_NAMES, _SMALL_CHARS, _SURE = frozenset({"PERSON", "LOCATION", "ORGANIZATION"}), 12, 0.8
_MAX_DEPTH = 3
"""JSON in a value of JSON in a value …: deeper is a text as a whole."""
Accepts = Callable[[str, Finding], bool]
StoredName = Callable[[str, str, str], str | None]
"""(kind of name, words that stand for it above, name) → what is stored instead; None where it is nobody's."""


@dataclass
class Part:
    """A whole text, or one value of JSON in it, with what was found in it."""

    text: str
    leaf: Leaf | None = None
    cue: str = ""
    findings: list[Finding] = field(default_factory=list)
    inner: "Field | None" = None
    """Where the value is a text that holds JSON itself, as the results of tools do: what is in it."""

    @property
    def is_number(self) -> bool:
        """Whether it is a number, which no model of names has to read."""
        return self.leaf is not None and self.leaf.kind == "number"

    def strings(self) -> list[str]:
        """What to look at: the value behind its key, and a long one on its own as well."""
        leaf = self.leaf
        if leaf is None:
            return [self.text]
        if leaf.kind == "number":
            digits, whole = sum(map(str.isdigit, self.text)), self.text.lstrip("-").isdigit()
            wanted = whole and digits >= (_CUED_NUMBER_DIGITS if self._told else _LONG_NUMBER_DIGITS)
            wanted = wanted or self.cue.lower().endswith("age")
            long_float = digits >= _LONG_NUMBER_DIGITS and abs(float(self.text)) >= 10 ** (_LONG_NUMBER_DIGITS - 1)
            return [self._cued()] if wanted else [self.text] if long_float else []
        if not self.text.strip():
            return []
        if self._told and len(self.text) > _HEAD_CHARS:
            return [self._cued(), self.text]
        return [self._cued()]

    def _cued(self) -> str:
        return f"{self.cue}: {self.text[:_HEAD_CHARS]}" if self._told else self.text

    @property
    def _told(self) -> bool:
        """Whether the key says something of the value."""
        return bool(self.cue) and tells(self.cue, self.text)

    def take(self, found: Sequence[Sequence[Finding]], accepts: Accepts) -> None:
        """Keep of the findings in `strings()` what lies in the value."""
        gathered: list[Finding] = []
        for string, findings in zip(self.strings(), found, strict=True):
            shift = len(self.cue) + 2 if string != self.text else 0
            small = shift > 0 and len(self.text) < _SMALL_CHARS and self.text == self.text.lower() != self.text.upper()
            for item in findings:
                # A model takes a small word behind a key (`status: shipped`) for a name.
                if item.end > shift and not (small and item.entity in _NAMES and item.score < _SURE):
                    start, end = max(0, item.start - shift), min(item.end - shift, len(self.text))
                    gathered.append(Finding(start, end, item.entity, item.score))
        if self.leaf is not None and (entity := entity_of(self.cue, self.text)):
            start = len(self.text) - len(self.text.lstrip())
            whole = Finding(start, start + len(self.text.strip()), entity, _KEY_SCORE)
            gathered += [whole] if accepts(self.text, whole) else []
        if self.leaf is not None and self.leaf.kind == "number" and gathered:
            best = merge_findings([Finding(0, len(self.text), item.entity, item.score) for item in gathered])
            gathered = list(best)
        self.findings = merge_findings([*self.findings, *gathered])


class Field:
    """One field of a record: `holder[key]` is a text, or JSON as a text."""

    def __init__(
        self, name: str, holder: dict[str, Any], key: str, *, structured: bool, cued: bool = True, depth: int = 0
    ) -> None:
        """`structured`: JSON as a whole, whose values are named by pointers. `cued`: keys tell about values."""
        self.name, self._holder, self._key = name, holder, key
        self.text: str = holder[key]
        self._new = self.text
        self._structured = structured and is_json(self.text)
        self.parts: list[Part] = [] if self._structured else [Part(self.text)]
        self._keys: list[Leaf] = []
        regions = [(0, len(self.text))] if self._structured else find_json(self.text)
        self._regions = [] if self._structured else regions
        for start, end in regions:
            found = list(leaves(self.text, start, end))
            beside = _names_beside(found) if cued else {}
            for leaf in found:
                if leaf.kind == "key":
                    self._keys.append(leaf)
                else:
                    part = Part(leaf.value, leaf, cue_of(leaf.path, beside.get(leaf.path[:-1], "")) if cued else "")
                    if leaf.kind == "string" and depth < _MAX_DEPTH and find_json(leaf.value):
                        part.inner = Field("", {key: leaf.value}, key, structured=False, cued=cued, depth=depth + 1)
                    self.parts.append(part)

    def all_parts(self) -> Iterator[Part]:
        """The parts that are looked at: of a value that holds JSON, those in it."""
        for part in self.parts:
            if part.inner is None:
                yield part
            else:
                yield from part.inner.all_parts()

    def shown(self) -> Iterator[tuple[str, str, str]]:
        """(field, words of its key, text) of a whole text, or of each value and key of structured JSON."""
        if not self._structured:
            yield self.name, "", self.text
            return
        for part in self.parts:
            yield self.name + pointer(part.leaf.path if part.leaf else ()), part.cue, part.text
        for leaf in self._keys:
            yield self.name + pointer(leaf.path) + "#", "", leaf.value

    def settle(self) -> None:
        """Give what was found in the whole text to the values of JSON in it: nothing is replaced across literals."""
        for part in self.parts:
            if part.inner is not None:
                part.inner.settle()
        if not self._regions:
            return
        whole, inside = self.parts[0], self.parts[1:]
        starts = [item.start for item in whole.findings]
        for part in inside:
            leaf = part.leaf
            if leaf is None or leaf.kind != "string" or part.inner is not None:
                continue
            # A finding across literals is one of the frame, and each value has been looked at alone.
            mine = whole.findings[bisect_right(starts, leaf.start) : bisect_left(starts, leaf.end)]
            values = [item for item in mine if item.end < leaf.end]
            if values:
                places = leaf.places(self.text)
                part.findings = merge_findings([*part.findings, *(_in_value(places, item) for item in values)])
        outside: list[Finding] = []
        for item in whole.findings:
            position = item.start
            for start, end in self._regions:
                if start < item.end and position < end:
                    outside += [Finding(position, start, item.entity, item.score)] if position < start else []
                    position = max(position, end)
            outside += [Finding(position, item.end, item.entity, item.score)] if position < item.end else []
        whole.findings = outside

    def change(self, replacements: Iterator[Sequence[str]], stored: StoredName) -> list[dict[str, Any]]:
        """Make the text without the findings of each part and keys that name someone; rows of `FINDING_TYPE`."""
        edits: list[tuple[int, int, str]] = []
        rows: list[dict[str, Any]] = []
        names = self._stored_keys(stored)
        for part in self.parts:
            leaf = part.leaf
            if part.inner is not None and leaf is not None:
                if inside := part.inner.change(replacements, stored):
                    edits.append((leaf.start, leaf.end, quoted(part.inner._new)))
                    rows += self._as_own(leaf, inside, names)
                continue
            places = leaf.places(self.text) if leaf is not None and part.findings else ()
            for item, replacement in zip(part.findings, next(replacements), strict=True):
                literal = replacement
                start, end = item.start, item.end
                if leaf is not None and leaf.kind == "string":
                    literal = quoted(replacement)[1:-1]
                    start, end = places[start], places[end]
                elif leaf is not None:
                    literal, start, end = quoted(replacement), leaf.start, leaf.end
                edits.append((start, end, literal))
                if leaf is not None and self._structured:
                    rows.append(_row(self.name + pointer(_renamed(leaf.path, names)), item, replacement))
                else:
                    rows.append(_row(self.name, Finding(start, end, item.entity, item.score), literal))
        for leaf in self._keys:
            if (new_name := names.get(leaf.path)) is not None:
                edits.append((leaf.start, leaf.end, quoted(new_name)))
                place = (0, len(leaf.value)) if self._structured else (leaf.start, leaf.end)
                where = self.name + pointer(_renamed(leaf.path, names)) + "#" if self._structured else self.name
                shown = new_name if self._structured else quoted(new_name)
                rows.append(_row(where, Finding(*place, KEY_ENTITY, _KEY_SCORE), shown))
        self._new = _edited(self.text, edits) if edits else self.text
        return rows

    def _as_own(self, leaf: Leaf, rows: list[dict[str, Any]], names: dict[Path, str]) -> list[dict[str, Any]]:
        """Rows of JSON inside a value, as rows of this field."""
        if self._structured:
            where = self.name + pointer(_renamed(leaf.path, names))
            return [{**row, "field": where} for row in rows]
        places = leaf.places(self.text)
        return [
            {
                **row,
                "field": self.name,
                "start": places[row["start"]],
                "end": places[row["end"]],
                "replacement": quoted(row["replacement"])[1:-1],
            }
            for row in rows
        ]

    def apply(self) -> None:
        """Put the changed text into the record."""
        self._holder[self._key] = self._new

    def _stored_keys(self, stored: StoredName) -> dict[Path, str]:
        """Path of each key that names someone → what is stored for it."""
        found = ((leaf.path, stored("key", "", leaf.value)) for leaf in self._keys)
        return {path: name for path, name in found if name is not None}


FILE_ENDING = re.compile(r"(?:\.(?:jsonl|json|ndjson|csv|tsv|parquet|pq))?(?:\.(?:gz|zst))?$", re.IGNORECASE)
KEY_ENTITY = "ID_NUMBER"
"""Entity of a key, label or name that is replaced by a keyed hash: it identifies someone."""


class Name:
    """A field that is a name of something and is kept or replaced as a whole: a label, a function, a tool call's id."""

    def __init__(self, kind: str, name: str, holder: dict[str, Any], key: str, cue: str = "") -> None:
        self.kind, self.name, self._holder, self._key, self.cue = kind, name, holder, key, cue
        self.text: str = holder[key]
        self._new = self.text

    def apply(self) -> None:
        """Put what is stored into the record."""
        self._holder[self._key] = self._new

    def change(self, stored: StoredName) -> list[dict[str, Any]]:
        """Decide what is stored; rows of `schema.FINDING_TYPE`."""
        new = stored(self.kind, self.cue, self.text)
        if new is None:
            return []
        self._new = new
        return [_row(self.name, Finding(0, len(self.text), KEY_ENTITY, _KEY_SCORE), new)]


def fields_of(record: dict[str, Any]) -> tuple[list[Field], list[Name]]:
    """All that is looked at in a record; what is changed is changed in it."""
    fields: list[Field] = []
    names: list[Name] = []
    for i, message in enumerate(record[s.MESSAGES] or ()):
        _add_message(f"{s.MESSAGES}[{i}]", message, fields, names)
    for name in (s.TEXT, s.REJECTED):
        if record[name] is not None:
            fields.append(Field(name, record, name, structured=False))
    if record[s.METADATA] is not None:
        fields.append(Field(s.METADATA, record, s.METADATA, structured=True))
    if record.get(s.TOOLS) is not None:
        # Keys of definitions are names of parameters: they tell nothing about the words beside them.
        fields.append(Field(s.TOOLS, record, s.TOOLS, structured=True, cued=False))
    if record[s.LABEL] is not None:
        names.append(Name("label", s.LABEL, record, s.LABEL))
    return fields, names


def _add_message(where: str, message: dict[str, Any], fields: list[Field], names: list[Name]) -> None:
    for name in (s.REASONING, s.CONTENT):
        if message.get(name) is not None:
            fields.append(Field(f"{where}.{name}", message, name, structured=False))
    if message.get(s.NAME) is not None:
        # Of a tool's turn it is the function's, else the participant's.
        cue = "" if message.get("role") == "tool" else "user name"
        names.append(Name("name", f"{where}.{s.NAME}", message, s.NAME, cue))
    if message.get(s.TOOL_CALL_ID) is not None:
        names.append(Name("call", f"{where}.{s.TOOL_CALL_ID}", message, s.TOOL_CALL_ID))
    for j, call in enumerate(message.get(s.TOOL_CALLS) or ()):
        place, function = f"{where}.{s.TOOL_CALLS}[{j}]", call.get("function") or {}
        if call.get("id") is not None:
            names.append(Name("call", f"{place}.id", call, "id"))
        if function.get("name") is not None:
            names.append(Name("name", f"{place}.function.name", function, "name"))
        if function.get("arguments") is not None:
            fields.append(Field(f"{place}.function.arguments", function, "arguments", structured=True))


def shown_strings(record: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, words of its key, text) of everything that a record shows, its source among it: for a second look."""
    fields, names = fields_of(record)
    for item in fields:
        yield from item.shown()
    for name in names:
        yield name.name, name.cue, name.text
    yield s.SOURCE, "", FILE_ENDING.sub("", record[s.SOURCE] or "").replace("_", " ")


def _names_beside(found: Sequence[Leaf]) -> dict[Path, str]:
    """Path of each object → what it says its `value` is: of `{"key": "pin", "value": 4711}` it is `pin`."""
    ranks = {name: rank for rank, name in enumerate(NAMES_A_VALUE)}
    named: dict[Path, tuple[int, str]] = {}
    for leaf in found:
        last = leaf.path[-1] if leaf.path else 0
        if leaf.kind == "string" and isinstance(last, str) and last.lower() in ranks:
            candidate = (ranks[last.lower()], leaf.value[:_HEAD_CHARS])
            named[leaf.path[:-1]] = min(candidate, named.get(leaf.path[:-1], candidate))
    return {path: value for path, (_, value) in named.items()}


def _in_value(places: Sequence[int], item: Finding) -> Finding:
    """A finding in a text as one in a string literal's value. `places`: of the value's characters in the text."""
    start = bisect_right(places, item.start) - 1
    return Finding(start, max(start + 1, bisect_left(places, item.end)), item.entity, item.score)


def _renamed(path: Path, names: dict[Path, str]) -> Path:
    return tuple(names.get(path[: i + 1], part) if isinstance(part, str) else part for i, part in enumerate(path))


def _edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    parts, position = [], 0
    for start, end, new in sorted(edits):
        parts += [text[position:start], new]
        position = end
    return "".join([*parts, text[position:]])


def _row(name: str, item: Finding, replacement: str) -> dict[str, Any]:
    return {
        "field": name,
        "start": item.start,
        "end": item.end,
        "entity": item.entity,
        "score": item.score,
        "replacement": replacement,
    }
