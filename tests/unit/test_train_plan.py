"""The dry plan of a run: parameter counts against published ones, and what each switch saves."""

from pathlib import Path

import pytest

from ftlib.config.loader import load_config
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.train.plan import GIB, SHAPES, ZERO3_LIVE_BYTES, ModelShape, find_shape, plan_memory

A100 = Path(__file__).parents[2] / "jobs" / "configs" / "a100"
EXPECTED_GIB = {"llama-8b-lora": 24, "llama-8b-full-zero3": 18, "llama-70b-qlora": 53}


def _plan(name: str, *overrides: str):
    config = load_config(TrainConfig, str(A100 / f"{name}.yaml"), overrides)
    shape = find_shape(config.model.source)
    assert shape is not None
    return plan_memory(config, shape)


def test_every_shipped_a100_config_is_planned_here() -> None:
    assert {path.stem for path in A100.glob("*.yaml")} == EXPECTED_GIB.keys()


@pytest.mark.parametrize("name", EXPECTED_GIB)
def test_a100_configs_fit_with_the_memory_that_their_comment_says(name: str) -> None:
    plan = _plan(name)
    assert plan.fits
    assert plan.total_bytes / GIB == pytest.approx(EXPECTED_GIB[name], rel=0.03)
    assert f"about {EXPECTED_GIB[name]} GiB" in (A100 / f"{name}.yaml").read_text()


def test_parameter_counts_are_the_published_ones() -> None:
    assert SHAPES["llama-3.1-8b"].num_params == 8_030_261_248
    assert SHAPES["llama-3.1-70b"].num_params == 70_553_706_496
    smol = ModelShape(hidden=576, layers=30, heads=9, kv_heads=3, intermediate=1536, vocab=49_152, tied=True)
    assert smol.num_params == 134_515_008
    assert smol.num_adapter_params(16) == 4_884_480  # what PEFT counts for r=16 on all-linear


def test_full_tuning_states_are_sixteen_bytes_a_parameter_divided_by_the_stage() -> None:
    n = SHAPES["llama-3.1-8b"].num_params

    def states(stage: int) -> int:
        plan = _plan("llama-8b-full-zero3", f"parallel.zero_stage={stage}")
        return plan.weights_bytes + plan.gradients_bytes + plan.optimizer_bytes

    assert states(0) == 16 * n
    assert states(1) == 4 * n + 12 * n // 16
    assert states(2) == 2 * n + 2 * n // 16 + 12 * n // 16
    assert states(3) == pytest.approx(16 * n / 16 + ZERO3_LIVE_BYTES, rel=1e-6)


def test_offloading_moves_bytes_to_the_host() -> None:
    on_gpu = _plan("llama-8b-full-zero3")
    offloaded = _plan("llama-8b-full-zero3", "parallel.offload_optimizer=true")
    assert offloaded.optimizer_bytes == 0
    assert offloaded.host_bytes == on_gpu.optimizer_bytes


def test_checkpointing_and_fewer_bits_save_memory() -> None:
    plain = _plan("llama-8b-lora", "train.activation_checkpointing=false")
    assert plain.activations_bytes > 10 * _plan("llama-8b-lora").activations_bytes
    assert _plan("llama-70b-qlora").weights_bytes < 0.31 * _plan("llama-70b-qlora", "method.kind=lora").weights_bytes


def test_private_training_holds_a_gradient_per_sequence() -> None:
    options = ("parallel.strategy=ddp", "data.packing=false", "train.activation_checkpointing=false")
    options += ("train.micro_batch_size=1", "scaling.num_workers=1")
    plain, private = _plan("llama-8b-lora", *options), _plan("llama-8b-lora", *options, "privacy.epsilon=8")
    assert private.gradients_bytes - plain.gradients_bytes == 16 * plain.num_trained_params


def test_what_does_not_fit_says_so_and_what_cannot_be_is_refused() -> None:
    assert _plan("llama-70b-qlora", "method.kind=full").fits is False
    assert _plan("llama-8b-lora", "scaling.accelerator_type=null").fits is None
    with pytest.raises(UserError, match="max_seq_len 200000"):
        _plan("llama-8b-lora", "train.max_seq_len=200000")
    with pytest.raises(UserError, match=r"rank 2048 is above the smallest layer's side 1024"):
        _plan("llama-8b-lora", "method.rank=2048")
    with pytest.raises(UserError, match="cannot be planned"):
        ModelShape.from_config({"hidden_size": 8})
