"""Rows of a JSON document: the elements of its arrays and the objects beside them, laid out in any way, as a stream.

In: a stream of UTF-8. Out: one `RawRow` a record, whose position is the byte where it begins. A broken element costs
itself: a string that a line's end cuts off ends it, and so does a line that begins as the first record's line does.
Where the document breaks off, the last row says so. Memory: one row and a block, whatever an element's length: one
beyond the limit is hashed as it passes.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from ftlib.data.json_rows import BOM, parse_row
from ftlib.data.rawrow import RawRow
from ftlib.data.streams import BROKEN_STREAM
from ftlib.text.keyed import KeyedHash

_BLOCK_BYTES = 1 << 18
_MAX_INDENTATION = 1 << 12
_INSIDE = rb'(?:[^"\\\n]++|\\[^\n])*+'
_STRING_REST = re.compile(_INSIDE)
_PLAIN = rb'(?:[^"{}\[\]\n]++|"%b"|\n[ \t\r]*+(?=[^{ \t\r]))*+' % _INSIDE
_TOKEN = re.compile(_PLAIN + rb'(?:(")|([{\[]++)|([}\]]++)|(\n[ \t\r]*+))')
"""An unfinished string, brackets, or the beginning of a line with a brace, behind whatever is none of these."""
_CUT_STRING, _OPEN, _CLOSE, _LINE = range(1, 5)
_BETWEEN = re.compile(rb"[\s,]*+")
_SCALAR = re.compile(rb'[^\s,\[\]{}"]++')


def document_rows(file: BinaryIO, max_bytes: int, hasher: KeyedHash) -> Iterator[RawRow]:
    """All records of a document, in order."""
    document = _Document(file, max_bytes, hasher)
    while (row := document.next_row()) is not None:
        yield row


class _Element:
    """The bytes of one record, or the first of them and a hash of all."""

    def __init__(self, max_bytes: int, hasher: KeyedHash) -> None:
        self._max_bytes, self._hasher = max_bytes, hasher
        self._parts: list[bytes] = []
        self._size = 0
        self._stream = None if max_bytes else hasher.stream()

    def add(self, part: bytes) -> None:
        """Append some bytes."""
        self._size += len(part)
        if self._stream is not None:
            self._stream.update(part)
            return
        self._parts.append(part)
        if self._size > self._max_bytes:
            self._parts = [b"".join(self._parts)]
            self._stream = self._hasher.stream()
            self._stream.update(self._parts[0])

    def row(self, position: int, error: str | None = None) -> RawRow:
        """The row that the bytes are."""
        content = b"".join(self._parts)
        if self._stream is not None:
            return RawRow(position, content[: self._max_bytes], error=error or "too_long", digest=self._stream.digest())
        return RawRow(position, content, error=error) if error else parse_row(position, content)


class _Document:
    """Cuts a stream into records."""

    def __init__(self, file: BinaryIO, max_bytes: int, hasher: KeyedHash) -> None:
        self._file, self._max_bytes, self._hasher = file, max_bytes, hasher
        self._buffer, self._at, self._begin, self._offset = b"", 0, 0, 0
        self._ended = self._broken = self._in_array = self._told = False
        self._margin: bytes | None = None
        """A line's end and the indentation with which the first record begins; None where it begins inside a line."""
        self._one_line = False
        self._first = True
        self._fill()
        if self._buffer.startswith(BOM):
            self._at = len(BOM)

    @property
    def _position(self) -> int:
        return self._offset + self._at

    def _fill(self, element: _Element | None = None) -> bool:
        """Put another block behind what is left; what was passed belongs to the element."""
        if element is not None:
            self._hand_over(element)
        if self._ended:
            return False
        try:
            block = self._file.read(_BLOCK_BYTES)
        except BROKEN_STREAM:
            block, self._broken = b"", True
        self._ended = not block
        self._offset += self._at
        self._buffer, self._at, self._begin = self._buffer[self._at :] + block, 0, 0
        return bool(block)

    def _hand_over(self, element: _Element) -> None:
        element.add(self._buffer[self._begin : self._at])
        self._begin = self._at

    def next_row(self) -> RawRow | None:
        """The next record; None at the end."""
        while True:
            self._skip_between()
            mark = self._buffer[self._at : self._at + 1]
            if not mark:
                if (self._in_array or self._broken) and not self._told:
                    self._told = True
                    return RawRow(self._position, b"", error="truncated_file")
                return None
            if mark == b"[" and not self._in_array:
                self._in_array = True
            elif mark == b"]" and self._in_array:
                self._in_array = False
            else:
                return self._record()
            self._at += 1

    def _skip_between(self) -> None:
        """Pass over blanks and commas; before the first record, remember how its line begins."""
        margin = b"\n" if self._position in (0, len(BOM)) else b""
        while True:
            match = _BETWEEN.match(self._buffer, self._at)
            end = match.end() if match else self._at
            if self._first:
                run = (margin + self._buffer[self._at : end])[-_MAX_INDENTATION:]
                margin = run[run.rfind(b"\n") :] if b"\n" in run else b""
            self._at = end
            if end < len(self._buffer) or not self._fill():
                break
        if self._first:
            self._margin = margin or None

    def _record(self) -> RawRow:
        position, element = self._position, _Element(self._max_bytes, self._hasher)
        self._begin = self._at
        error = self._scan(element)
        self._hand_over(element)
        self._told = error == "truncated_file"
        row = element.row(position, error)
        self._one_line = self._one_line or (self._first and error is None and b"\n" not in row.content)
        self._first = False
        return row

    def _scan(self, element: _Element) -> str | None:
        """Pass to the end of a record; returns its error where it has one."""
        if self._pass_scalar(element):
            return None
        if self._buffer[self._at : self._at + 1] == b'"':
            self._at += 1
            return self._pass_string(element)
        depth = 0
        while True:
            token = _TOKEN.match(self._buffer, self._at)
            if token is None or self._may_go_on(token):
                # A line's end at the block's end may go on in the next.
                self._at = token.start(_LINE) if token else len(self._buffer)
                if not self._fill(element):
                    self._at = len(self._buffer)
                    return "truncated_file"
                continue
            kind = token.lastindex or 0
            size = token.end() - token.start(kind)
            self._at = token.end()
            if kind == _OPEN:
                depth += size
            elif kind == _CLOSE:
                if size >= depth:
                    self._at = token.start(kind) + (depth or size)
                    return None
                depth -= size
            elif kind == _LINE:
                if self._begins_record(token.group(kind)):
                    self._at = token.start(kind)
                    return "bad_json"
            elif error := self._pass_string(element):
                return error

    def _pass_scalar(self, element: _Element) -> bool:
        """Pass over a number or a word; False where something else comes."""
        found = False
        while scalar := _SCALAR.match(self._buffer, self._at):
            self._at, found = scalar.end(), True
            if self._at < len(self._buffer) or not self._fill(element):
                break
        return found

    def _may_go_on(self, token: "re.Match[bytes]") -> bool:
        """Whether a line's indentation may go on in the next block."""
        if token.lastindex != _LINE or token.end() < len(self._buffer) or self._ended:
            return False
        return token.end() - token.start(_LINE) < _MAX_INDENTATION

    def _begins_record(self, margin: bytes) -> bool:
        """Whether a line inside of a record begins as records do: then the record before it was never closed."""
        if margin != self._margin or self._buffer[self._at : self._at + 1] != b"{":
            return False
        return self._one_line or len(margin) > 1

    def _pass_string(self, element: _Element) -> str | None:
        """Pass over the rest of a string that the block cuts off; an error where a line's end does."""
        while True:
            match = _STRING_REST.match(self._buffer, self._at)
            self._at = match.end() if match else self._at
            after = self._buffer[self._at : self._at + 2]
            if after.startswith(b'"'):
                self._at += 1
                return None
            if after.startswith(b"\n") or after == b"\\\n":
                return self._pass_broken(element)
            if not self._fill(element):
                self._at = len(self._buffer)
                return "truncated_file"

    def _pass_broken(self, element: _Element) -> str:
        """Pass on to the line that begins the next record."""
        mark = self._margin + b"{" if self._margin else b""
        while True:
            found = self._buffer.find(mark, self._at) if mark else -1
            if found >= 0:
                self._at = found
                return "bad_json"
            self._at = max(self._at, len(self._buffer) - len(mark))
            if not self._fill(element):
                self._at = len(self._buffer)
                return "bad_json"
