"""Search space, study and choice of the winner: no cluster, in-memory or SQLite storage."""

import math
import random

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from ftlib.config.loader import validate
from ftlib.config.sweep import PrunerConfig, SearchConfig, SweepConfig
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.page import Axis
from ftlib.sweep import study as studies
from ftlib.sweep.lease import LEASE_S, Lease
from ftlib.sweep.report import render
from ftlib.sweep.run import base_config
from ftlib.sweep.space import apply_params, check_space, decode, distributions, encode

SPACE = {
    "method.rank": {"type": "categorical", "choices": [4, 8]},
    "optim.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "method.target_modules": {"type": "categorical", "choices": ["all-linear", ["q_proj", "v_proj"]]},
    "train.global_batch_size": {"type": "int", "low": 2, "high": 16},
}


def sweep_config(**values) -> SweepConfig:
    train = {"data": {"path": "/d"}, "model": {"source": "m"}, "output": {"path": "/r"}}
    return validate(SweepConfig, {"train": train, "space": SPACE, "output": {"path": "/s"}} | values)


def memory_study(pruner=None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="minimize", pruner=pruner or optuna.pruners.NopPruner())


# ---- space


def test_sampled_parameters_are_inside_their_ranges_and_apply():
    config = sweep_config()
    found = distributions(config.space)
    study = memory_study()
    seen = set()
    for _ in range(30):
        trial = study.ask(found)
        params = decode(config.space, trial.params)
        assert params["method.rank"] in (4, 8)
        assert 1e-4 <= params["optim.learning_rate"] <= 1e-2
        seen.add(str(params["method.target_modules"]))
        assert encode(config.space, params) == trial.params
        train = apply_params(config.train, params)
        assert train.method.rank == params["method.rank"]
        assert train.method.target_modules == params["method.target_modules"]
        assert train.train.global_batch_size == params["train.global_batch_size"]
        study.tell(trial, 1.0)
    assert seen == {"all-linear", "['q_proj', 'v_proj']"}  # lists survive the storage


def test_applying_leaves_unset_keys_unset():
    train = apply_params(sweep_config().train, {"method.rank": 4})
    assert train.method.model_fields_set == {"rank"}  # alpha keeps following the rank
    assert train.data.path == "/d"


@pytest.mark.parametrize(
    ("space", "seeds", "message"),
    [
        ({"method.rank": {"type": "int", "low": 0, "high": 8}}, [], "method.rank"),
        ({"train.global_batch_size": {"type": "categorical", "choices": [8, 9]}}, [], "cannot be divided"),
        ({"method.rank": {"type": "int", "low": 1, "high": 8}}, [{"method.rank": 9}], "outside its range"),
        ({"method.rank": {"type": "int", "low": 1, "high": 8}}, [{"method.rank": True}], "outside its range"),
        ({"method.rank": {"type": "int", "low": 1, "high": 8}}, [{"method.alpha": 9}], "not in the space"),
        ({"method.rank": {"type": "categorical", "choices": [2, 4]}}, [{"method.rank": 3}], "outside its range"),
    ],
)
def test_a_space_that_training_refuses_fails_before_any_work(space, seeds, message):
    config = sweep_config(space=space)
    train = validate(TrainConfig, config.train.resolved() | {"scaling": {"num_workers": 2}})
    with pytest.raises(UserError, match=message):
        check_space(train, config.space, seeds)


def test_pruning_gets_validations_on_the_way():
    assert base_config(sweep_config()).train.eval_every_steps == PrunerConfig().min_steps
    assert base_config(sweep_config(search={"pruner": {"kind": "none"}})).train.eval_every_steps is None


# ---- early stopping


def learning_curve(final: float):
    return {step: final + math.exp(-step / 10) for step in range(10, 90, 10)}


def drive(pruner: PrunerConfig, finals: list[float]) -> list[int | None]:
    """For trials run one after another, the step each was stopped at."""
    study, stopped = memory_study(studies.make_pruner(pruner)), []
    for final in finals:
        trial = study.ask()
        for step, value in learning_curve(final).items():
            trial.report(value, step)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                stopped.append(step)
                break
        else:
            study.tell(trial, final)
            stopped.append(None)
    return stopped


def test_asha_stops_at_rungs_of_steps_and_never_before_the_first():
    pruner = PrunerConfig(kind="asha", min_steps=20, reduction_factor=2)
    assert drive(pruner, [1.0, 2.0, 0.5, 1.5]) == [None, 20, None, 20]
    shuffled = [0.1 * i for i in range(16)]
    random.Random(1).shuffle(shuffled)
    steps = drive(pruner, shuffled)
    assert {step for step in steps if step} <= {20, 40, 80}
    assert steps[shuffled.index(0.0)] is None  # the best always gets to the end


def test_median_and_none():
    assert drive(PrunerConfig(kind="median", min_steps=30), [1.0, 1.2, 3.0, 0.9]) == [None, None, 30, None]
    assert drive(PrunerConfig(kind="none"), [1.0, 2.0, 3.0]) == [None, None, None]


# ---- winner, duplicates, resumption


def finished_trial(value, state=TrialState.COMPLETE, rank=4, **attrs):
    found = {"method.rank": optuna.distributions.CategoricalDistribution([4, 8, 16])}
    steps = {10: 0.1} if state is TrialState.PRUNED else {}
    return create_trial(
        state=state, value=value, params={"method.rank": rank}, distributions=found, user_attrs=attrs,
        intermediate_values=steps,
    )  # fmt: skip


def test_winner_is_the_lowest_completed_value_and_the_earliest_of_equals():
    study = memory_study()
    assert studies.best_trial(study.trials) is None
    for trial in [
        finished_trial(0.1, TrialState.PRUNED),
        finished_trial(0.5),
        finished_trial(0.3, rank=8),
        finished_trial(0.3, rank=16),
        finished_trial(None, TrialState.FAIL),
    ]:
        study.add_trial(trial)
    assert studies.best_trial(study.trials).number == 2


def test_twin_is_found_among_finished_and_running_but_not_failed():
    study = memory_study()
    study.add_trial(finished_trial(None, TrialState.FAIL, rank=8))
    study.add_trial(finished_trial(0.5, rank=4))
    assert studies.twin_of(study.trials, 9, {"method.rank": 4}) == 1
    assert studies.twin_of(study.trials, 1, {"method.rank": 4}) is None  # itself
    assert studies.twin_of(study.trials, 9, {"method.rank": 8}) is None


def test_recovery_fails_lost_trials_and_queues_each_parameter_set_once():
    study = memory_study()
    found = {"method.rank": optuna.distributions.CategoricalDistribution([4, 8, 16])}
    study.add_trial(finished_trial(0.5, rank=4))
    study.add_trial(finished_trial(None, TrialState.FAIL, rank=4))  # settled since
    study.add_trial(finished_trial(None, TrialState.FAIL, rank=8, error="x"))
    study.add_trial(finished_trial(None, TrialState.FAIL, rank=8, error="y"))
    study.add_trial(finished_trial(None, TrialState.FAIL, rank=16, duplicate_of=0))
    study.enqueue_trial({"method.rank": 16})
    running = study.ask(found)
    assert running.params == {"method.rank": 16}
    assert studies.recover(study) == 2  # 8 once, 16 of the lost one
    assert study.trials[running.number].state is TrialState.FAIL
    assert studies.recover(study) == 0  # they wait already
    assert [study.ask(found).params["method.rank"] for _ in range(2)] == [8, 16]


# ---- storage


def test_storage_url(tmp_path, monkeypatch):
    monkeypatch.delenv("FTLIB_DB_PASSWORD", raising=False)
    assert studies.storage_url(None, str(tmp_path / "s")) == f"sqlite:///{tmp_path}/s/study.db"
    with pytest.raises(UserError, match="local disk"):
        studies.storage_url(None, "s3://bucket/sweep")
    with pytest.raises(UserError, match="password") as caught:
        studies.storage_url("postgresql://user:hunter2@host/db", str(tmp_path))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(UserError, match="not a database URL"):
        studies.storage_url("nonsense", str(tmp_path))
    secret = tmp_path / "password"
    secret.write_text("p@ss:word\n")
    monkeypatch.setenv("FTLIB_DB_PASSWORD_FILE", str(secret))
    url = studies.storage_url("postgresql://user@host/db", "s3://bucket/sweep")
    assert url == "postgresql+psycopg://user:p%40ss%3Aword@host/db"


def test_a_study_name_belongs_to_one_search(tmp_path):
    url = studies.storage_url(None, str(tmp_path))
    first = studies.open_study(SearchConfig(), url, "mine", "identity-1", 0)
    first.tell(first.ask(), 1.0)
    assert len(studies.open_study(SearchConfig(), url, "mine", "identity-1", 0).trials) == 1
    with pytest.raises(UserError, match="another space"):
        studies.open_study(SearchConfig(), url, "mine", "identity-2", 0)


def test_one_driver_at_a_time(tmp_path):
    url = studies.storage_url(None, str(tmp_path))
    study = studies.open_study(SearchConfig(), url, "s", "i", 0)
    first = Lease(study)

    def alive(_: float) -> None:
        first._last = 0.0
        first.renew()

    with pytest.raises(UserError, match="is being driven"):
        Lease(study, sleep=alive)

    waits: list[float] = []
    second = Lease(study, sleep=waits.append)  # the first gave no more sign of life
    assert sum(waits) == LEASE_S
    first._last = 0.0
    with pytest.raises(UserError, match="taken over"):
        first.renew()
    second.release()
    Lease(study, sleep=lambda _: pytest.fail("a released study is free at once"))


def test_a_dead_process_of_this_host_needs_no_wait(tmp_path):
    study = studies.open_study(SearchConfig(), studies.storage_url(None, str(tmp_path)), "s", "i", 0)
    lease = Lease(study)
    study.set_user_attr("driver", study.user_attrs["driver"] | {"pid": 2**22 + 1})  # above the kernel's largest
    assert lease is not None
    Lease(study, sleep=lambda _: pytest.fail("the holder is dead"))


# ---- report


def test_report_is_self_contained_and_escapes():
    config = sweep_config()
    params = {"method.rank": 4, "optim.learning_rate": 1e-3, "train.global_batch_size": 4}
    params["method.target_modules"] = "all-linear"
    row = {
        "number": 0,
        "state": "COMPLETE",
        "value": 0.5,
        "params": params,
        "run_id": "r0",
        "run_path": "/r/r0",
        "steps": [{"step": 10, "value": 0.7}, {"step": 20, "value": 0.5}],
        "duration_s": 3.0,
        "error": None,
    }
    rows = [row, row | {"number": 1, "state": "FAIL", "value": None, "steps": [], "error": "Boom: <script>"}]
    rows += [row | {"number": 2, "state": "PRUNED", "value": 0.9}, row | {"number": 3, "state": "DUPLICATE"}]
    page = render(rows, {"trial": 0, "run_id": "r0", "value": 0.5, "params": params}, config)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert page.count("<tr") == 4  # head and three trials: the duplicate is not shown
    assert page.count('<svg class="plot"') == 1 + len(SPACE)


@pytest.mark.parametrize(("values", "log"), [([0.1, 5.0], False), ([3.0, 3.0], False), ([1e-4, 1e-2], True)])
def test_axis_maps_its_values_inside(values, log):
    axis = Axis(values, 0, 100, log)
    assert all(0 <= axis(value) <= 100 for value in values)
    assert all(-1e-9 <= tick.at <= 100 + 1e-9 for tick in axis.ticks())
    assert len({tick.label for tick in axis.ticks()}) >= 3
