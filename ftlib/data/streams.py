"""Byte streams of input files: opened, decompressed, and brought to UTF-8 with LF, whatever they are in.

A compressed file that is cut off or damaged raises one of `BROKEN_STREAM` once everything before the damage was read.
Memory: a buffer, whatever the ratio of compression.
"""

import codecs
import io
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from ftlib.core.storage import filesystem, is_uri

Compression = Literal["", "gz", "zst"]

_CHUNK_BYTES = 1 << 20
_READ_AHEAD_BYTES = 4 << 20
_ZST_SLICE_BYTES = 1 << 10
_SWAP_LINE_ENDS = bytes.maketrans(b"\r\n", b"\n\r")
BROKEN_STREAM = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class TextForm:
    """How the characters of a file lie in its bytes."""

    encoding: str = "utf-8"
    """Name of a Python codec; a byte order mark at the beginning is left out."""
    cr_only: bool = False
    """Lines end with a carriage return alone."""

    @property
    def is_plain(self) -> bool:
        """Whether the bytes are UTF-8 with LF as they stand."""
        return self.encoding == "utf-8" and not self.cr_only

    def original_ends(self, text: bytes) -> bytes:
        """Undo in a part of an `open_text` stream the exchange of CR and LF."""
        return text.translate(_SWAP_LINE_ENDS) if self.cr_only else text


PLAIN = TextForm()


def open_file(path: str, compression: Compression = "") -> BinaryIO:
    """A binary stream of a local file or URI, decompressed."""
    fs, inner = filesystem(path)
    # Told nothing, an object store reads 50 MB ahead, more than a task needs.
    raw: Any = fs.open(inner, "rb", block_size=_READ_AHEAD_BYTES)
    if compression == "gz":
        import gzip

        return gzip.open(raw)  # type: ignore[return-value]
    if compression == "zst":
        return io.BufferedReader(_ZstdFrames(raw), _CHUNK_BYTES)
    # fsspec's own files cannot read a line up to a limit.
    return io.BufferedReader(raw, _CHUNK_BYTES) if is_uri(path) else raw


def open_text(path: str, compression: Compression, form: TextForm) -> BinaryIO:
    """The stream of a file as UTF-8, lines ended by LF (where `cr_only`, CR and LF have changed places).

    Bytes that the encoding does not know become bytes that are no UTF-8, so that their row is found to be broken.
    """
    file = open_file(path, compression)
    return file if form.is_plain else io.BufferedReader(_Recoded(file, form), _CHUNK_BYTES)


class _Stream(io.RawIOBase):
    """A readable stream over parts that `_more` gives until there are none."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._left = memoryview(b"")

    def _more(self) -> bytes | None:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            part = self._more()
            if part is None:
                return 0
            self._left = memoryview(part)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


class _ZstdFrames(_Stream):
    """Zstandard frame by frame: the end of the file is an error inside a frame."""

    def __init__(self, source: BinaryIO) -> None:
        super().__init__(source)
        import zstandard

        self._decompressor, self._error = zstandard.ZstdDecompressor(), zstandard.ZstdError
        self._frame: Any = None
        self._input = memoryview(b"")

    def _more(self) -> bytes | None:
        if not self._input:
            self._input = memoryview(self._source.read(_CHUNK_BYTES))
        if not self._input:
            if self._frame is not None:
                raise EOFError("the file ends inside a Zstandard frame")
            return None
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        # A block of 128 KB can take four bytes: what one call gives is bounded by what it is fed.
        part, self._input = self._input[:_ZST_SLICE_BYTES], self._input[_ZST_SLICE_BYTES:]
        try:
            plain: bytes = self._frame.decompress(part)
        except self._error as error:
            raise OSError(f"damaged Zstandard frame: {error}") from None
        if self._frame.eof:
            unused = self._frame.unused_data
            self._frame = None
            if unused:
                self._input = memoryview(bytes(unused) + bytes(self._input))
        return plain


class _Recoded(_Stream):
    """Another encoding as UTF-8, CR as LF."""

    def __init__(self, source: BinaryIO, form: TextForm) -> None:
        super().__init__(source)
        self._form = form
        self._decoder = codecs.getincrementaldecoder(form.encoding)(_MARK_BROKEN)
        self._begun = self._ended = False

    def _more(self) -> bytes | None:
        if self._ended:
            return None
        chunk = self._source.read(_CHUNK_BYTES)
        self._ended = not chunk
        if self._form.encoding == "utf-8":
            # Decoding and encoding again would only hide what is broken.
            return chunk.translate(_SWAP_LINE_ENDS) if chunk else None
        text = self._decoder.decode(chunk, final=not chunk)
        if text and not self._begun:
            self._begun, text = True, text.removeprefix("\ufeff")
        plain = text.encode("utf-8", "surrogatepass")
        return plain.translate(_SWAP_LINE_ENDS) if self._form.cr_only else plain


_MARK_BROKEN = "ftlib.mark_broken"


def _mark_broken(error: UnicodeError) -> tuple[str, int]:
    """A lone surrogate for what cannot be decoded: no UTF-8 has one."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff" * (error.end - error.start), error.end


codecs.register_error(_MARK_BROKEN, _mark_broken)
