"""Runs under Ray Train: a killed worker, a stop by the sweep, runs that are found again, data that teaches nothing."""

import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftlib.config.train import TrainConfig
from ftlib.core.errors import DivergedError, UserError
from ftlib.models.load import load_tokenizer
from ftlib.registry.manifest import read_manifest
from ftlib.train import driver
from ftlib.train.driver import run_training
from ftlib.train.loop import train
from ftlib.train.strategy import SingleProcess
from ftlib.train.worker import loop_settings, train_worker
from tests.prepared_data import small_prepared, write_prepared
from tests.training_cases import conversations, records


class KillOnce:
    """Kills its own worker with SIGKILL at step 4 the first time; never stops the run."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __call__(self, step: int, metrics: dict[str, float]) -> bool:
        if step == 4 and not self.flag.exists():
            self.flag.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_model) -> TrainConfig:
    root = tmp_path_factory.mktemp("training")
    small_prepared(root / "data")
    return TrainConfig.model_validate(
        {
            "data": {"path": str(root / "data")},
            "model": {"source": str(tiny_model)},
            "output": {"path": str(root / "runs")},
            "method": {"rank": 4, "dropout": 0.1},
            "optim": {"learning_rate": 0.01},
            "train": {
                "max_steps": 8, "global_batch_size": 4, "max_seq_len": 128, "precision": "float32",
                "eval_every_steps": 2, "keep_checkpoints": 1,
            },
            "scaling": {"num_workers": 2},
            "seed": 5,
        }
    )  # fmt: skip


def changed(config: TrainConfig, **sections) -> TrainConfig:
    values = config.model_dump()
    values["privacy"] = sections.pop("privacy", values["privacy"])
    for section, changes in sections.items():
        values[section] |= changes
    return TrainConfig.model_validate(values)


def test_killed_worker_costs_time_but_not_the_result(ray_local, config, tmp_path, monkeypatch, capfd):
    works = []
    packed = driver._packed_work
    monkeypatch.setattr(driver, "_packed_work", lambda *args: works.append(packed(*args)) or works[-1])
    flag = tmp_path / "killed"
    result = run_training(config, KillOnce(flag))
    assert flag.exists()
    assert not result.stopped_early
    # Ray's cleaner asks the dashboard every second, which a cluster of our own does not have.
    assert "Failed to query" not in "".join(capfd.readouterr())

    # The same run in this process, with no worker lost.
    device = torch.device("cpu")
    settings = replace(loop_settings(config, works[0], device), run_dir=tmp_path / "alone")
    settings.run_dir.mkdir()
    alone = train(settings, SingleProcess(device))
    assert result.val_loss == pytest.approx(alone.val_loss, rel=1e-4)
    run_dir = Path(result.path)
    losses = [record["loss"] for record in records(settings.run_dir, "train")]
    assert len(losses) == config.train.max_steps
    assert [record["loss"] for record in records(run_dir, "train")] == pytest.approx(losses, rel=1e-4)
    name = "adapter/adapter_model.safetensors"
    for key, tensor in load_file(settings.run_dir / name).items():
        torch.testing.assert_close(load_file(run_dir / name)[key], tensor, rtol=1e-2, atol=1e-4)

    manifest = read_manifest(result.path, "run")
    assert manifest["base"]["fingerprint"]
    assert manifest["files"].keys() >= {name, "adapter/chat_template.jinja"}
    assert len(list((run_dir / "checkpoints").iterdir())) <= 2

    # Found again at once, whatever the number of workers.
    monkeypatch.setattr(driver, "_fit", lambda *args: pytest.fail("trained again"))
    began = time.monotonic()
    assert run_training(changed(config, scaling={"num_workers": 1})) == result
    assert time.monotonic() - began < 20


def test_new_tokens_go_from_the_driver_into_the_result_its_copies_and_the_next_run(ray_local, config, monkeypatch):
    def fit_here(config, work, on_eval):
        device = torch.device("cpu")
        return asdict(train(loop_settings(config, work, device), SingleProcess(device), on_eval))

    monkeypatch.setattr(driver, "_fit", fit_here)
    method = {"new_tokens": ["refund card"], "init": "pissa", "dropout": 0.0}
    first = changed(config, train={"max_steps": 2}, method=method)
    result = run_training(changed(first, export={"merged": True, "gguf": ["q8_0"]}))
    manifest = read_manifest(result.path, "run")
    assert manifest["exports"].keys() == {"merged", "q8_0"}
    assert abs(manifest["exports"]["q8_0"]["val_loss_change"]) < 0.01
    assert "refund card" in load_tokenizer(Path(result.path) / "export" / "merged").get_vocab()
    assert run_training(first) == result  # copies are not part of what makes a run another one
    values = first.model_dump(exclude={"method"}) | {"method": {"adapter": result.path}}
    on = TrainConfig.model_validate(values)
    second = run_training(on)
    assert second.run_id != result.run_id
    stored = read_manifest(second.path, "run")["config"]["method"]
    assert (stored["rank"], stored["new_tokens"]) == (8, ["refund card"])
    assert second.val_loss < result.val_loss


def test_stopped_run_is_found_by_who_stops_and_not_by_who_wants_the_whole(ray_local, config, monkeypatch):
    def stop_at_2(step, metrics):
        return step == 2

    short = changed(config, optim={"learning_rate": 0.02}, scaling={"num_workers": 1})
    result = run_training(short, stop_at_2)
    assert result.stopped_early
    assert read_manifest(result.path, "run")["num_steps"] == 2
    monkeypatch.setattr(driver, "_fit", lambda *args: pytest.fail("trained again"))
    assert run_training(short, stop_at_2) == result
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run_training(short)


def test_diverged_run_is_told_apart(ray_local, config):
    hot = changed(
        config,
        optim={"learning_rate": 1e30, "max_grad_norm": 1e30},
        parallel={"strategy": "ddp"},
        scaling={"num_workers": 1, "max_failures": 0},
    )
    with pytest.raises(DivergedError, match=r"diverged at step \d.*optim\.learning_rate"):
        run_training(hot)
    pages = [page.read_text() for page in Path(config.output.path).glob("run-*/report.html")]
    assert sum("diverged at step" in page for page in pages) == 1


def test_private_run_is_planned_from_its_subjects_and_says_what_it_spent(ray_local, config, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_fit", lambda config, work, on_eval: train_worker({"work": work, "on_eval": on_eval}))
    rows = [row | {"weight": None, "subject": f"s{number % 25}"} for number, row in enumerate(conversations(40))]
    data = write_prepared(tmp_path / "data", train=rows)
    private = changed(
        config,
        privacy={"epsilon": 4.0, "unit": "subject"},
        data={"path": str(data), "packing": False},
        parallel={"strategy": "ddp"},
        train={"num_epochs": 2.0, "max_steps": None, "global_batch_size": 8},
        scaling={"num_workers": 1},
    )
    with pytest.raises(UserError, match="cannot be stopped by its validation loss"):
        run_training(private, lambda step, metrics: False)
    result = run_training(private)
    spent = read_manifest(result.path, "run")["privacy"]
    assert (spent["num_units"], spent["steps"], spent["sample_rate"], spent["delta"]) == (25, 7, 8 / 25, 1 / 250)
    assert 0.98 * 4 < spent["epsilon"] <= 4
    assert spent["secret_noise"]
    assert records(Path(result.path), "train")[-1]["epsilon"] == spent["epsilon"]


def test_rows_that_teach_nothing_abort_before_any_worker_starts(ray_local, config, tmp_path):
    rows = conversations(20)
    rows[3]["messages"] = rows[3]["messages"][:1]
    data = write_prepared(tmp_path / "data", train=rows, val=conversations(3, seed=1))
    with pytest.raises(UserError, match=r"1 of 20 rows supervise no token.*row-0-3"):
        run_training(changed(config, data={"path": str(data)}))
    assert not list(Path(config.output.path).glob("run-*/checkpoints/.*"))
