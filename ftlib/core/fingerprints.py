"""Stable hashes of values and files: the keys by which finished work is found again."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal strings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def fingerprint(value: Any, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def sha256_file(path: str | Path, chunk_bytes: int = 1 << 20) -> str:
    """SHA-256 of a local file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(chunk_bytes):
            digest.update(chunk)
    return digest.hexdigest()


def code_version(packages: Iterable[str] = ("ftlib",)) -> str:
    """Hash of the source files of top-level packages: a changed line of code is a changed key."""
    digest = hashlib.sha256()
    for name in packages:
        root = Path(__file__).resolve().parents[2] / name
        for file in sorted(root.rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions of distributions; those that are absent are left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def folder_sha256(folder: str | Path) -> str:
    """SHA-256 over the relative paths and contents of every file below a local folder: the identity of a model.

    Raises FileNotFoundError when the folder is absent or holds no file.
    """
    root = Path(folder)
    files = {path.relative_to(root).as_posix(): sha256_file(path) for path in root.rglob("*") if path.is_file()}
    if not files:
        raise FileNotFoundError(f"{root}: no files")
    return tree_sha256(files)


def tree_sha256(files: Mapping[str, str]) -> str:
    """What `folder_sha256` gives for a folder whose files (relative path → sha256) are known, from a manifest say."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
