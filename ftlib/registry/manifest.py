"""The manifest beside every result, and how finished work is found again.

A manifest holds: `kind`, `key`, `config` (resolved), `inputs` (fingerprints), `packages`, `counts`, `files` (path below
the folder → sha256), `parents` (paths of the manifests it was made from), what the kind adds, and `timing`, the only
part that may differ between two runs of the same work.
"""

import time
from pathlib import Path
from typing import Any

from ftlib import __version__
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import code_version, fingerprint, package_versions, sha256_file
from ftlib.core.storage import exists, join, read_json, write_json

MANIFEST = "manifest.json"
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
    if kind and manifest.get("kind") != kind:
        raise UserError(f"{folder}: holds a {manifest.get('kind')}, a {kind} is needed")
    return manifest


def finished(folder: str, key: str) -> dict[str, Any] | None:
    """The manifest of `folder` if that very work is done there already."""
    path = join(folder, MANIFEST)
    if not exists(path):
        return None
    manifest: dict[str, Any] = read_json(path)
    return manifest if manifest.get("key") == key else None
