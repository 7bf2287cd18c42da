"""Trials on the cluster: each a Ray task that runs one training, reporting to the driver through a mailbox.

Rank 0 of a training calls its `Reporter` after each validation and waits for the verdict. The driver alone holds the
study, so the database and its password stay on the driver's node, whatever node a trial's workers are on. A report
costs one round trip through the mailbox, an asyncio actor: milliseconds.

The task itself takes no CPU: it only waits for the training's workers, which take what `scaling` says.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import setup_logging

OnEval = Callable[[int, dict[str, float]], bool]


class TrialResult(Protocol):
    """What a sweep needs of a finished training."""

    @property
    def run_id(self) -> str:
        """Name of the run."""

    @property
    def path(self) -> str:
        """Folder of the run."""

    @property
    def val_loss(self) -> float | None:
        """Validation loss of the result, nats per supervised token; None without a validation."""

    @property
    def stopped_early(self) -> bool:
        """Whether `on_eval` ended it."""


Trainer = Callable[[TrainConfig, OnEval | None], TrialResult]


@dataclass(frozen=True)
class Reported:
    """A validation of a running trial; the trial waits for `TrialPool.answer`."""

    number: int
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Ended:
    """A trial's end: its result, or why there is none."""

    number: int
    result: TrialResult | None
    error: BaseException | None


class _Mailbox:
    """Holds each report until the driver has taken it, and the trial until the driver has answered."""

    def __init__(self) -> None:
        self._reports: asyncio.Queue[Reported] = asyncio.Queue()
        self._verdicts: dict[tuple[int, int], asyncio.Future[bool]] = {}

    async def report(self, number: int, step: int, metrics: dict[str, float]) -> bool:
        verdict = asyncio.get_running_loop().create_future()
        self._verdicts[number, step] = verdict
        await self._reports.put(Reported(number, step, metrics))
        stop: bool = await verdict
        return stop

    async def next(self) -> Reported:
        return await self._reports.get()

    async def answer(self, number: int, step: int, stop: bool) -> None:
        verdict = self._verdicts.pop((number, step), None)
        if verdict is not None and not verdict.done():
            verdict.set_result(stop)


@dataclass(frozen=True)
class Reporter:
    """The `on_eval` of one trial: picklable, it travels to rank 0."""

    mailbox: Any
    number: int

    def __call__(self, step: int, metrics: dict[str, float]) -> bool:
        """Report a validation at an optimiser step; True when the trial shall stop."""
        return bool(ray.get(self.mailbox.report.remote(self.number, step, metrics)))


def _run_trial(trainer: Trainer, config: TrainConfig, reporter: Reporter) -> TrialResult:
    setup_logging()
    return trainer(config, reporter)


_RUN_TRIAL = ray.remote(num_cpus=0, max_retries=0)(_run_trial)


class TrialPool:
    """The trials in flight. Use as a context manager: those still running at its end are cancelled."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._mailbox = ray.remote(_Mailbox).options(num_cpus=0).remote()
        self._next = self._mailbox.next.remote()
        self._running: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __enter__(self) -> "TrialPool":
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._running:
            ray.cancel(task, force=True)
        ray.kill(self._mailbox)

    def start(self, number: int, config: TrainConfig) -> None:
        """Start a trial; it ends as an `Ended` event."""
        task = _RUN_TRIAL.options(name=f"trial-{number}").remote(self._trainer, config, Reporter(self._mailbox, number))
        self._running[task] = number

    def wait(self, timeout_s: float) -> list[Reported | Ended]:
        """The events since the last call, oldest kind first: reports, then ends. Waits at most `timeout_s` for one."""
        ready, _ = ray.wait([self._next, *self._running], num_returns=1, timeout=timeout_s)
        if not ready:
            return []
        # Whatever else is there already comes along; a report precedes the end of the trial that made it.
        ready, _ = ray.wait([self._next, *self._running], num_returns=1 + len(self._running), timeout=0)
        events: list[Reported | Ended] = []
        if self._next in ready:
            events.append(ray.get(self._next))
            self._next = self._mailbox.next.remote()
        events += [self._end(task) for task in ready if task in self._running]
        return events

    def answer(self, report: Reported, stop: bool) -> None:
        """Let the trial that made a report go on, or stop it."""
        self._mailbox.answer.remote(report.number, report.step, stop)

    def _end(self, task: Any) -> Ended:
        number = self._running.pop(task)
        try:
            return Ended(number, ray.get(task), None)
        except Exception as error:
            return Ended(number, None, root_cause(error))


def root_cause(error: BaseException) -> BaseException:
    """What a worker raised beneath Ray's wrappers; a UserError anywhere in the chain wins.

    Ray's own wrapper of a UserError is an instance of it as well, with the remote traceback for a message: the inner
    one is wanted.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = getattr(current, "cause", None) or current.__cause__ or current.__context__
    mistakes = [item for item in chain if isinstance(item, UserError)]
    return mistakes[-1] if mistakes else chain[-1]
