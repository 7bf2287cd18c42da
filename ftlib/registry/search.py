"""Search of folders for results, however deep: whatever has a manifest, and what cut-off writes left behind."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.storage import filesystem, is_uri, join, local_path, read_bytes, read_json
from ftlib.registry.manifest import MANIFEST

_LEFTOVER = re.compile(r"/\.[^/]+\.([0-9a-f]{8}\.(tmp|old)|unfinished)(?=/)")
"""Temporary folders: of `core.storage.atomic_dir`, and of preparations that did not end."""


@dataclass(frozen=True)
class Found:
    """A result: a folder with a manifest."""

    folder: str
    manifest: dict[str, Any]
    sha256: str
    """Of the manifest file."""

    @property
    def kind(self) -> str:
        """`prepared`, `run`, `sweep` …"""
        return str(self.manifest.get("kind"))


@dataclass(frozen=True)
class Places:
    """Folders that hold a file of a wanted name, sorted."""

    by_name: dict[str, list[str]]
    leftovers: list[str]
    """Temporary folders with files: their writer was killed, or is still at work."""
    files: list[str] = field(default_factory=list)
    """Other files with a wanted ending."""

    def results(self) -> list[Found]:
        """All folders with a readable manifest."""
        found = []
        for folder in self.by_name[MANIFEST]:
            path = join(folder, MANIFEST)
            try:
                manifest = read_json(path)
            except UserError:
                continue  # another program's file of that name
            if isinstance(manifest, dict):
                found.append(Found(folder, manifest, sha256(read_bytes(path)).hexdigest()))
        return found


def canonical(path: str) -> str:
    """One spelling of a folder's path: absolute, without links and `file://`; a URI without a slash at its end."""
    return path.rstrip("/") if is_uri(path) else os.path.realpath(local_path(path))


def find_places(paths: Sequence[str], names: Iterable[str], endings: tuple[str, ...] = ()) -> Places:
    """Search folders or URIs for files of these names, and for others with these endings.

    Raises UserError for a path that does not exist.
    """
    by_name: dict[str, set[str]] = {name: set() for name in names}
    leftovers: set[str] = set()
    files: set[str] = set()
    for path in paths:
        fs, inner = filesystem(path)
        if not fs.exists(inner):
            raise UserError(f"search.paths: {path}: no such folder")
        prefix = path.split("://", 1)[0] + "://" if is_uri(path) else ""
        for file in fs.find(canonical(path) if not prefix else inner):
            folder, _, name = str(file).rpartition("/")
            if cut_off := _LEFTOVER.search(folder + "/"):
                leftovers.add(prefix + folder[: cut_off.end()].rstrip("/"))
            elif name in by_name:
                by_name[name].add(prefix + folder)
            elif endings and name.endswith(endings):
                files.add(prefix + str(file))
    return Places({name: sorted(folders) for name, folders in by_name.items()}, sorted(leftovers), sorted(files))
