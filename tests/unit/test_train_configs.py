"""The shipped training configurations load, divide their batch, and read what their prepare configuration writes."""

from pathlib import Path

import pytest

from ftlib.config.loader import load_config
from ftlib.config.prepare import PrepareConfig
from ftlib.config.train import TrainConfig

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
EXAMPLES = sorted(path.name.removeprefix("train-") for path in (CONFIGS / "examples").glob("train-*.yaml"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_trains_on_what_its_preparation_writes(name):
    train = load_config(TrainConfig, str(CONFIGS / "examples" / f"train-{name}"))
    prepare = load_config(PrepareConfig, str(CONFIGS / "examples" / name))
    assert train.data.path == prepare.output.path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*train*.yaml")), ids=lambda path: path.name)
def test_every_training_configuration_divides_its_batch(path):
    config = load_config(TrainConfig, str(path))
    workers, micro = config.scaling.num_workers, config.train.micro_batch_size
    assert config.gradient_accumulation * workers * micro == config.train.global_batch_size


def test_there_is_one_for_every_example():
    prepared = {path.name for path in (CONFIGS / "examples").glob("*.yaml") if not path.name.startswith("train-")}
    assert set(EXAMPLES) == prepared
