"""A byte stream that a CSV reader can take lines and blocks from, give bytes back to, and go back in."""

import re
from collections.abc import Callable
from typing import BinaryIO

from ftlib.data.streams import BROKEN_STREAM

_BLOCK_BYTES = 1 << 16
_MAX_RETURNS = 16
"""A compressed stream is read from its beginning to go back: a hostile file is not given more of that."""
_BOM = b"\xef\xbb\xbf"
_EMPTY_LINES = re.compile(rb"[\r\n]*\n")


class Source:
    """The stream. `reopen`: gives it again from a byte on."""

    def __init__(self, reopen: Callable[[int], BinaryIO]) -> None:
        self._reopen, self._file = reopen, reopen(0)
        self._buffer, self._at, self._ended = b"", 0, False
        self._num_returns = 0
        self.position = 0
        """Bytes read and not given back."""
        self.broken = False
        """Whether the stream ended in an error."""
        if self._fill() and self._buffer.startswith(_BOM):
            self._take(len(_BOM))

    def _fill(self) -> bool:
        """Put another block behind what is left; False at the end."""
        if self._ended:
            return False
        try:
            block = self._file.read(_BLOCK_BYTES)
        except BROKEN_STREAM:
            block, self.broken = b"", True
        self._ended = not block
        self._buffer, self._at = self._buffer[self._at :] + block, 0
        return bool(block)

    def _take(self, size: int) -> bytes:
        part = self._buffer[self._at : self._at + size]
        self._at += len(part)
        self.position += len(part)
        return part

    def skip_empty_lines(self) -> None:
        """Pass over empty lines, a block at a time."""
        while True:
            if run := _EMPTY_LINES.match(self._buffer, self._at):
                self._take(run.end() - self._at)
            if self._at < len(self._buffer) or not self._fill():
                return

    def line(self, limit: int) -> bytes:
        """The rest of a line, or at least `limit` bytes of it; nothing at the end."""
        parts: list[bytes] = []
        size = 0
        while size < limit:
            end = self._buffer.find(b"\n", self._at) + 1
            part = self._take((end or len(self._buffer)) - self._at)
            parts.append(part)
            size += len(part)
            if end or not self._fill():
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def block(self, before: bytes | None = None) -> bytes:
        """A block, or what comes in it before a mark: nothing where the mark comes first, or at the end."""
        if self._at == len(self._buffer) and not self._fill():
            return b""
        end = self._buffer.find(before, self._at) if before else -1
        return self._take((end if end >= 0 else len(self._buffer)) - self._at)

    def unread(self, content: bytes) -> None:
        """Take back what was read last."""
        self.position -= len(content)
        known = min(self._at, len(content))
        self._at -= known
        if known < len(content):
            self._buffer = content[: len(content) - known] + self._buffer

    def return_to(self, position: int) -> bool:
        """Go back in the file; False where that was done too often."""
        if self._num_returns == _MAX_RETURNS:
            return False
        self._num_returns += 1
        self._file.close()
        self._file = self._reopen(position)
        self._buffer, self._at, self._ended, self.broken = b"", 0, False, False
        self.position = position
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
