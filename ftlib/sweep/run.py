"""A sweep: Optuna proposes parameters, each trial is a Ray Train run, poor ones are stopped early.

In: a training configuration and ranges over its keys. Out: `SWEEPS/<id>/` with `study.db`, `trials.parquet`,
`best.json`, `report.html` and `manifest.json`; the runs themselves lie in the training configuration's output.path.

A sweep that was killed goes on where it was: finished trials stay, interrupted ones are run again, and their runs
resume from their own checkpoints. A sweep that is finished under the same key is returned at once. A trial that fails
is recorded and the search goes on; a mistake of the user (a missing dataset) ends it.
"""

import math
import time
from typing import TYPE_CHECKING, Any

from ftlib.config.sweep import SweepConfig
from ftlib.config.train import TrainConfig
from ftlib.core.errors import DivergedError, FtlibError, UserError
from ftlib.core.fingerprints import code_version, fingerprint
from ftlib.core.logging import format_duration, get_logger
from ftlib.core.storage import exists, filesystem, join, read_json
from ftlib.data.prepared import open_prepared
from ftlib.registry.manifest import MANIFEST, finished, work_key
from ftlib.sweep import study as studies
from ftlib.sweep.lease import BEAT_S, Lease
from ftlib.sweep.results import BEST, write_results
from ftlib.sweep.space import apply_params, check_space, decode, distributions
from ftlib.sweep.trials import Ended, Reported, Trainer, TrialPool

if TYPE_CHECKING:
    from optuna import Study, Trial

logger = get_logger(__name__)

MAX_FAILURES_AT_START = 3  # trials that fail before any succeeds: the configuration, not the parameters, is at fault
MAX_DUPLICATES = 25  # equal proposals in a row: the space is used up
_CHECKPOINTS = "checkpoints"


def run_sweep(config: SweepConfig, trainer: Trainer | None = None) -> dict[str, Any]:
    """Search, and return the manifest's path with the winner.

    Args:
        config: the sweep.
        trainer: what runs one trial; default `ftlib.train.driver.run_training`.

    Raises UserError for mistakes that all trials share, FtlibError when no trial succeeded.
    """
    started = time.time()
    train = base_config(config)
    check_space(train, config.space, config.search.seed_trials)
    inputs = {"dataset": open_prepared(train.data.path).manifest["key"]}
    key = work_key("sweep", _relevant(config), inputs)
    if found := _found(config.output.path, key):
        logger.info("this sweep is finished already: %s", config.output.path)
        return found

    identity = fingerprint([_train_part(train), config.resolved()["space"], config.search.metric, inputs])
    name = config.search.study_name or f"sweep-{identity}-{code_version()[:6]}"
    url = studies.storage_url(config.search.storage, config.output.path)
    study = studies.open_study(config.search, url, name, identity, config.seed)
    lease = Lease(study)
    try:
        again = studies.recover(study)
        studies.enqueue_seeds(study, config.space, config.search.seed_trials)
        search = _Search(config, train, study, lease)
        if search.num_settled or again:
            logger.info("study %s: %d trials found, %d to run again", name, search.num_settled, again)
        with TrialPool(trainer or _default_trainer()) as pool:
            search.run(pool)
        path = write_results(config, study, key=key, inputs=inputs, started=started)
    finally:
        lease.release()
    return _result(path, config.output.path)


def base_config(config: SweepConfig) -> TrainConfig:
    """What every trial starts from.

    Early stopping needs validations on the way: where no interval is given, the pruner's first step is taken.
    """
    train = config.train
    if config.search.pruner.kind == "none" or train.train.eval_every_steps is not None:
        return train
    return apply_params(train, {"train.eval_every_steps": config.search.pruner.min_steps})


class _Search:
    """The loop between study and pool."""

    def __init__(self, config: SweepConfig, train: TrainConfig, study: "Study", lease: Lease) -> None:
        self._config, self._train, self._study, self._lease = config, train, study, lease
        self._space = config.space
        self._distributions = distributions(config.space)
        self._running: dict[int, Trial] = {}
        self._begun: dict[int, float] = {}
        self._reported: set[tuple[int, int]] = set()
        self._stopped: set[int] = set()
        self._durations: list[float] = []
        self._errors: list[str] = []
        self._started = time.monotonic()

    @property
    def num_settled(self) -> int:
        """Trials that completed or were stopped early, in this process or before."""
        from optuna.trial import TrialState

        return len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def run(self, pool: TrialPool) -> None:
        """Run trials until the budget is spent or the space is used up."""
        while True:
            while len(pool) < self._config.search.max_concurrent_trials and (trial := self._ask()) is not None:
                self._start(pool, trial)
            if not len(pool):
                break
            for event in pool.wait(BEAT_S):
                if isinstance(event, Reported):
                    pool.answer(event, self._judge(event))
                else:
                    self._settle(event)
            self._lease.renew()
        if studies.best_trial(self._study.get_trials(deepcopy=False)) is None:
            raise FtlibError(f"no trial succeeded; the first failed with {(self._errors or ['nothing'])[0]}")

    def _left(self) -> int:
        return self._config.search.num_trials - self.num_settled - len(self._errors) - len(self._running)

    def _ask(self) -> "Trial | None":
        """The next trial with parameters that were not tried yet; None when there is none to run."""
        from optuna.trial import TrialState

        if self._left() <= 0:
            return None
        for _ in range(MAX_DUPLICATES):
            trial = self._study.ask(self._distributions)
            twin = studies.twin_of(self._study.get_trials(deepcopy=False), trial.number, trial.params)
            if twin is None:
                return trial
            trial.set_user_attr(studies.DUPLICATE, twin)
            # FAIL, because the sampler ignores it: a second copy of the value would count the point twice.
            self._study.tell(trial, state=TrialState.FAIL)
        if not self._running:
            logger.info("the space is used up: no new parameters after %d trials", self.num_settled)
        return None

    def _start(self, pool: TrialPool, trial: "Trial") -> None:
        params = decode(self._space, trial.params)
        config = apply_params(self._train, params)
        shown = ", ".join(f"{key}={_short(value)}" for key, value in params.items())
        logger.info("trial %d starts: %s", trial.number, shown)
        self._running[trial.number], self._begun[trial.number] = trial, time.monotonic()
        pool.start(trial.number, config)

    def _judge(self, report: Reported) -> bool:
        """Record an intermediate value; whether the trial shall stop."""
        trial = self._running.get(report.number)
        if trial is None:  # its task died while the report was on its way
            return True
        if (report.number, report.step) not in self._reported:  # a restarted worker repeats validations
            trial.report(float(report.metrics[self._config.search.metric]), report.step)
            self._reported.add((report.number, report.step))
        if report.step == self._train.train.max_steps:
            return False  # it is done anyway: keep its result
        stop = bool(trial.should_prune())
        if stop:
            self._stopped.add(report.number)
        return stop

    def _settle(self, end: Ended) -> None:
        """Tell the study how a trial ended."""
        from optuna.trial import TrialState

        trial = self._running.pop(end.number)
        if isinstance(end.error, UserError) and not isinstance(end.error, DivergedError):
            raise UserError(str(end.error))
        duration = time.monotonic() - self._begun.pop(end.number)
        trial.set_user_attr(studies.DURATION, round(duration, 3))
        if end.result is None:
            self._fail(trial, _describe(end.error))
            return
        result, value = end.result, end.result.val_loss
        trial.set_user_attr(studies.RUN_ID, result.run_id)
        trial.set_user_attr(studies.RUN_PATH, result.path)
        if value is None or not math.isfinite(value):
            self._fail(trial, f"the validation loss is {value}")
            return
        self._durations.append(duration)
        if result.stopped_early:
            if end.number not in self._stopped:  # an earlier driver stopped it and was killed before it noted so
                trial.report(value, self._config.search.pruner.min_steps)
            self._study.tell(trial, state=TrialState.PRUNED)
            _drop_checkpoints(result.path)
            outcome = "stopped early"
        else:
            self._study.tell(trial, value)
            outcome = f"{self._config.search.metric} {value:.4f}"
        self._log(end.number, f"{outcome} after {format_duration(duration)}")

    def _fail(self, trial: "Trial", error: str) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(studies.ERROR, error)
        self._study.tell(trial, state=TrialState.FAIL)
        self._errors.append(error)
        self._log(trial.number, f"failed: {error}")
        if len(self._errors) >= MAX_FAILURES_AT_START and not self.num_settled:
            raise FtlibError(f"the first {len(self._errors)} trials failed; the first with {self._errors[0]}")

    def _log(self, number: int, outcome: str) -> None:
        total, left = self._config.search.num_trials, self._left() + len(self._running)
        best = studies.best_trial(self._study.get_trials(deepcopy=False))
        line = f"trial {number}: {outcome}; {total - left}/{total} done"
        if best is not None:
            line += f", best {best.value:.4f} (trial {best.number})"
        line += f", {format_duration(time.monotonic() - self._started)} elapsed"
        if left > 0 and self._durations:
            rounds = math.ceil(left / self._config.search.max_concurrent_trials)
            line += f", about {format_duration(rounds * sum(self._durations) / len(self._durations))} left"
        logger.info(line)


def _default_trainer() -> Trainer:
    from ftlib.train.driver import run_training

    return run_training


def _found(folder: str, key: str) -> dict[str, Any] | None:
    """The result of this very sweep if it is there and its winner's run still is."""
    if finished(folder, key) is None:
        return None
    result = _result(join(folder, MANIFEST), folder)
    return result if exists(join(result["run_path"], MANIFEST)) else None


def _result(manifest: str, folder: str) -> dict[str, Any]:
    best = read_json(join(folder, BEST))
    return {"manifest": manifest, **{name: best[name] for name in ("run_id", "run_path", "params", "value")}}


def _train_part(train: TrainConfig) -> dict[str, Any]:
    """What of the training configuration the values depend on."""
    values = train.resolved()
    for name in ("cluster", "output"):
        values.pop(name)
    return values


def _relevant(config: SweepConfig) -> dict[str, Any]:
    """What of the sweep's configuration its result depends on."""
    values = config.resolved()
    for name in ("cluster", "output"):
        values.pop(name)
    values["train"] = _train_part(config.train)
    values["train"]["output"] = config.train.output.path
    values["search"].pop("max_concurrent_trials")
    return values


def _drop_checkpoints(run_path: str) -> None:
    """Free the disk of a run that was stopped early; its metrics stay."""
    folder = join(run_path, _CHECKPOINTS)
    if exists(folder):
        fs, inner = filesystem(folder)
        fs.rm(inner, recursive=True)


def _describe(error: BaseException | None) -> str:
    """The kind of an error and the head of its first line."""
    head = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {head}" if head else type(error).__name__


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
