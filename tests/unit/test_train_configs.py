"""The shipped training configurations load, divide their batch, and read what their prepare configuration writes."""

from pathlib import Path

import pytest

from ftlib.config.loader import load_config, validate
from ftlib.config.prepare import PrepareConfig
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.train.plan import ModelShape, plan_memory

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


ZERO3 = {"strategy": "deepspeed", "zero_stage": 3}


def config(**sections) -> TrainConfig:
    """Four workers with ZeRO-3."""
    values = {"data": {"path": "d"}, "model": {"source": "m"}, "output": {"path": "o"}, "parallel": ZERO3}
    return validate(TrainConfig, values | {"scaling": {"num_workers": 4}} | sections)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"scaling": {"num_workers": 3}}, "16 cannot be divided among scaling.num_workers 3"),
        ({"scaling": {"num_workers": 4, "min_workers": 8}}, "min_workers 8 is above"),
        ({"train": {"early_stopping_patience": 2}}, "counts validations"),
        ({"train": {"compile": True}}, "train.compile: ZeRO-3"),
        ({"parallel": ZERO3 | {"hpz_partition_size": 3}}, "hpz_partition_size 3"),
        ({"parallel": {"strategy": "ddp", "hpz_partition_size": 2}}, "hpz_partition_size 2"),
        ({"train": {"precision": "float16"}}, r"train\.precision float16 needs parallel\.strategy ddp"),
        ({"parallel": {"strategy": "ddp", "offload_params": True}}, "offload_params needs"),
        ({"method": {"init": "pissa"}}, "method.init pissa"),
        ({"method": {"kind": "full", "use_dora": True}}, "method.use_dora"),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_refused_with_its_reason(sections, reason):
    with pytest.raises(UserError, match=reason):
        config(**sections)


def test_a_second_copy_of_the_weights_is_planned_for():
    shape = ModelShape(hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14336, vocab=128256)
    plain, second = (
        plan_memory(
            config(parallel=ZERO3 | {"hpz_partition_size": size}, scaling={"num_workers": 4, "use_gpu": True}), shape
        )
        for size in (1, 2)
    )
    assert second.weights_bytes - plain.weights_bytes == pytest.approx(shape.num_params, rel=0.02)  # half of 2 bytes
