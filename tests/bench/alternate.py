"""Programs that take turns on one machine, one step at a time: what disturbs one disturbs the others alike.

Each runs in a process of its own and waits for its turn after every step, so that a ratio compares two steps that ran
one after the other.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step of a contender."""

    seconds: float
    """From its turn to the end of its update: the end of the step before (records, logs) is in it."""
    num_tokens: int
    """Without padding."""
    loss: float | None = None


class Turn:
    """A contender's end: it calls `wait` when it is ready to begin, then `done` after every step."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._began = 0.0

    def wait(self) -> None:
        """Tell that all is loaded, and wait for the first turn."""
        self._pipe.send(None)
        self._pipe.recv()
        self._began = time.perf_counter()

    def done(self, num_tokens: int, loss: float | None = None) -> None:
        """Report a step and wait for the next turn."""
        self._pipe.send(Step(time.perf_counter() - self._began, num_tokens, loss))
        self._pipe.recv()
        self._began = time.perf_counter()


Contender = Callable[[Turn], None]
"""Runs at least as many steps as it gets turns; picklable."""


def alternate(contenders: dict[str, Contender], rounds: int, warmup: int, threads: int) -> dict[str, list[Step]]:
    """Give every contender `warmup` and then `rounds` turns, in an order that rotates; returns the steps of the latter.

    Raises RuntimeError when one of them ends before its time.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[str, tuple[Any, Any]] = {}
    try:
        for name, contender in contenders.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_run, args=(contender, theirs, threads), daemon=True)
            process.start()
            theirs.close()
            running[name] = (process, ours)
            _receive(name, ours)
        steps: dict[str, list[Step]] = {name: [] for name in contenders}
        names = list(contenders)
        for number in range(warmup + rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                running[name][1].send(None)
                steps[name].append(_receive(name, running[name][1]))
            if number >= warmup:
                print(*(f"{name} {found[-1].seconds:.2f}s" for name, found in steps.items()), sep="  ", flush=True)
        return {name: found[warmup:] for name, found in steps.items()}
    finally:
        for process, _ in running.values():
            process.kill()
            process.join()


def _run(contender: Contender, pipe: Any, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    contender(Turn(pipe))


def _receive(name: str, pipe: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError(f"{name} ended before its time") from None
