"""The training loop on a GPU, in one plain process: what it computes is what the CPU computes, in less memory."""

import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ftlib.core.errors import UserError
from ftlib.data.pack import PackedSplit
from ftlib.models.adapt import AdapterSpec
from ftlib.models.load import load_model
from ftlib.train import head
from ftlib.train.attention import set_attention
from ftlib.train.batches import Forward, collate
from ftlib.train.head import find_loss_head
from ftlib.train.loop import train
from ftlib.train.strategy import SingleProcess
from tests.gpu.cases import write_llama, write_packs
from tests.training_cases import loop_settings, records

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.05, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def case(device, tmp_path_factory):
    """Settings of six float32 steps of two micro-batches of two packs, and their records on the device."""
    root = tmp_path_factory.mktemp("gpu")
    model = write_llama(root / "model", CPU, **SIZES)
    lengths = np.random.default_rng(3).integers(20, 120, 40).tolist()
    data = write_packs(root / "train", lengths, 256, SIZES["vocab_size"], learnt=0.6)
    val = write_packs(root / "val", lengths[:8], 256, SIZES["vocab_size"], seed=1)
    settings = loop_settings(root / "run", model, data, val, adapter=AdapterSpec(rank=8), micro_batch_size=2)
    return settings, run(settings, device)


def run(settings, device):
    """Records of a run's steps and its outcome."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    outcome = train(settings, SingleProcess(device))
    assert outcome.status == "finished"
    return records(settings.run_dir, "train"), outcome


def changed(case, name, device, **changes):
    """A run like the case's but for some settings."""
    settings = case[0]
    return run(replace(settings, run_dir=settings.run_dir.with_name(name), **changes), device)


def assert_alike(found, expected, rel):
    for key in ("loss", "grad_norm"):
        assert [record[key] for record in found[0]] == pytest.approx([record[key] for record in expected[0]], rel=rel)
    assert found[1].val_loss == pytest.approx(expected[1].val_loss, rel=rel)


def test_losses_equal_those_of_the_cpu(case):
    assert_alike(changed(case, "cpu", CPU), case[1], rel=2e-4)


def test_full_training_equals_that_of_the_cpu(case, device):
    found = changed(case, "full", device, kind="full")
    assert_alike(found, changed(case, "full-cpu", CPU, kind="full"), rel=1e-3)


def test_bfloat16_is_close(case, device):
    found = changed(case, "bf16", device, precision=torch.bfloat16)
    assert [record["loss"] for record in found[0]] == pytest.approx([r["loss"] for r in case[1][0]], rel=1e-2)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_activation_checkpointing_changes_no_loss(case, device, precision):
    name = f"plain-{precision}", f"recompute-{precision}"
    plain = changed(case, name[0], device, precision=precision)
    assert_alike(changed(case, name[1], device, precision=precision, activation_checkpointing=True), plain, rel=1e-4)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_loss_inside_the_output_layer_equals_that_of_all_logits(case, device, kind, monkeypatch):
    monkeypatch.setattr(head, "GPU_CHUNK_BYTES", 1)  # several chunks also on a GPU
    plain = changed(case, f"plain-{kind}", device, kind=kind, chunked_loss=False)
    assert_alike(changed(case, f"chunked-{kind}", device, kind=kind), plain, rel=1e-4)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_resumed_run_ends_like_an_undisturbed_one(case, device, kind):
    whole = changed(case, f"whole-{kind}", device, kind=kind)
    folder = case[0].run_dir.with_name(f"whole-{kind}")
    shutil.copytree(folder, folder.with_name(f"resumed-{kind}"))
    shutil.rmtree(folder.with_name(f"resumed-{kind}") / "checkpoints" / "step-6")
    assert_alike(changed(case, f"resumed-{kind}", device, kind=kind), whole, rel=1e-5)


@pytest.mark.parametrize("choice", ["auto", "sdpa", "eager", "varlen", "flash_attention_2"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_sequences_of_a_pack_do_not_see_each_other(case, device, choice, precision):
    flash = choice in {"varlen", "flash_attention_2"}
    if flash and (device.type != "cuda" or precision is torch.float32):
        pytest.skip("flash attention needs a CUDA device and half precision")
    if choice == "flash_attention_2" and not find_spec("flash_attn"):
        pytest.skip("flash-attn is not installed")
    model = load_model(case[0].model_folder, precision, device).train()
    split = PackedSplit(case[0].train_data)
    packs = [split[0], split[len(split) - 1]]
    alone = [collate([pack.only(number)], 0, device) for pack in packs for number in range(pack.num_sequences)]
    assert len(alone) > 4
    plain, expected = Forward(model), None
    for batch in alone:  # before the switch, so with PyTorch's attention of one sequence
        loss = plain.loss(batch)
        loss.backward()
        expected = loss.detach() + (expected if expected is not None else 0.0)
    gradients = take_gradients(model)
    forward = Forward(model, pack_hint=set_attention(model, choice, device, precision))
    loss = forward.loss(collate(packs, 0, device))
    loss.backward()
    rel = 1e-4 if precision is torch.float32 else 1e-2
    assert loss.item() == pytest.approx(expected.item(), rel=rel)
    for name, gradient in take_gradients(model).items():
        distance = (gradient - gradients[name]).norm() / gradients[name].norm()
        assert distance < (1e-4 if precision is torch.float32 else 5e-2), name


def take_gradients(model):
    found = {name: parameter.grad.float() for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("choice", ["varlen", "flash_attention_2"])
def test_flash_attention_in_float32_is_refused(case, device, choice):
    model = load_model(case[0].model_folder, torch.float32, device)
    with pytest.raises(UserError, match=f"train.attention {choice}"):
        set_attention(model, choice, device, torch.float32)


def test_varlen_trains_like_the_mask(case, only_gpu):
    masked = changed(case, "masked", only_gpu, precision=torch.bfloat16)
    found = changed(case, "varlen", only_gpu, precision=torch.bfloat16, attention="varlen")
    assert [record["loss"] for record in found[0]] == pytest.approx([r["loss"] for r in masked[0]], rel=5e-3)


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers_change_no_loss(case, only_gpu, recompute):
    name = f"compiled-{recompute}"
    found = changed(case, name, only_gpu, compile=True, activation_checkpointing=recompute)
    assert_alike(found, case[1], rel=2e-4)


def test_nothing_waits_for_the_device_in_a_micro_batch(case, only_gpu):
    model = load_model(case[0].model_folder, torch.bfloat16, only_gpu)
    split = PackedSplit(case[0].train_data)
    forward = Forward(model, find_loss_head(model), set_attention(model, "varlen", only_gpu, torch.bfloat16))
    total = torch.zeros((), device=only_gpu)
    for attempt in range(2):  # first kernels are loaded, then nothing may wait
        torch.cuda.set_sync_debug_mode("error" if attempt else "default")
        try:
            loss = forward.loss(collate([split[0], split[1]], 0, only_gpu))
            loss.backward()
            total += loss.detach()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(total)


def test_loss_inside_the_output_layer_needs_less_memory(tmp_path, only_gpu):
    sizes = SIZES | {"vocab_size": 32_768, "max_position_embeddings": 8192}
    model = load_model(write_llama(tmp_path / "model", only_gpu, **sizes), torch.bfloat16, only_gpu).train()
    model.requires_grad_(False)
    model.enable_input_require_grads()
    data = write_packs(tmp_path / "data", [8192], 8192, sizes["vocab_size"])
    batch = collate([PackedSplit(data)[0]], 0, only_gpu)
    peaks = []
    for loss_head in (None, find_loss_head(model)):
        torch.cuda.reset_peak_memory_stats(only_gpu)
        before = torch.cuda.memory_allocated(only_gpu)
        Forward(model, loss_head).loss(batch).backward()
        peaks.append(torch.cuda.max_memory_allocated(only_gpu) - before)
    assert peaks[1] < 0.6 * peaks[0], peaks
