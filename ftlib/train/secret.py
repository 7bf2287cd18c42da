"""Random numbers that only who holds a key can predict: the batches and the noise of private training.

The guarantee of differential privacy holds against whoever cannot guess the noise, and its amplification by sampling
against whoever cannot guess the batches. A run therefore draws 32 bytes from the operating system, keeps them in its
folder (readable by its owner alone) for as long as it runs, and deletes them at its end. Everything is drawn from
SHAKE-256 (FIPS 202) of that key, the identity of the work and a label such as the step, which gives three things at
once:

- a resumed run repeats an unfinished step with the same batch and the same noise, so it makes the same weights and
  tells nothing new: the accounting counts every step once;
- other data, another model or other settings get unrelated noise from the same key, so no two results differ by their
  signals alone;
- the numbers depend on neither the worker that draws them nor the order.

Costs about 0.05 s for a million normal numbers on one core.
"""

import hashlib
import os
import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ftlib.core.logging import get_logger

logger = get_logger(__name__)

KEY_FILE = ".private-key"
"""In the run's folder while it runs."""


class SecretNumbers:
    """Numbers addressed by label: the same key and label give the same numbers."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.sha256(key).digest()

    def bits(self, label: str, count: int) -> npt.NDArray[np.uint64]:
        """`count` uniform 64-bit numbers."""
        stream = hashlib.shake_256(self._key + label.encode()).digest(8 * count)
        return np.frombuffer(stream, dtype="<u8")

    def normal(self, label: str, count: int) -> npt.NDArray[np.float64]:
        """`count` standard normal numbers (Box and Muller 1958), from 53 bits each: up to 8.6 standard deviations."""
        pairs = (count + 1) // 2
        uniform = (self.bits(label, 2 * pairs) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-uniform[:pairs]))
        angle = 2.0 * np.pi * uniform[pairs:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def run_key(run_dir: Path, seed: int | None, resume_key: str) -> bytes:
    """The key of a run: from its folder, made on first use, or from a seed that the user gave.

    Args:
        run_dir: the run's folder.
        seed: repeats a run exactly, at the price of secrecy; logged as a warning.
        resume_key: identity of the work (data, model, settings).
    """
    if seed is not None:
        logger.warning("privacy.seed is set: the guarantee holds only against those who do not know it")
        return f"seed {seed} {resume_key}".encode()
    path = run_dir / KEY_FILE
    if not path.exists():
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    return path.read_bytes() + resume_key.encode()


def forget_key(run_dir: Path) -> None:
    """Delete the key of a run that has ended: nobody can tell its noise from then on."""
    (run_dir / KEY_FILE).unlink(missing_ok=True)
