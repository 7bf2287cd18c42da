"""DDP, private DDP and ZeRO 1–3 on two ranks do what one process does: losses, weights, resume at another world size.

The ranks are plain processes: what Ray Train adds is tested in test_training.py.
"""

import shutil
import socket
import traceback
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ftlib.train.budget import PrivacySettings
from ftlib.train.objectives import ObjectiveSettings
from tests.training_cases import (
    conversations,
    loop_settings,
    packed_split,
    preferences,
    private_split,
    records,
    train_alone,
)  # fmt: skip

CASES = {
    "ddp": ("lora", 0),
    "zero1": ("lora", 1),
    "zero2": ("lora", 2),
    "zero3": ("lora", 3),
    "full-zero2": ("full", 2),
    "full-zero3": ("full", 3),
    "hpz-zero3": ("full", 3),
    "float16-ddp": ("float16", 0),
    "methods-ddp": ("methods", 0),
    "methods-zero2": ("methods", 2),
    "lora-plus-zero3": ("lora-plus", 3),
    "resumed-zero2": ("lora", 2),
    "resumed-zero3": ("lora", 3),
    "dpo-ddp": ("dpo", 0),  # three micro-batches on two ranks
    "kto-zero3": ("kto", 3),
    "private": ("private", 0),
    "resumed-private": ("private", 0),
}


def run_rank(rank, world_size, port, settings, failures):
    """One rank of every case, in one process: imports cost more than the training."""
    import os

    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    import torch.distributed as dist

    from ftlib.train.deepspeed import DeepSpeedZero, ZeroSettings
    from ftlib.train.loop import train
    from ftlib.train.private import PrivateDataParallel
    from ftlib.train.strategy import DataParallel

    dist.init_process_group("gloo")
    try:
        for name, (_, stage) in CASES.items():
            device = torch.device("cpu")
            zero = ZeroSettings(stage, hpz_partition_size=2 if name.startswith("hpz") else 1)
            strategy = DeepSpeedZero(device, zero, 1) if stage else DataParallel(device)
            privacy = settings[name].privacy
            train(settings[name], PrivateDataParallel(device, privacy) if privacy else strategy)
    except Exception:
        failures.put(f"rank {rank}, {name}: {traceback.format_exc()}")
        raise


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model, tokenizer):
    """Folders of all cases, run on two ranks, and of the same runs in one process."""
    root = tmp_path_factory.mktemp("strategies")
    data = packed_split(root / "train", tokenizer, 40)
    val = packed_split(root / "val", tokenizer, 9, seed=1)
    units = private_split(root / "units", tokenizer, [row | {"weight": None} for row in conversations(40)])
    privacy = PrivacySettings(8.0, 1e-4, 1.0, sample_rate=0.1, num_units=40, total_steps=6, accountant="rdp", seed=3)

    def case(name, kind):
        settings = loop_settings(root / name, tiny_model, data, val)
        if kind == "private":
            return replace(settings, train_data=units, privacy=privacy)
        # Of 49,152 embedding rows most get gradients of rounding size; a larger epsilon keeps Adam from magnifying it.
        if kind in preferred:
            folders = {"train_data": preferred[kind], "val_data": preferred[kind]}
            return replace(settings, objective=ObjectiveSettings(kind), batch_size=3 if kind == "dpo" else 4, **folders)
        options = replace(settings.optimizer, eps=1e-4) if kind == "full" else settings.optimizer
        settings = replace(settings, kind="full" if kind == "full" else "lora", optimizer=options)
        if kind == "float16":
            return replace(settings, precision=torch.float16)
        spec = settings.adapter
        if kind == "lora-plus":
            settings = replace(settings, optimizer=replace(options, lora_plus_ratio=8.0), neftune_alpha=5.0)
        if kind == "methods":
            settings = replace(
                settings, adapter=replace(spec, init="pissa", use_dora=True), new_tokens=("refund card",)
            )
        return settings

    preferred = {
        kind: packed_split(root / kind, tokenizer, 8, rows=preferences, objective=kind) for kind in ("dpo", "kto")
    }
    settings = {name: case(name, kind) for name, (kind, _) in CASES.items()}
    alone = {kind: case(f"alone-{kind}", kind) for kind in dict(CASES.values())}
    for one in alone.values():
        train_alone(one)
    for name, spread in settings.items():
        spread.run_dir.mkdir()
        if name.startswith("resumed"):  # three steps of one process, three of two ranks
            shutil.copytree(alone[CASES[name][0]].run_dir, spread.run_dir, dirs_exist_ok=True)
            shutil.rmtree(spread.run_dir / "checkpoints" / "step-6")
            shutil.rmtree(spread.run_dir / "adapter")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    failures = torch.multiprocessing.get_context("spawn").Queue()
    ranks = torch.multiprocessing.spawn(run_rank, (2, port, settings, failures), nprocs=2, join=False)
    try:
        while not ranks.join(timeout=120):
            assert failures.empty()
    except Exception:
        pytest.fail(failures.get() if not failures.empty() else "a rank died")
    return root


@pytest.mark.parametrize("name", [name for name, (kind, _) in CASES.items() if kind != "float16"])
def test_two_ranks_equal_one_process(runs, name):
    kind, _ = CASES[name]
    alone, spread = runs / f"alone-{kind}", runs / name
    # DeepSpeed sums the squares of a norm in float64, torch in float32: 1e-4 apart on a million gradients.
    for record_kind, field, tolerance in (
        ("train", "loss", 1e-5),
        ("val", "val_loss", 1e-5),
        ("train", "grad_norm", 2e-4),
    ):
        expected = [record[field] for record in records(alone, record_kind)]
        assert [record[field] for record in records(spread, record_kind)] == pytest.approx(expected, rel=tolerance)
    result = "model/model.safetensors" if kind == "full" else "adapter/adapter_model.safetensors"
    expected, found = load_file(alone / result), load_file(spread / result)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=2e-5)


def test_two_ranks_in_float16_equal_one_process_within_its_rounding(runs):
    alone, spread = (records(runs / name, "train") for name in ("alone-float16", "float16-ddp"))
    for field in ("loss", "grad_norm"):
        assert [row[field] for row in spread] == pytest.approx([row[field] for row in alone], rel=0.02)
    moved = [
        load_file(runs / name / "checkpoints/step-6/state-00000.safetensors")
        for name in ("alone-float16", "float16-ddp")
    ]
    assert moved[0]["loss_scale/scale"] == moved[1]["loss_scale/scale"]


def test_adam_state_is_gathered_whole(runs):
    """Moments, not only weights, are equal in a checkpoint: else a resume would drift later."""
    for name in ("zero1", "zero2", "zero3"):
        expected = load_file(runs / "alone-lora" / "checkpoints" / "step-6" / "state-00000.safetensors")
        found = load_file(runs / name / "checkpoints" / "step-6" / "state-00000.safetensors")
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=2e-5)


def test_full_model_of_zero3_loads_in_transformers_alone(runs):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = runs / "full-zero3" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "invoice refund"}], add_generation_prompt=True, return_tensors="pt"
    )
    reference = AutoModelForCausalLM.from_pretrained(runs / "alone-full" / "model", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(
            model(prompt["input_ids"]).logits, reference(prompt["input_ids"]).logits, rtol=1e-3, atol=1e-3
        )
