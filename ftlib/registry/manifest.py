"""The manifest beside every result, and how finished work is found again.

A manifest holds: `kind`, `key`, `config` (resolved), `inputs` (fingerprints), `packages`, `counts`, `files` (path below
the folder → sha256), `parents` (paths of the manifests it was made from), what the kind adds, and `timing`, the only
part that may differ between two runs of the same work.
"""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from ftlib import __version__
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import code_version, fingerprint, package_versions, sha256_file
from ftlib.core.logging import shown
from ftlib.core.storage import exists, filesystem, is_uri, join, local_path, reaching, read_json, write_json

MANIFEST = "manifest.json"
_HASH_BYTES = 1 << 20
_HASH_THREADS = 4
_PACKAGES = (
    "ray",
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "datasketch",
    "presidio-analyzer",
    "spacy",
    "pyarrow",
    "optuna",
    "mlflow",
    "pydantic",
)


def work_key(kind: str, config: Any, inputs: Any) -> str:
    """Key of a piece of work: equal inputs, configuration, code and library versions give equal keys."""
    return fingerprint(
        {
            "kind": kind,
            "config": config,
            "inputs": inputs,
            "code": code_version(),
            "packages": package_versions(_PACKAGES),
        }
    )


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of every file below a local folder but the manifest, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): sha256_file(path) for path in files if path.name != MANIFEST}


def build_manifest(
    kind: str,
    key: str,
    config: dict[str, Any],
    *,
    inputs: Any = None,
    counts: dict[str, Any] | None = None,
    files: dict[str, str] | None = None,
    parents: list[str] | None = None,
    started: float | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Assemble a manifest. `started` is `time.time()` at the start of the work."""
    now = time.time()
    return {
        "kind": kind,
        "key": key,
        "ftlib": __version__,
        "code": code_version(),
        "packages": package_versions(_PACKAGES),
        "config": config,
        "inputs": inputs,
        "parents": parents or [],
        "counts": counts or {},
        **extra,
        "files": files or {},
        "timing": {"finished": now, "duration_s": round(now - started, 3) if started else None},
    }


def write_manifest(folder: str, manifest: dict[str, Any]) -> str:
    """Put the manifest of a folder or prefix; returns its path."""
    path = join(folder, MANIFEST)
    write_json(path, manifest)
    return path


def read_manifest(folder: str, kind: str | None = None) -> dict[str, Any]:
    """The manifest of a result folder; raises UserError when it is absent or of another kind."""
    path = join(folder, MANIFEST)
    if not exists(path):
        raise UserError(f"{folder}: no {MANIFEST}, so this is not a finished {kind or 'result'}")
    manifest: dict[str, Any] = read_json(path)
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: not a manifest: a JSON object is expected")
    if kind and manifest.get("kind") != kind:
        raise UserError(f"{folder}: holds a {manifest.get('kind')}, a {kind} is needed")
    return manifest


def listed_files(folder: str, manifest: dict[str, Any]) -> dict[str, str]:
    """The `files` of a manifest, each of them inside its folder.

    A manifest may come from elsewhere: a name with `..`, an absolute one or a link to the outside would make readers
    read, and an erasure write, beyond the folder. Raises UserError for such a name, and where there is no such list.
    """
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise UserError(f"{folder}/{MANIFEST}: its list of files is malformed")
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\\" in name or not name.isprintable():
            raise UserError(f"{folder}/{MANIFEST}: names a file outside of its folder: {shown(name)}")
        if not is_uri(folder) and _leaves(str(local_path(folder)), name):
            raise UserError(f"{folder}: {shown(name)} is a link out of the folder")
    return files


def _leaves(folder: str, name: str) -> bool:
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(os.path.join(folder, name))]) != root


def verify_files(folder: str, manifest: dict[str, Any], names: list[str]) -> None:
    """Compare files with the hashes in their manifest; raises UserError for one that is missing or was changed."""
    files = listed_files(folder, manifest)
    with ThreadPoolExecutor(max_workers=_HASH_THREADS) as pool:
        for name, actual in zip(names, pool.map(lambda name: _sha256(join(folder, name)), names), strict=True):
            if actual != files[name]:
                raise UserError(
                    f"{join(folder, name)}: "
                    + ("is missing" if actual is None else f"was changed after it was written (sha256 {actual[:12]}…")
                    + ("" if actual is None else f", the manifest says {shown(files[name], 12)})")
                    + "; make it again"
                )


def _sha256(path: str) -> str | None:
    fs, inner = filesystem(path)
    digest = hashlib.sha256()
    with reaching(path):
        try:
            with fs.open(inner, "rb") as file:
                while block := file.read(_HASH_BYTES):
                    digest.update(block)
        except (FileNotFoundError, IsADirectoryError):
            return None
    return digest.hexdigest()


def finished(folder: str, key: str) -> dict[str, Any] | None:
    """The manifest of `folder` if that very work is done there already."""
    path = join(folder, MANIFEST)
    if not exists(path):
        return None
    manifest: dict[str, Any] = read_json(path)
    return manifest if isinstance(manifest, dict) and manifest.get("key") == key else None
