"""Checkpoints that any number of workers can write and any other number can read.

`checkpoints/step-N/` holds full float32 tensors, gathered one at a time (memory: one tensor and the file being filled):

    state-NNNNN.safetensors   `param/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME` of every trained parameter
    state.json                step, data cursor, schedule, random state, validation loss, size of each file

A folder appears by rename, so a killed writer leaves nothing; one that was cut short otherwise (a copy, a full disk) is
recognised by the sizes in `state.json` and skipped.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftlib.core.logging import get_logger
from ftlib.core.storage import atomic_dir, write_text
from ftlib.train.layout import BEST, CHECKPOINTS

logger = get_logger(__name__)

_STATE = "state.json"
_FILE_BYTES = 2 << 30


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
        """Name and full float32 tensor of every trained parameter; `kind`: `param`, `exp_avg` or `exp_avg_sq`."""
        from safetensors import safe_open

        prefix = f"{kind}/"
        for name in self.state["files"]:
            with safe_open(self.path / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    if key.startswith(prefix):
                        yield key.removeprefix(prefix), file.get_tensor(key)


def save_checkpoint(
    run_dir: Path, state: dict[str, Any], tensors: Iterable[tuple[str, torch.Tensor]], *, writer: bool
) -> None:
    """Write `checkpoints/step-N`; every rank must call it, because `tensors` gathers while it is iterated."""
    if not writer:
        for _ in tensors:
            pass
        return
    with atomic_dir(str(run_dir / CHECKPOINTS / f"step-{state['step']}")) as folder:
        files = _write_tensors(folder, tensors)
        (folder / _STATE).write_text(json.dumps(state | {"files": files}, indent=2) + "\n")


def _write_tensors(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, int]:
    from safetensors.torch import save_file

    files: dict[str, int] = {}
    pending: dict[str, torch.Tensor] = {}

    def flush() -> None:
        name = f"state-{len(files):05d}.safetensors"
        save_file(pending, folder / name)
        files[name] = (folder / name).stat().st_size
        pending.clear()

    size = 0
    for key, tensor in tensors:
        pending[key] = tensor.detach().to("cpu", torch.float32).contiguous().clone()
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
            broken = [name for name, size in state["files"].items() if (path / name).stat().st_size != size]
        except (OSError, ValueError, KeyError):
            broken = [_STATE]
        if broken:
            logger.warning("%s is incomplete (%s) and is skipped", path, broken[0])
        else:
            found.append(Checkpoint(path, state))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


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
