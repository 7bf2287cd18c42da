"""The choice of an attention for packs: what is refused, what each is told, and that all give one loss."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.data.pack import Pack
from ftlib.train.attention import by_bounds, by_lengths, set_attention
from ftlib.train.batches import Forward, collate
from ftlib.train.compile import compile_layers

CPU = torch.device("cpu")


def small_model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.2,
        )
    )  # fmt: skip


def pack(*lengths):
    rng = np.random.default_rng(sum(lengths))
    positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    ids = rng.integers(0, 61, len(positions)).astype(np.int32)
    return Pack(ids, positions, (positions > 0).astype(np.float32))


@pytest.mark.parametrize(("choice", "compiled"), [("auto", False), ("auto", True), ("sdpa", False), ("eager", False)])
def test_every_attention_keeps_the_sequences_of_rows_apart(choice, compiled):
    packs, model = [pack(5, 9), pack(3, 4, 2)], small_model()
    with torch.no_grad():
        alone = [collate([row.only(number)], 0, CPU) for row in packs for number in range(row.num_sequences)]
        expected = sum(float(Forward(model).loss(batch)) for batch in alone)
        hint = set_attention(model, choice, CPU, torch.float32, compiled=compiled)
        assert hint is (by_lengths if choice == "auto" and not compiled else None)
        found = Forward(model, pack_hint=hint).loss(collate(packs, 0, CPU))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_flash_attention_is_told_the_bounds_of_all_rows():
    batch = collate([pack(5, 9), pack(3, 4)], 0, CPU)  # the second row is padded by seven
    hints = by_bounds(batch.sequence_lengths, CPU)
    assert hints["cu_seq_lens_q"].tolist() == [0, 5, 14, 17, 21, 28] and hints["max_length_k"] == 9
    assert hints["cu_seq_lens_k"].dtype == torch.int32


@pytest.mark.parametrize("choice", ["varlen", "flash_attention_2"])
def test_flash_attention_without_a_gpu_is_refused(choice):
    with pytest.raises(UserError, match=f"train.attention {choice} needs a CUDA device"):
        set_attention(small_model(), choice, CPU, torch.bfloat16)


def test_compiling_is_refused_where_it_cannot_work():
    with pytest.raises(UserError, match=r"train\.compile: Linear"):
        compile_layers(torch.nn.Linear(2, 2))
    values = {"data": {"path": "d"}, "model": {"source": "m"}, "output": {"path": "o"}, "train": {"compile": True}}
    assert TrainConfig.model_validate(values).train.compile
    with pytest.raises(ValidationError, match=r"train\.compile: ZeRO-3"):
        TrainConfig.model_validate(values | {"parallel": {"zero_stage": 3}})
