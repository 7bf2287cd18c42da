"""Checkpoints that any number of workers can write and any other number can read.

`checkpoints/step-N/` holds full float32 tensors, gathered one at a time (memory: one tensor and the file being filled):

    state-NNNNN.safetensors   `param/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME` of every trained parameter;
                              under float16 `loss_scale/…`, two numbers
    state.json                step, data cursor, schedule, seed, validation loss, size and SHA-256 of each file

Random numbers need no state of their own: dropout is seeded by (seed, step, micro-batch). A folder appears by rename,
so a killed writer leaves nothing; one that was cut short or changed otherwise (a copy, a full disk, a bad one) is
recognised by sizes and checksums and skipped. What fits memory is copied and written behind the training.
"""

import json
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftlib.core.fingerprints import sha256_file
from ftlib.core.logging import get_logger
from ftlib.core.storage import atomic_dir, write_text
from ftlib.train.layout import BEST, CHECKPOINTS

logger = get_logger(__name__)

_STATE = "state.json"
_FILE_BYTES = 2 << 30
BACKGROUND_BYTES = 4 << 30
"""Checkpoints up to this size are copied and written behind the training."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])

    def tensors(self, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and full float32 tensor of each entry of a `kind`: `param`, `exp_avg`, `exp_avg_sq` or `loss_scale`."""
        from safetensors import safe_open

        prefix = f"{kind}/"
        for name in self.state["files"]:
            with safe_open(self.path / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    if key.startswith(prefix):
                        yield key.removeprefix(prefix), file.get_tensor(key)


class CheckpointWriter:
    """Writes the checkpoints of a run and deletes old ones."""

    def __init__(self, run_dir: Path, keep: int, *, writer: bool, background_bytes: int = BACKGROUND_BYTES) -> None:
        """`keep`: newest checkpoints that stay besides the best; `writer`: whether this rank writes."""
        self._run_dir, self._keep, self._writer, self._background_bytes = run_dir, keep, writer, background_bytes
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, Any], tensors: Iterable[tuple[str, torch.Tensor]], num_bytes: int) -> None:
        """Write `checkpoints/step-N` of `num_bytes`; every rank must call it: `tensors` gathers while it is iterated.

        Up to `background_bytes` the tensors are copied and this returns before they are on disk.
        """
        self.wait()
        if not self._writer:
            for _ in tensors:
                pass
        elif num_bytes > self._background_bytes:
            self._write(state, ((name, _on_host(tensor)) for name, tensor in tensors))
        else:
            copies = [(name, _on_host(tensor)) for name, tensor in tensors]
            self._thread = threading.Thread(target=self._write_behind, args=(state, copies), name="checkpoint")
            self._thread.start()

    def wait(self) -> None:
        """Return when the last checkpoint is on disk; raises what its writing raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write_behind(self, state: dict[str, Any], tensors: list[tuple[str, torch.Tensor]]) -> None:
        try:
            self._write(state, tensors)
        except BaseException as error:
            self._error = error

    def _write(self, state: dict[str, Any], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        with atomic_dir(str(self._run_dir / CHECKPOINTS / f"step-{state['step']}")) as folder:
            files = _write_tensors(folder, tensors)
            (folder / _STATE).write_text(json.dumps(state | {"files": files}, indent=2) + "\n")
        prune_checkpoints(self._run_dir, self._keep)


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A float32 copy in host memory."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def _write_tensors(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, dict[str, Any]]:
    from safetensors.torch import save_file

    files: dict[str, dict[str, Any]] = {}
    pending: dict[str, torch.Tensor] = {}

    def flush() -> None:
        path = folder / f"state-{len(files):05d}.safetensors"
        save_file(pending, path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        pending.clear()

    size = 0
    for key, tensor in tensors:
        pending[key] = tensor
        size += pending[key].nbytes
        if size >= _FILE_BYTES:
            flush()
            size = 0
    if pending:
        flush()
    return files


def list_checkpoints(run_dir: Path) -> list[Checkpoint]:
    """The whole checkpoints of a run, oldest first; half-written ones are logged and left out."""
    found = []
    for path in (run_dir / CHECKPOINTS).glob("step-*"):
        try:
            state = json.loads((path / _STATE).read_text())
            sizes = {name: file["bytes"] for name, file in state["files"].items()}
            broken = [name for name, size in sizes.items() if (path / name).stat().st_size != size]
        except (OSError, ValueError, KeyError, TypeError):
            broken = [_STATE]
        if broken:
            logger.warning("%s is incomplete (%s) and is skipped", path, broken[0])
        else:
            found.append(Checkpoint(path, state))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint whose files have the checksums they were written with."""
    for checkpoint in reversed(list_checkpoints(run_dir)):
        broken = [name for name, file in checkpoint.state["files"].items() if _differs(checkpoint.path / name, file)]
        if not broken:
            return checkpoint
        logger.warning("%s is damaged (checksum of %s) and is skipped", checkpoint.path, broken[0])
    return None


def _differs(path: Path, file: dict[str, Any]) -> bool:
    return sha256_file(path) != str(file["sha256"])


def mark_best(run_dir: Path) -> Checkpoint:
    """Write `BEST`: the checkpoint with the lowest validation loss, the newest of equals or where none was measured."""
    checkpoints = list_checkpoints(run_dir)
    measured = [checkpoint for checkpoint in checkpoints if checkpoint.state.get("val_loss") is not None]
    best = min(reversed(measured), key=lambda checkpoint: checkpoint.state["val_loss"], default=checkpoints[-1])
    write_text(str(run_dir / BEST), best.path.name + "\n")
    return best


def prune_checkpoints(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    best = mark_best(run_dir).path
    for checkpoint in list_checkpoints(run_dir)[:-keep]:
        if checkpoint.path != best:
            shutil.rmtree(checkpoint.path)
