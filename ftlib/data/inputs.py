"""Which files a job reads: folders and globs expanded, formats recognised, names and fingerprints given.

A file's `source` is the shortest suffix of its path that is unique among the inputs (`2024/tickets.jsonl`), so results
depend neither on where a corpus lies nor on the order in which its files are named.
"""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.core.storage import filesystem, is_uri, reaching
from ftlib.data.schema import MAX_POSITION, MAX_SOURCES
from ftlib.data.sql import SOURCE, Query, open_query

FileFormat = Literal["jsonl", "csv", "parquet", "sql"]
Compression = Literal["", "gz", "zst"]

_FORMATS: dict[str, FileFormat] = {
    "jsonl": "jsonl",
    "json": "jsonl",
    "ndjson": "jsonl",
    "csv": "csv",
    "tsv": "csv",
    "parquet": "parquet",
    "pq": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "zst": "zst"}
_SUPPORTED = ".jsonl, .json, .ndjson, .csv, .tsv (each also .gz or .zst), .parquet"
_CHUNK_BYTES = 1 << 20
_READ_AHEAD_BYTES = 4 << 20


@dataclass(frozen=True)
class InputFile:
    """One file of the input."""

    path: str
    """Local path or URI."""
    source: str
    """Name by which results refer to it."""
    rank: int
    """Position of `source` among the sorted sources."""
    format: FileFormat
    compression: Compression
    size_bytes: int
    fingerprint: str
    """SHA-256 of the content; of the object store's ETag for a URI that has one."""
    query: Query | None = None
    """Where the rows come from a database."""

    def describe(self) -> dict[str, Any]:
        """What the manifest records."""
        return {"source": self.source, "bytes": self.size_bytes, "fingerprint": self.fingerprint}


def all_inputs(config: InputConfig) -> list[InputFile]:
    """What a configuration reads: a query's rows as one source, or files. Raises UserError as the two below do."""
    if config.sql and config.connection:
        return [find_query(config.sql, config.connection)]
    return find_inputs(config.paths)


def find_inputs(paths: Sequence[str]) -> list[InputFile]:
    """Expand files, folders and globs; sorted by source. Raises UserError for what is missing, empty or unsupported."""
    found: dict[str, int] = {}
    for path in paths:
        with reaching(path, "input.paths"):
            found.update(_expand(path))
    if not any(found.values()):
        raise UserError(f"input.paths: {'the file is' if len(found) == 1 else 'all files are'} empty: {_list(found)}")
    if len(found) > MAX_SOURCES:
        raise UserError(f"input.paths: {len(found)} files, at most {MAX_SOURCES} are possible: merge small ones")
    kinds = {path: _kind(path) for path in found}
    names = sorted((name, path) for path, name in short_names(list(found)).items())
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        fingerprints = list(pool.map(lambda item: _fingerprint(item[1]), names))
    files = []
    for rank, ((name, path), digest) in enumerate(zip(names, fingerprints, strict=True)):
        if found[path] > MAX_POSITION:
            raise UserError(f"{path}: {found[path]} bytes, at most {MAX_POSITION} a file are possible: split it")
        files.append(InputFile(path, name, rank, *kinds[path], found[path], digest))
    return files


def find_query(sql: str, connection: str) -> InputFile:
    """The result of a query as the one input. Raises UserError where it has no order, or the database refuses it."""
    try:
        query = open_query(sql, connection)
        num_rows, num_bytes, digest = query.describe()
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    if not num_rows:
        raise UserError("input.sql: the query gives no rows")
    return InputFile(connection, SOURCE, 0, "sql", "", num_bytes, digest, query)


def open_file(path: str, compression: Compression = "") -> BinaryIO:
    """A binary stream of a local file or URI, decompressed."""
    fs, inner = filesystem(path)
    # Told nothing, an object store reads 50 MB ahead, more than a task needs.
    raw: Any = fs.open(inner, "rb", block_size=_READ_AHEAD_BYTES)
    if compression == "gz":
        import gzip

        return gzip.open(raw)  # type: ignore[return-value]
    if compression == "zst":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=True)
        return io.BufferedReader(reader, _CHUNK_BYTES)
    # fsspec's own files cannot read a line up to a limit.
    return io.BufferedReader(raw, _CHUNK_BYTES) if is_uri(path) else raw


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """The shortest suffix of whole path components that no other path has."""
    parts = {path: path.replace("\\", "/").rstrip("/").split("/") for path in paths}
    names: dict[str, str] = {}
    depth, open_paths = 1, set(parts)
    while open_paths:
        suffix = {path: "/".join(components[-depth:]) for path, components in parts.items()}
        counts = Counter(suffix.values())
        done = {path for path in open_paths if counts[suffix[path]] == 1 or depth >= len(parts[path])}
        names.update({path: suffix[path] for path in done})
        open_paths -= done
        depth += 1
    return names


def _expand(path: str) -> dict[str, int]:
    """Files below a path and their sizes."""
    fs, inner = filesystem(path)
    protocol = path.split("://", 1)[0] + "://" if is_uri(path) else ""

    def full(name: str) -> str:
        return name if "://" in name or not protocol else protocol + name

    if any(char in inner for char in "*?[") and not fs.exists(inner):
        matches = [name for name in fs.glob(inner) if not fs.isdir(name)]
        if not matches:
            raise UserError(f"input.paths: nothing matches {path}")
        return {full(name): fs.size(name) for name in matches if not _hidden(name, "")}
    if not fs.exists(inner):
        raise UserError(f"input.paths: {path}: no such file or folder")
    if not fs.isdir(inner):
        return {full(inner): fs.size(inner)}
    below = fs.find(inner, detail=True)
    sizes = {
        full(name): info["size"] for name, info in below.items() if not _hidden(name, inner) and _suffixes(name)[0]
    }
    if not sizes:
        raise UserError(f"input.paths: {path}: no file of a supported kind in this folder ({_SUPPORTED})")
    return sizes


def _hidden(name: str, root: str) -> bool:
    """Whether a file, or a folder above it below `root`, begins with a dot or an underscore (`_SUCCESS`, `.tmp`)."""
    below = name[len(root.rstrip("/")) + 1 :] if root else name.rsplit("/", 1)[-1]
    return any(part.startswith((".", "_")) for part in below.split("/"))


def _suffixes(path: str) -> tuple[FileFormat | None, Compression]:
    parts = path.rsplit("/", 1)[-1].lower().split(".")
    compression = _COMPRESSIONS.get(parts[-1], "")
    inner = parts[-2] if compression and len(parts) > 2 else parts[-1]
    return _FORMATS.get(inner), compression


def _kind(path: str) -> tuple[FileFormat, Compression]:
    """Format and compression by the name's ending, else by the first bytes."""
    format_, compression = _suffixes(path)
    if format_ == "parquet" and compression:
        raise UserError(f"{path}: Parquet compresses by itself; unpack the file first")
    if format_ is None:
        head = _head(path, compression)
        if head.startswith(b"PAR1") and not compression:
            return "parquet", ""
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return "jsonl", compression
        raise UserError(f"{path}: unknown kind of file; supported are {_SUPPORTED}")
    return format_, compression


def _head(path: str, compression: Compression) -> bytes:
    try:
        with open_file(path, compression) as file:
            return file.read(512)
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__})") from error


def _fingerprint(path: str) -> str:
    fs, inner = filesystem(path)
    if is_uri(path) and (tag := fs.info(inner).get("ETag")):
        return hashlib.sha256(str(tag).encode()).hexdigest()
    digest = hashlib.sha256()
    try:
        with fs.open(inner, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
    return digest.hexdigest()


def _list(paths: Iterable[str]) -> str:
    names = sorted(paths)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
