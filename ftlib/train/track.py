"""Trackers beside `metrics.jsonl`: TensorBoard, MLflow, Weights & Biases.

`metrics.jsonl` stays the only truth. A tracker gets the records that it lacks when it opens (all of a resumed run's for
TensorBoard, whose files are written anew; the steps after its last one for the others) and each new one. All of it
happens in one thread of rank 0, in order: a slow server slows no step. A tracker that fails is named once in the log,
gets no more, and costs the run nothing.

Imports each library when its tracker opens; takes plain dataclasses.
"""

import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from ftlib.core.logging import get_logger
from ftlib.train.layout import TENSORBOARD

logger = get_logger(__name__)

Record = dict[str, Any]

CLOSE_TIMEOUT_S = 60.0
"""How long the end of a run waits for its trackers."""
_SUCCESSES = {"finished", "stopped", "early_stopped"}


@dataclass(frozen=True)
class TrackSettings:
    """Which trackers a run has."""

    tensorboard: bool = False
    mlflow_uri: str | None = None
    wandb: bool = False
    """Used only where WANDB_API_KEY is set and wandb is installed."""
    experiment: str = "ftlib"
    params: dict[str, Any] = field(default_factory=dict)
    """Settings of the run by key path."""


class Tracker(Protocol):
    """Where figures go; opening one may raise anything."""

    last_steps: dict[str, int]
    """Kind of record → step up to which its figures are there already."""

    def log(self, figures: dict[str, float], step: int) -> None:
        """Take the figures of a step, named `train/loss`, `val/val_loss`, …"""

    def close(self, status: str) -> None:
        """Flush and end; `status` as in the loop's outcome, or `failed`."""


class Trackers:
    """The trackers of a run, fed by a thread of their own."""

    def __init__(self, openers: dict[str, Callable[[], Tracker]], known: Sequence[Record]) -> None:
        """Open each and give it the records `known` that it lacks."""
        self._queue: SimpleQueue[Record | str] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(openers, list(known)), name="trackers", daemon=True)
        self._is_used = bool(openers)
        if self._is_used:
            self._thread.start()

    def log(self, record: Record) -> None:
        """Hand on one record of `metrics.jsonl`; returns at once."""
        if self._is_used:
            self._queue.put(record)

    def close(self, status: str) -> None:
        """End all, waiting for what is on its way."""
        if not self._thread.is_alive():
            return
        self._queue.put(status)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            logger.warning("trackers did not end within %g s; metrics.jsonl is whole", CLOSE_TIMEOUT_S)

    def _run(self, openers: dict[str, Callable[[], Tracker]], known: list[Record]) -> None:
        trackers: dict[str, Tracker] = {}
        for name, opener in openers.items():
            if (tracker := _attempt(name, opener)) is not None:
                trackers[name] = tracker
        for record in known:
            _give(trackers, record)
        while not isinstance(item := self._queue.get(), str):
            _give(trackers, item)
        for name, tracker in trackers.items():
            _attempt(name, partial(tracker.close, item))


def open_trackers(settings: TrackSettings, run_dir: Path, known: Sequence[Record]) -> Trackers:
    """The trackers of a run whose `metrics.jsonl` holds the records `known`."""
    openers: dict[str, Callable[[], Tracker]] = {}
    if settings.tensorboard:
        openers["TensorBoard"] = lambda: TensorBoard(run_dir / TENSORBOARD)
    if uri := settings.mlflow_uri:
        openers["MLflow"] = lambda: Mlflow(uri, settings.experiment, run_dir.name, settings.params)
    if settings.wandb and os.environ.get("WANDB_API_KEY") and find_spec("wandb"):
        openers["W&B"] = lambda: WeightsAndBiases(settings.experiment, run_dir, settings.params)
    return Trackers(openers, known)


def flat_settings(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Key paths of nested settings with their values, as a person would give them."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += flat_settings(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", "null" if value is None else str(value)))
    return found


class TensorBoard:
    """Event files in the run's folder, written anew each time, so that they say what `metrics.jsonl` says."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self.last_steps: dict[str, int] = {}
        self._writer = SummaryWriter(str(folder))

    def log(self, figures: dict[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: str) -> None:
        """Close the file."""
        self._writer.close()


class Mlflow:
    """An MLflow run; after a resume it goes on where it was, since MLflow forgets no figure."""

    def __init__(self, uri: str, experiment: str, run_id: str, params: dict[str, Any]) -> None:
        from ftlib.registry.tracking import MlflowRun

        self._run = MlflowRun(uri, experiment, run_id, params)
        self.last_steps = {name.partition("/")[0]: self._run.last_step(name) for name in ("train/loss", "val/val_loss")}

    def log(self, figures: dict[str, float], step: int) -> None:
        """Log figures."""
        self._run.log(figures, step, round(time.time() * 1000))

    def close(self, status: str) -> None:
        """End the run as finished or failed."""
        self._run.close("FINISHED" if status in _SUCCESSES else "FAILED")


class WeightsAndBiases:
    """A W&B run of the same id, which W&B goes on with after a resume."""

    def __init__(self, project: str, run_dir: Path, params: dict[str, Any]) -> None:
        import wandb  # type: ignore[import-not-found]

        options = {"id": run_dir.name, "name": run_dir.name, "resume": "allow", "dir": str(run_dir)}
        self._run = wandb.init(project=project, config=params, settings=wandb.Settings(silent=True), **options)
        self.last_steps = dict.fromkeys(("train", "val"), int(self._run.step) - 1)

    def log(self, figures: dict[str, float], step: int) -> None:
        """Log figures."""
        self._run.log(figures, step=step)

    def close(self, status: str) -> None:
        """Finish, with an exit code of 1 for a run that failed."""
        self._run.finish(exit_code=0 if status in _SUCCESSES else 1)


def _give(trackers: dict[str, Tracker], record: Record) -> None:
    """Log a record everywhere; what fails is taken out."""
    kind, step = str(record["kind"]), int(record["step"])
    figures = {
        f"{kind}/{name}": float(value)
        for name, value in record.items()
        if name not in {"kind", "step"} and isinstance(value, int | float) and math.isfinite(value)
    }
    for name, tracker in list(trackers.items()):
        is_due = bool(figures) and step > tracker.last_steps.get(kind, 0)
        if is_due and not _attempt(name, partial(_log, tracker, figures, step)):
            del trackers[name]


def _log(tracker: Tracker, figures: dict[str, float], step: int) -> bool:
    tracker.log(figures, step)
    return True


def _attempt(name: str, action: Callable[[], Any]) -> Any:
    """The action's result; None, and one line in the log, when it fails."""
    try:
        return action()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning("%s gets no more figures (%s: %s); metrics.jsonl goes on", name, type(error).__name__, reason)
        return None
