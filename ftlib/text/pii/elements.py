"""Values under a name that stands elsewhere than before them: elements of XML and cells of tables in Markdown.

`<password>kitten9</password>` and a cell below `| password |` say what they are as `{"password": "kitten9"}` does: the
same words of keys tell. What many things have (`name`, `city`, `date`) tells nothing here: tables are full of them.
"""

import re
from collections.abc import Iterator
from typing import Any

from ftlib.text.pii.keys import ENTITIES, cue_of, entity_of, names_someone
from ftlib.text.pii.presidio import LocalRecognizer, RecognizerResult
from ftlib.text.pii.rules import result

_TAG = re.compile(r"<(?P<close>/?)(?P<name>[A-Za-z][\w.:-]{0,40})(?:\s[^<>]{0,200})?>")
_RULE_LINE = re.compile(r"[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|?)+[ \t]*")
_CELL = re.compile(r"[^|]+")
_MAX_DEPTH, _MAX_VALUE_CHARS, _SCORE = 32, 200, 0.85
_NOT_HERE = frozenset({"LOCATION", "ORGANIZATION", "DATE_TIME", "AGE"})


class NamedValueRecognizer(LocalRecognizer):  # type: ignore[misc]
    """Values of elements and cells, by the names of their tags and columns."""

    def __init__(self, language: str = "en") -> None:
        super().__init__(supported_entities=ENTITIES, name="NamedValueRecognizer", supported_language=language)

    def load(self) -> None:
        """Nothing to load."""

    def analyze(self, text: str, entities: list[str], nlp_artifacts: Any = None) -> list[RecognizerResult]:
        """Whole values whose name tells what they are."""
        named = [*_elements(text)] if "</" in text else []
        named += _cells(text) if "|" in text and "--" in text else ()
        found = []
        for cue, start, end in named:
            value = text[start:end]
            entity = entity_of(cue, value)
            if entity is None or entity in _NOT_HERE or (entity == "PERSON" and not names_someone(cue)):
                continue
            first = start + len(value) - len(value.lstrip())
            found.append(result(self, entity, first, first + len(value.strip()), _SCORE))
        return found


def _elements(text: str) -> Iterator[tuple[str, int, int]]:
    """(words of the tag and the one around it, start, end) of elements that hold text alone."""
    stack: list[str] = []
    opened = -1
    for tag in _TAG.finditer(text):
        name = tag["name"]
        if not tag["close"]:
            stack = [*stack[-_MAX_DEPTH:], name]
            opened = tag.end()
            continue
        if name not in stack:
            continue
        if stack[-1] == name and opened >= 0 and tag.start() - opened <= _MAX_VALUE_CHARS:
            yield cue_of(stack), opened, tag.start()
        while stack.pop() != name:
            pass
        opened = -1


def _cells(text: str) -> Iterator[tuple[str, int, int]]:
    """(words of the column, start, end) of the cells of tables."""
    lines: list[tuple[int, str]] = []
    position = 0
    for line in text.split("\n"):
        lines.append((position, line))
        position += len(line) + 1
    header: list[str] | None = None
    for number, (start, line) in enumerate(lines):
        if "|" not in line:
            header = None
        elif _RULE_LINE.fullmatch(line) and number:
            header = [cell[0].strip() for cell in _CELL.finditer(lines[number - 1][1].strip(" \t|"))]
        elif header is not None:
            offset = start + len(line) - len(line.lstrip(" \t").removeprefix("|"))
            cells = text[offset : start + len(line)].rstrip(" \t").removesuffix("|").split("|")
            for name, cell in zip(header, cells, strict=False):
                yield cue_of([name]), offset, offset + len(cell)
                offset += len(cell) + 1
