"""Replay that a preparation recorded: training finds it by the manifest as `jobs.prepare` writes it."""

import json

import pytest

from ftlib.config.prepare import PrepareConfig
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.train.preflight import _find_replay
from tests.prepared_case import row, write_case


def dataset(folder, general):
    """A dataset whose manifest has the settings of a configuration with `mix.replay`."""
    write_case(folder, [row("r1", 0, "train")])
    values = {"input": {"paths": ["a.jsonl"]}, "output": {"path": str(folder)}}
    config = PrepareConfig.model_validate(values | {"mix": {"replay": {"path": str(general), "fraction": 0.25}}})
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"] = config.result_keys
    manifest["timing"] = {"config": config.resolved()}
    path.write_text(json.dumps(manifest))
    return folder


def training(data):
    return TrainConfig.model_validate(
        {"data": {"path": str(data)}, "model": {"source": "any"}, "output": {"path": "runs"}}
    )


def test_recorded_replay_is_found_where_it_lay(tmp_path):
    write_case(tmp_path / "general", [row(f"g{n}", n, "train") for n in range(3)])
    replay = _find_replay(training(dataset(tmp_path / "own", tmp_path / "general")))
    assert replay is not None and replay.fraction == 0.25
    assert all("general" in file for file in replay.files)


def test_replay_that_is_gone_or_was_never_prepared_is_named(tmp_path):
    data = dataset(tmp_path / "own", tmp_path / "raw.jsonl")
    with pytest.raises(UserError, match=r"mix\.replay from .*raw\.jsonl, which is not a prepared dataset"):
        _find_replay(training(data))
    manifest = json.loads((data / "manifest.json").read_text())
    del manifest["timing"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"name the result in data\.replay\.path"):
        _find_replay(training(data))
