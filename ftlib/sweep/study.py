"""The study behind a sweep: where trials are stored, how they are sampled and stopped, and which of them count.

Optuna's `ask` and `tell` are driven directly: Ray Tune's OptunaSearch tells a stopped trial as COMPLETE with its early
value, which biases the sampler; here it is PRUNED with its intermediate values.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftlib.config.sweep import PrunerConfig, SearchConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.secrets import read_secret
from ftlib.core.storage import is_uri, local_path
from ftlib.sweep.space import Params, Space, decode, encode

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

logger = get_logger(__name__)

STUDY_DB = "study.db"
DB_PASSWORD = "FTLIB_DB_PASSWORD"
ERROR, DUPLICATE, RUN_ID, RUN_PATH, DURATION = "error", "duplicate_of", "run_id", "run_path", "duration_s"
_IDENTITY = "identity"


def storage_url(storage: str | None, folder: str) -> str:
    """The Optuna storage's URL, with the password from `FTLIB_DB_PASSWORD(_FILE)`; may be secret: never log it.

    Raises UserError for SQLite on an object store (its locks need a local disk) and for a password in the config.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if storage is None:
        if is_uri(folder):
            raise UserError(
                f"output.path={folder}: the default storage is SQLite, which needs a local disk; name a database in "
                "search.storage (postgresql+psycopg://user@host/name) or give a local output.path"
            )
        path = local_path(folder).absolute() / STUDY_DB
        path.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{path}"
    try:
        url = make_url(storage)
    except ArgumentError:
        raise UserError("search.storage: not a database URL; example: postgresql+psycopg://user@host/name") from None
    if url.password is not None:
        raise UserError(f"search.storage: take the password out of the URL and put it into {DB_PASSWORD}_FILE")
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if not url.drivername.startswith("sqlite") and (password := read_secret(DB_PASSWORD)):
        url = url.set(password=password)
    return url.render_as_string(hide_password=False)


def make_pruner(config: PrunerConfig) -> "BasePruner":
    """The rule of early stopping; resources are optimiser steps."""
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if config.kind == "asha":
        return SuccessiveHalvingPruner(min_resource=config.min_steps, reduction_factor=config.reduction_factor)
    if config.kind == "median":
        return MedianPruner(n_startup_trials=2, n_warmup_steps=config.min_steps)
    return NopPruner()


def open_study(search: SearchConfig, url: str, name: str, identity: str, seed: int) -> "Study":
    """Create or load the study. `identity` guards a name given by hand against another search's trials.

    The sampler's seed moves with the number of trials found: a resumed search would repeat its first draws otherwise.
    """
    import optuna
    from optuna.samplers import TPESampler
    from sqlalchemy.exc import ArgumentError, OperationalError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=_engine_options(url))
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="minimize",
            pruner=make_pruner(search.pruner),
            load_if_exists=True,
        )
    except (OperationalError, ArgumentError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise UserError(
            f"search.storage: the database cannot be used: {reason} (a password comes from {DB_PASSWORD}_FILE)"
        ) from None
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, identity)
    elif known != identity:
        raise UserError(
            f"search.study_name={name}: the storage has a study of this name over another space, training "
            "configuration or dataset; choose another name"
        )
    # A third of the trials at random, then the model of the good ones; Optuna's default of ten would make a search of
    # eight trials purely random.
    study.sampler = TPESampler(
        seed=seed + len(study.get_trials(deepcopy=False)),
        multivariate=True,
        constant_liar=True,
        n_startup_trials=min(10, max(2, search.num_trials // 3)),
    )
    return study


def recover(study: "Study") -> int:
    """Fail the RUNNING trials of a driver that is gone, and queue the parameters of failed trials again.

    Returns how many trials were queued. Call it holding the lease.
    """
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    settled = [trial.params for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    settled += [trial.system_attrs.get("fixed_params", {}) for trial in trials if trial.state is TrialState.WAITING]
    again = 0
    for trial in trials:
        failed = trial.state is TrialState.FAIL and DUPLICATE not in trial.user_attrs and trial.params
        if failed and trial.params not in settled:
            study.enqueue_trial(trial.params)
            settled.append(trial.params)
            again += 1
    return again


def enqueue_seeds(study: "Study", space: Space, seeds: Sequence[Params]) -> None:
    """Queue the parameter sets that the user wants tried first, once."""
    for params in seeds:
        study.enqueue_trial(encode(space, params), skip_if_exists=True)


def twin_of(trials: Sequence["FrozenTrial"], number: int, params: Params) -> int | None:
    """The number of another trial with the same parameters that finished or runs, if there is one."""
    from optuna.trial import TrialState

    alive = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    for trial in trials:
        if trial.number != number and trial.state in alive and trial.params == params:
            return int(trial.number)
    return None


def best_trial(trials: Sequence["FrozenTrial"]) -> "FrozenTrial | None":
    """The completed trial of the lowest value; of equal ones the earliest. A pruned trial never wins."""
    from optuna.trial import TrialState

    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def trial_row(trial: "FrozenTrial", space: Space) -> dict[str, Any]:
    """A trial as a row of trials.parquet."""
    attrs = trial.user_attrs
    # Optuna shows the last intermediate value as a pruned trial's value: the one it was stopped for.
    return {
        "number": trial.number,
        "state": "DUPLICATE" if DUPLICATE in attrs else trial.state.name,
        "value": trial.value,
        "params": decode(space, trial.params),
        "steps": [{"step": step, "value": value} for step, value in sorted(trial.intermediate_values.items())],
        "run_id": attrs.get(RUN_ID),
        "run_path": attrs.get(RUN_PATH),
        "duration_s": attrs.get(DURATION),
        "error": attrs.get(ERROR),
    }


def _engine_options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": 60}}
    return {"pool_pre_ping": True}
