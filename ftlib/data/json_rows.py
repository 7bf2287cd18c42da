"""Rows of JSONL files, one object a line, and what tells them from JSON documents (`json_document`).

In: a stream of UTF-8. Out: one `RawRow` a line that is not blank, whose position is the byte where it begins. Memory:
one row and a read buffer, whatever a line's length: one beyond the limit is hashed as it passes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ftlib.data.rawrow import RawRow
from ftlib.data.streams import BROKEN_STREAM
from ftlib.text.keyed import KeyedHash

BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 1 << 20
_BLANKS = b" \t\r\n"
_HEAD_LINES = 20


@dataclass(frozen=True)
class _Line:
    position: int
    content: bytes
    digest: bytes | None = None
    broken: bool = False


def jsonl_rows(file: BinaryIO, start: int, stop: int, max_bytes: int, hasher: KeyedHash) -> Iterator[RawRow]:
    """Rows of the lines that begin from `start` on and before `stop` (-1: to the end)."""
    position = start
    if position > 0:
        # The line that the byte before belongs to is the previous task's.
        file.seek(position - 1)
        position -= 1
        part = b" "
        while part and not part.endswith(b"\n"):
            part = file.readline(_SKIP_BYTES)
            position += len(part)
    for line in _lines(file, position, stop, max_bytes, hasher):
        content = line.content.removeprefix(BOM) if line.position == 0 else line.content
        if line.broken:
            yield RawRow(line.position, content, error="truncated_file", digest=line.digest)
        elif line.digest is not None:
            yield RawRow(line.position, content, error="too_long", digest=line.digest)
        elif content.strip():
            yield parse_row(line.position, content)


def _lines(file: Any, position: int, stop: int, max_bytes: int, hasher: KeyedHash) -> Iterator[_Line]:
    """Lines that begin before `stop`; of one longer than `max_bytes` the beginning and the hash of the whole."""
    while stop < 0 or position < stop:
        begin, line, digest = position, b"", None
        try:
            line = file.readline(max_bytes + 1)
            position += len(line)
            if len(line) > max_bytes and not line.endswith(b"\n"):
                stream = hasher.stream()
                stream.update(line)
                part = line
                while part and not part.endswith(b"\n"):
                    part = file.readline(_SKIP_BYTES)
                    position += len(part)
                    stream.update(part)
                digest = stream.digest()
            elif line.isspace():
                position += _skip_blank_lines(file)
                continue
        except BROKEN_STREAM:
            yield _Line(begin, line, digest, broken=True)
            return
        if not line:
            return
        yield _Line(begin, line, digest)


def _skip_blank_lines(file: Any) -> int:
    """Pass over the blank lines in the buffer: millions of them are read in no time."""
    size = 0
    while ahead := file.peek(1):
        run = len(ahead) - len(ahead.lstrip(_BLANKS))
        whole = ahead.rfind(b"\n", 0, run) + 1
        if not whole:
            break
        size += len(file.read(whole))
    return size


def parse_row(position: int, content: bytes) -> RawRow:
    """The row of one JSON text."""
    try:
        values = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        return RawRow(position, content, error="bad_utf8")
    except RecursionError:
        return RawRow(position, content, error="nested_too_deep")
    except ValueError:
        return RawRow(position, content, error="bad_json")
    if not isinstance(values, dict):
        return RawRow(position, content, error="not_an_object")
    return RawRow(position, content, values)


def is_document(head: bytes, *, whole: bool) -> bool:
    """Whether a file that begins with `head` is no JSONL: an array, or objects over several lines each.

    `whole`: that is all of it.
    """
    lines = [line for line in head.removeprefix(BOM).lstrip(_BLANKS).split(b"\n", _HEAD_LINES) if line.strip()]
    if not lines:
        return False
    first = lines[0].strip()
    if first.startswith(b"["):
        # A broken row of JSONL may be an array as well: then an object follows on a line of its own.
        return not (_parses(first) and any(line.lstrip().startswith(b"{") for line in lines[1:]))
    if not first.startswith(b"{") or _parses(first) or len(lines) == 1:
        return False
    try:
        text = head.removeprefix(BOM).decode("utf-8", "replace").lstrip()
        _, end = json.JSONDecoder().raw_decode(text)
    except RecursionError:
        return False
    except ValueError as error:
        # An object that goes on behind the head breaks off at its end, and not before.
        return not whole and isinstance(error, json.JSONDecodeError) and error.pos > len(text) - 3
    return "\n" in text[:end]


def _parses(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True
