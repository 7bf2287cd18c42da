"""One hash for a model folder: what a manifest calls the base, and what an adapter is checked against."""

from pathlib import Path

from ftlib.core.fingerprints import fingerprint, sha256_file
from ftlib.core.storage import read_json, state_home, write_json

_PATTERNS = (
    "config.json",
    "*.safetensors",
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


def model_fingerprint(folder: str | Path) -> str:
    """SHA-256 over configuration, weights and tokenizer of a model folder, hexadecimal.

    Hashing reads every byte (about 1 s a gigabyte), so the result is remembered in `FTLIB_HOME/fingerprints` under the
    files' names, sizes and times of change.
    """
    root = Path(folder).resolve()
    files = sorted({path for pattern in _PATTERNS for path in root.glob(pattern) if path.is_file()})
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    cached = state_home() / "fingerprints" / f"{fingerprint([str(root), stamp])}.json"
    if cached.exists():
        return str(read_json(str(cached))["sha256"])
    digest = fingerprint({path.name: sha256_file(path) for path in files}, length=64)
    write_json(str(cached), {"folder": str(root), "sha256": digest})
    return digest


def chat_template_hash(tokenizer: object) -> str | None:
    """Hash of a tokenizer's chat template; None when it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return fingerprint(template) if template else None
