"""Records of CSV text, found by Python's CSV parser over the decoded stream.

In: a `Source` of UTF-8 with LF. Out: records with their bytes, and their cells or an error. A quote opens a cell only
at the cell's beginning; LF and CRLF outside of quotes end a record, and nothing else does.

A quote that is never closed costs its own line: when what follows it is no end of a quoted cell, reading goes on at the
next line. A record beyond the limit is hashed as it passes. Memory: about three times the limit.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ftlib.data.csv_source import Source
from ftlib.data.streams import TextForm
from ftlib.text.keyed import KeyedHash

_CR = "\udc0d"
"""Stands for a carriage return inside a line: csv would end the record there. No UTF-8 text has it."""

csv.field_size_limit((1 << 31) - 1)  # input.max_record_bytes is the limit


@dataclass(frozen=True)
class Dialect:
    """How cells are kept apart."""

    delimiter: str = ","
    escape: str | None = None
    """What stands before a quote or delimiter that means itself; None: quotes are doubled."""

    def parse(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Records of an iterator of lines; raises `csv.Error` at one that is malformed."""
        return csv.reader(lines, delimiter=self.delimiter, escapechar=self.escape, strict=True)


EXCEL = Dialect()


@dataclass(frozen=True)
class Record:
    """The bytes of a record, or the first of them, and its cells or its error."""

    content: bytes
    cells: list[str] | None = None
    error: str | None = None
    digest: bytes | None = None
    """Hash of the whole where `content` is not all of it."""


class _TooLongError(Exception):
    """A record has passed the limit inside of quotes."""


class _UnclosedError(Exception):
    """The text ended inside of quotes."""


class Records:
    """The records of a source, in order. `num_columns`: set once the header is known."""

    def __init__(self, source: Source, form: TextForm, dialect: Dialect, max_bytes: int, hasher: KeyedHash) -> None:
        self._source, self._form, self._dialect = source, form, dialect
        self._max_bytes, self._hasher = max_bytes, hasher
        self.num_columns: int | None = None

    def __iter__(self) -> Iterator[Record]:
        source = self._source
        while True:
            source.skip_empty_lines()
            line = source.line(self._max_bytes + 1)
            if not line:
                break
            if source.broken and not line.endswith(b"\n"):
                yield Record(self._original(line), error="truncated_file")
                return
            yield self._record(line)
        if source.broken:
            yield Record(b"", error="truncated_file")

    def _record(self, first: bytes) -> Record:
        if self._is_long(first):
            return self._pass_over(first, first)
        taken = [first]
        try:
            cells = next(self._dialect.parse(self._lines(taken)), [])
        except _TooLongError:
            return self._pass_over(first, b"".join(taken))
        except (csv.Error, _UnclosedError) as error:
            if len(taken) == 1 and isinstance(error, csv.Error):
                return Record(self._original(first), error="bad_csv")
            return self._go_on_behind(first, taken)
        if len(taken) > 1 and self._holds_other_rows(taken, cells):
            return self._go_on_behind(first, taken)
        return self._checked(b"".join(taken), cells)

    def _is_long(self, line: bytes) -> bool:
        return len(line) - line.endswith(b"\n") > self._max_bytes

    def _checked(self, content: bytes, cells: list[str]) -> Record:
        if not content.isascii() and not _is_utf8(content):
            return Record(self._original(content), error="bad_utf8")
        return Record(self._original(content), [self._cell(cell) for cell in cells])

    def _lines(self, taken: list[bytes]) -> Iterator[str]:
        """The first line, then, as long as the parser asks, what comes up to the end of a line with a quote."""
        yield self._text(taken[0])
        size = len(taken[0])
        while True:
            piece = self._piece(taken[-1], self._max_bytes + 1 - size)
            if not piece:
                raise _UnclosedError
            taken.append(piece)
            size += len(piece)
            if size > self._max_bytes:
                raise _TooLongError
            yield self._text(piece)

    def _piece(self, before: bytes, limit: int) -> bytes:
        parts = []
        if not before.endswith(b"\\\n"):
            # Inside of quotes: whole blocks without one are passed on as they are.
            while limit > 0 and (block := self._source.block(before=b'"')):
                parts.append(block)
                limit -= len(block)
        parts.append(self._source.line(limit) if limit > 0 else b"")
        return b"".join(parts)

    def _text(self, line: bytes) -> str:
        text = line.decode("utf-8", "surrogateescape")
        if "\r" not in text:
            return text
        end = "\r\n" if text.endswith("\r\n") else "\n" if text.endswith("\n") else ""
        return text.removesuffix(end).replace("\r", _CR) + end

    def _cell(self, cell: str) -> str:
        cell = cell.replace(_CR, "\r") if _CR in cell else cell
        return cell.translate(_SWAP) if self._form.cr_only else cell

    def _original(self, content: bytes) -> bytes:
        return self._form.original_ends(content)

    def _go_on_behind(self, first: bytes, taken: list[bytes]) -> Record:
        """The first line alone, with an open quote; the others are read again."""
        self._source.unread(b"".join(taken[1:]))
        return Record(self._original(first), error="unclosed_quote")

    def _holds_other_rows(self, taken: list[bytes], cells: list[str]) -> bool:
        """Whether lines that a quote joined to the first are rows by themselves: then the quote was no beginning."""
        if self.num_columns is None or len(cells) == self.num_columns:
            return False
        lines = [line + b"\n" for line in b"".join(taken[1:]).split(b"\n") if line.strip()]
        return bool(lines) and all(self._num_cells(line) == self.num_columns for line in lines)

    def _num_cells(self, line: bytes) -> int:
        try:
            return len(next(self._dialect.parse(iter([self._text(line)])), []))
        except csv.Error:
            return 0

    def _pass_over(self, first: bytes, content: bytes) -> Record:
        """Hash the rest of a record that is too long; where a quote in it is never closed, its first line alone."""
        source, scanner, stream = self._source, _Scanner(self._dialect), self._hasher.stream()
        begin = source.position - len(content)
        behind_first = begin + len(first) if first.endswith(b"\n") else -1
        digest_of_first = self._hasher.digest(self._original(first)) if self._is_long(first) else None
        kept, block = content[: self._max_bytes], content
        try:
            while block:
                if behind_first < 0 and (line_end := block.find(b"\n") + 1):
                    behind_first = source.position - len(block) + line_end
                    whole = stream.copy()
                    whole.update(self._original(block[:line_end]))
                    digest_of_first = whole.digest()
                end = scanner.feed(block)
                if end is not None:
                    stream.update(self._original(block[:end]))
                    source.unread(block[end:])
                    return Record(self._original(kept), error="too_long", digest=stream.digest())
                stream.update(self._original(block))
                block = source.block()
            failed = scanner.in_quotes
        except csv.Error:
            stream.update(self._original(block))
            failed = True
        if not failed or behind_first < 0 or not source.return_to(behind_first):
            error = "unclosed_quote" if failed and behind_first >= 0 else "too_long"
            return Record(self._original(kept), error=error, digest=stream.digest())
        if digest_of_first is not None:
            return Record(self._original(kept), error="too_long", digest=digest_of_first)
        return Record(self._original(first), error="unclosed_quote")


_SWAP = {ord("\r"): "\n", ord("\n"): "\r"}
_START, _PLAIN, _QUOTED, _ESCAPED, _QUOTE_SEEN = range(5)


class _Scanner:
    """Finds the end of one record block by block, keeping nothing of it."""

    def __init__(self, dialect: Dialect) -> None:
        mark, escape = re.escape(dialect.delimiter.encode()), re.escape((dialect.escape or "").encode())
        self._delimiter, self._escape = dialect.delimiter.encode(), (dialect.escape or "").encode()
        inside = rb'(?:[^"]++|"")*+' if not escape else rb'(?:[^"' + escape + rb']++|""|' + escape + rb".)*+"
        self._inside = re.compile(inside, re.DOTALL)
        self._cells = re.compile(rb'(?:"%b"%b|[^"\n%b][^\n%b]*+%b|%b)*+' % (inside, *(mark,) * 5), re.DOTALL)
        self._end_of_plain = re.compile(rb"\n|" + mark)
        self._state = _START

    @property
    def in_quotes(self) -> bool:
        """Whether a quote is open."""
        return self._state in (_QUOTED, _ESCAPED)

    def feed(self, block: bytes) -> int | None:
        """The place behind the record's end, or None where it goes on; raises `csv.Error` where it is malformed."""
        at = 0
        while at < len(block):
            if self._state == _START:
                match = self._cells.match(block, at)
                at = match.end() if match else at
                if at < len(block):
                    self._state = _QUOTED if block[at : at + 1] == b'"' else _PLAIN
                    at += self._state == _QUOTED
            elif self._state == _ESCAPED:
                self._state, at = _QUOTED, at + 1
            elif self._state == _QUOTE_SEEN:
                after = block[at : at + 1]
                at += 1
                if after == b"\n":
                    return at
                if after != b"\r":
                    self._state = self._behind_quote(after)
            elif self._state == _QUOTED:
                inside = self._inside.match(block, at)
                at = inside.end() if inside else at
                if at < len(block):
                    self._state = _QUOTE_SEEN if block[at : at + 1] == b'"' else _ESCAPED
                    at += 1
            else:
                found = self._end_of_plain.search(block, at)
                if not found:
                    return None
                at = found.end()
                if found[0] == b"\n":
                    return at
                self._state = _START
        return None

    def _behind_quote(self, after: bytes) -> int:
        if after == b'"':
            return _QUOTED
        if after == self._delimiter:
            return _START
        raise csv.Error("a quote inside of a quoted cell")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
