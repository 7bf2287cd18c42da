"""Which files a job reads: folders and globs expanded, formats recognised, names and fingerprints given.

A file's `source` is the shortest suffix of its path that is unique among the inputs (`2024/tickets.jsonl`), so results
depend neither on where a corpus lies nor on the order in which its files are named.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import filesystem, is_uri, reaching
from ftlib.data.schema import MAX_POSITION, MAX_SOURCES
from ftlib.data.sql import SOURCE, Query, open_query
from ftlib.data.streams import BROKEN_STREAM, Compression, open_file

logger = get_logger(__name__)

FileFormat = Literal["jsonl", "csv", "parquet", "sql"]

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
_BESIDE_NAMES = {
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json", "package.json",
    "package-lock.json", "tsconfig.json", "license", "licence", "license.txt", "requirements.txt", "makefile",
}  # fmt: skip
_BESIDE_ENDINGS = (".md", ".rst", ".crc", ".sha256", ".md5", ".py", ".yaml", ".yml", ".html", ".log", ".lock")


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
    named: bool = True
    """Whether the file was named itself, not found in a folder or by a glob: then it is never passed over."""

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
    named: set[str] = set()
    beside: set[str] = set()
    for path in paths:
        with reaching(path, "input.paths"):
            sizes, passed_over, is_file = _expand(path)
        found.update(sizes)
        beside.update(passed_over)
        named.update(sizes if is_file else ())
    if not any(found.values()):
        raise UserError(f"input.paths: {'the file is' if len(found) == 1 else 'all files are'} empty: {_list(found)}")
    if len(found) > MAX_SOURCES:
        raise UserError(f"input.paths: {len(found)} files, at most {MAX_SOURCES} are possible: merge small ones")
    kinds = {path: _kind(path) for path in found}
    names = sorted((name, path) for path, name in short_names(list(found)).items())
    if beside := beside - set(found):
        logger.info("passed over beside the data: %s", _list(beside))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        fingerprints = list(pool.map(lambda item: _fingerprint(item[1]), names))
    files = []
    for rank, ((name, path), digest) in enumerate(zip(names, fingerprints, strict=True)):
        if found[path] > MAX_POSITION:
            raise UserError(f"{path}: {found[path]} bytes, at most {MAX_POSITION} a file are possible: split it")
        files.append(InputFile(path, name, rank, *kinds[path], found[path], digest, named=path in named))
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


def _expand(path: str) -> tuple[dict[str, int], list[str], bool]:
    """Files below a path and their sizes, those beside the data that are passed over, and whether it is a file."""
    fs, inner = filesystem(path)
    protocol = path.split("://", 1)[0] + "://" if is_uri(path) else ""

    def full(name: str) -> str:
        return name if "://" in name or not protocol else protocol + name

    if any(char in inner for char in "*?[") and not fs.exists(inner):
        matches = [name for name in _matches(fs, inner, path) if not _hidden(name, "")]
        sizes = {full(name): fs.size(name) for name in matches if not _is_beside(name)}
        unknown = [name for name in sizes if not _suffixes(name)[0] and _kind_or_none(name) is None]
        sizes = {name: size for name, size in sizes.items() if name not in unknown}
        passed_over = [*unknown, *(full(name) for name in matches if _is_beside(name))]
        if not sizes:
            raise UserError(f"input.paths: {path}: no file of a supported kind matches ({_SUPPORTED})")
        return sizes, passed_over, False
    if not fs.exists(inner):
        raise UserError(f"input.paths: {path}: no such file or folder")
    if not fs.isdir(inner):
        return {full(inner): fs.size(inner)}, [], True
    below = {name: info["size"] for name, info in fs.find(inner, detail=True).items() if not _hidden(name, inner)}
    sizes = {full(name): size for name, size in below.items() if _suffixes(name)[0] and not _is_beside(name)}
    if not sizes:
        raise UserError(f"input.paths: {path}: no file of a supported kind in this folder ({_SUPPORTED})")
    return sizes, [full(name) for name in below if full(name) not in sizes], False


def _matches(fs: Any, inner: str, path: str) -> list[str]:
    """Files that a glob matches; where none does, its brackets may be part of a name (`[2024] final/*.jsonl`)."""
    for pattern in dict.fromkeys((inner, inner.replace("[", "[[]"))):
        if matches := [name for name in fs.glob(pattern) if not fs.isdir(name)]:
            if pattern != inner:
                logger.info("input.paths: %s: nothing matches but with its brackets as they stand", path)
            return matches
    hint = "; [abc] stands for one of the characters, a bracket itself is written [[]" if "[" in inner else ""
    raise UserError(f"input.paths: nothing matches {path}{hint}")


def _is_beside(name: str) -> bool:
    """Whether a file describes data and holds none, by its name."""
    last = name.rsplit("/", 1)[-1].lower()
    return last in _BESIDE_NAMES or last.endswith(_BESIDE_ENDINGS) or last.startswith("readme")


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
    """Format and compression by the name's ending, else by the first bytes; raises UserError for an unknown kind."""
    found = _kind_or_none(path)
    if found is None:
        raise UserError(f"{path}: unknown kind of file; supported are {_SUPPORTED}")
    return found


def _kind_or_none(path: str) -> tuple[FileFormat, Compression] | None:
    format_, compression = _suffixes(path)
    if format_ == "parquet" and compression:
        raise UserError(f"{path}: Parquet compresses by itself; unpack the file first")
    if format_ is not None:
        return format_, compression
    head = _head(path, compression)
    if head.startswith(b"PAR1") and not compression:
        return "parquet", ""
    return ("jsonl", compression) if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")) else None


def _head(path: str, compression: Compression) -> bytes:
    try:
        with open_file(path, compression) as file:
            return file.read(512)
    except BROKEN_STREAM as error:
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
