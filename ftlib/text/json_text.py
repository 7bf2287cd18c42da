"""JSON inside a text: where it stands, and the place of every value and key in it, so that one can be replaced alone.

In: a text. Out: the parts of it that are JSON objects or arrays (the whole text, a fenced block, a line of a log, an
argument between tags), and for each its `Leaf`s with their place in the text. Replacing a leaf's literal by another
literal leaves valid JSON and every other character as it was: blanks, escapes, digits of numbers, repeated keys.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Path = tuple[str | int, ...]
_BEGIN = re.compile(r'\{\s*["}]|\[\s*["{\[]')
_TOKEN = re.compile(
    r'(?P<string>"[^"\\]*(?:\\.[^"\\]*)*")|(?P<number>-?(?:\d[\d.eE+-]*|Infinity)|NaN)|(?P<mark>[{}\[\],])', re.DOTALL
)
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)|[^\\]", re.DOTALL
)
_MAX_TRIES = 64
"""Places of a text at which JSON is tried: a text that only looks like JSON costs no more than so many parses."""
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Leaf:
    """A string, a number or a key of JSON in a text."""

    path: Path
    """Keys and positions from the outermost value to this one; a key's own is the last."""
    kind: Literal["string", "number", "key"]
    start: int
    """Place of the literal in the text, quotes included, [start, end)."""
    end: int
    value: str
    """The decoded string; a number as it is written."""

    def places(self, text: str) -> Sequence[int]:
        """Where each character of `value` begins in the text, and the end of the last."""
        first, last = self.start + 1, self.end - 1
        if "\\" not in text[first:last]:
            return range(first, last + 1)
        # A surrogate pair is one character.
        return [*(first + match.start() for match in _ESCAPE.finditer(text[first:last])), last]


def find_json(text: str) -> list[tuple[int, int]]:
    """Places [start, end) of the JSON objects and arrays in a text, those inside others left out."""
    found: list[tuple[int, int]] = []
    position = 0
    for _ in range(_MAX_TRIES):
        match = _BEGIN.search(text, position)
        if match is None:
            break
        try:
            _, end = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            position = match.start() + 1
            continue
        found.append((match.start(), end))
        position = end
    return found


def is_json(text: str) -> bool:
    """Whether a whole text is one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def leaves(text: str, start: int = 0, end: int | None = None) -> Iterator[Leaf]:
    """All strings, numbers and keys of the JSON value at [start, end), in their order. It must be valid."""
    stack: list[list[Any]] = []  # of each open object or array: is it an object, its key or position, is a key next
    for match in _TOKEN.finditer(text, start, len(text) if end is None else end):
        mark = match["mark"]
        if mark in ("{", "["):
            stack.append([mark == "{", None if mark == "{" else 0, mark == "{"])
        elif mark in ("}", "]"):
            stack.pop()
        elif mark == ",":
            if stack[-1][0]:
                stack[-1][2] = True
            else:
                stack[-1][1] += 1
        elif match["number"] is not None:
            yield Leaf(tuple(frame[1] for frame in stack), "number", *match.span(), match[0])
        else:
            value = json.loads(match[0])
            is_key = bool(stack) and stack[-1][2]
            if is_key:
                stack[-1][1:] = [value, False]
            yield Leaf(tuple(frame[1] for frame in stack), "key" if is_key else "string", *match.span(), value)


def pointer(path: Path) -> str:
    """A path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def quoted(value: str) -> str:
    """A string as a JSON literal."""
    return json.dumps(value, ensure_ascii=False)
