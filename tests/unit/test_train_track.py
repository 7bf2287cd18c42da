"""Trackers: they hold what metrics.jsonl holds, also after a resume, and none of them can stop a run."""

import json
import sys
import threading
from types import SimpleNamespace

import pytest

from ftlib.train.metrics import MetricsWriter, read_metrics
from ftlib.train.track import TrackSettings, open_trackers


def record(step, kind="train", **figures):
    return {"kind": kind, "step": step, **(figures or {"loss": 1.0 / step, "lr": 0.1})}


def run(folder, settings, resume_step, steps, status="finished"):
    writer = MetricsWriter(folder, resume_step, settings)
    for step in steps:
        writer.write(record(step))
    writer.write(record(steps[-1], "val", val_loss=2.0, odd=float("nan"), note="text"))
    writer.close(status)


def scalars(folder):
    """Name → (step, value) in the event files that TensorBoard would read."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 (the format: length, checksum, data, checksum)

    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, pytest.approx(value.simple_value)))
            data = data[16 + size :]
    return found


def test_tensorboard_says_what_the_metrics_say_after_a_resume(tmp_path):
    settings = TrackSettings(tensorboard=True)
    run(tmp_path, settings, 0, [1, 2, 3])
    run(tmp_path, settings, 2, [3, 4])
    found = scalars(tmp_path / "tensorboard")
    kept = [item for item in read_metrics(tmp_path) if item["kind"] == "train"]
    assert [item["step"] for item in kept] == [1, 2, 3, 4]
    assert found["train/loss"] == [(item["step"], item["loss"]) for item in kept]
    assert found["val/val_loss"] == [(4, 2.0)]
    assert "val/odd" not in found and "val/note" not in found


def test_mlflow_run_goes_on_where_it_was(tmp_path):
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "run-1"
    folder.mkdir()
    settings = TrackSettings(
        mlflow_uri=str(tmp_path / "mlflow"), experiment="mine", params={"optim.learning_rate": "0.1"}
    )
    run(folder, settings, 0, [1, 2, 3], status="failed")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    place = client.get_experiment_by_name("mine").experiment_id
    assert client.search_runs([place])[0].info.status == "FAILED"
    run(folder, settings, 2, [3, 4])
    (found,) = client.search_runs([place])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run-1")
    assert found.data.params == {"optim.learning_rate": "0.1"}
    history = [(item.step, item.value) for item in client.get_metric_history(found.info.run_id, "train/loss")]
    assert sorted(history) == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert [item.step for item in client.get_metric_history(found.info.run_id, "val/val_loss")] == [3, 4]


def test_tracker_that_fails_is_named_once_and_the_others_go_on(tmp_path, caplog, monkeypatch):
    from ftlib.train import track

    def broken(self, figures, step):
        raise OSError("no route")

    monkeypatch.setattr(track.Mlflow, "__init__", lambda self, *_: setattr(self, "last_steps", {}))
    monkeypatch.setattr(track.Mlflow, "log", broken)
    run(tmp_path, TrackSettings(tensorboard=True, mlflow_uri="x"), 0, [1, 2, 3])
    assert caplog.text.count("MLflow gets no more figures (OSError: no route)") == 1
    assert len(scalars(tmp_path / "tensorboard")["train/loss"]) == 3


def test_tracker_that_cannot_be_opened_costs_nothing(tmp_path, caplog):
    run(tmp_path, TrackSettings(mlflow_uri="s3://bucket/mlflow"), 0, [1])
    assert "MLflow gets no more figures (UserError: " in caplog.text
    assert len(read_metrics(tmp_path)) == 2


def test_wandb_only_with_key_and_package(tmp_path, monkeypatch):
    logged = []
    fake = SimpleNamespace(
        Settings=lambda **_: None,
        init=lambda **options: SimpleNamespace(
            step=3, log=lambda figures, step: logged.append((options["id"], step)), finish=lambda exit_code: None
        ),
        __spec__=object(),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for key in (None, "secret"):
        if key:
            monkeypatch.setenv("WANDB_API_KEY", key)
        trackers = open_trackers(TrackSettings(wandb=True), tmp_path, [record(step) for step in (1, 2, 3)])
        trackers.log(record(4))
        trackers.close("finished")
        assert bool(logged) == bool(key)
    assert logged == [(tmp_path.name, 3), (tmp_path.name, 4)]


def test_without_trackers_there_is_no_thread(tmp_path):
    before = threading.active_count()
    run(tmp_path, TrackSettings(), 0, [1])
    assert threading.active_count() == before
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
