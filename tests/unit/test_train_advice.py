"""Advice, and the refusal of what does not fit: every way that is offered fits when it is taken."""

import re

import pytest

from ftlib.config.loader import load_config
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.train import devices
from ftlib.train.advice import advise, as_text, make_advice
from ftlib.train.fit import check_fit, settings, ways_to_fit
from ftlib.train.plan import GIB, ModelShape, block_bytes, find_shape, plan_memory
from tests.prepared_data import small_prepared
from tests.unit.test_train_plan import A100

LLAMA_8B = find_shape("llama-3.1-8b")


def make_config(*overrides, name="llama-8b-lora"):
    return load_config(TrainConfig, str(A100 / f"{name}.yaml"), overrides)


def counts(rows=12_000, tokens=8_000_000, share=0.2, **more):
    base = {"num_rows": rows, "num_rows_read": rows, "num_unsupervised": 0, "num_tokens": tokens}
    steps = -(-2 * tokens // (4096 * 32))
    return base | {
        "supervised_share": share, "num_steps": steps, "fill": 1.0, "num_labels": 0, "rarest_label_rows": 0,
    } | more  # fmt: skip


# ---- what does not fit


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("llama-8b-lora", ["scaling.accelerator_type=A10G", "train.activation_checkpointing=false"]),
        (
            "llama-8b-lora",
            ["train.micro_batch_size=4", "train.chunked_loss=false", "train.activation_checkpointing=false"],
        ),
        ("llama-8b-full-zero3", ["scaling.num_workers=1"]),
        ("llama-8b-full-zero3", ["parallel.strategy=ddp"]),
        ("llama-70b-qlora", ["method.kind=full"]),
    ],
)
def test_refusal_offers_ways_that_fit_when_they_are_taken(name, overrides):
    config = make_config(*overrides, name=name)
    shape = find_shape(config.model.source)
    with pytest.raises(UserError, match=r"no memory: each worker needs about .* GiB \([a-z]+ [0-9]") as error:
        check_fit(config, shape)
    ways = ways_to_fit(config, shape)
    assert 1 <= len(ways) <= 3
    assert str(error.value).count("→") == len(ways)
    for way, plan in ways:
        changed = make_config(*overrides, *settings(way).split(), name=name)
        check_fit(changed, shape)
        assert plan_memory(changed, shape) == plan
        assert f"{settings(way)} → {plan.total_bytes / GIB:.1f} GiB" in str(error.value)


def test_three_ways_are_the_rule_and_no_two_are_the_same():
    config = make_config("train.micro_batch_size=4", "train.chunked_loss=false", "train.activation_checkpointing=false")
    ways = [settings(way) for way, _ in ways_to_fit(config, LLAMA_8B)]
    assert len(set(ways)) == 3
    assert ways[0] == "train.activation_checkpointing=true"


def test_what_fits_is_unknown_or_must_not_be_checked_passes():
    check_fit(make_config(), LLAMA_8B)
    check_fit(make_config("scaling.accelerator_type=null", "method.kind=full", "cluster.address=auto"), LLAMA_8B)
    check_fit(make_config("scaling.accelerator_type=A10G", "method.kind=full", "train.check_memory=false"), LLAMA_8B)


def test_workers_on_cpus_share_the_hosts_memory(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cpu = ["scaling.use_gpu=false", "scaling.accelerator_type=null"]
    plans = [plan_memory(make_config(*cpu, f"scaling.num_workers={count}"), LLAMA_8B) for count in (1, 4)]
    assert [plan.device_bytes for plan in plans] == [devices.host_memory_bytes() // count for count in (1, 4)]
    assert plan_memory(make_config(*cpu, "cluster.address=auto"), LLAMA_8B).device_bytes is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert plan_memory(make_config(*cpu), LLAMA_8B).device_bytes is None


def test_host_knows_its_memory_and_arithmetic():
    import torch

    from ftlib.models.load import pick_dtype

    assert devices.host_memory_bytes() > 0
    assert devices.host_has_bfloat16() == (pick_dtype("auto", "cpu") is torch.bfloat16)


# ---- advice


def test_few_rows_are_for_the_prompt_and_rare_labels_are_named():
    assert make_advice(make_config(), LLAMA_8B, counts(rows=49))["tune"] is False
    advice = make_advice(make_config(), LLAMA_8B, counts(rows=50, num_labels=3, rarest_label_rows=15))
    assert advice["tune"] is True
    assert any("rarest of 3 labels has 15 rows" in reason for reason in advice["reasons"])


@pytest.mark.parametrize(("supervised", "rank"), [(10_000, 8), (60_000_000, 16), (600_000_000, 128)])
def test_rank_is_the_smallest_that_holds_the_supervised_tokens(supervised, rank):
    advice = make_advice(make_config("advice.max_hours=10000"), LLAMA_8B, counts(tokens=supervised, share=1.0))
    assert (advice["method"], advice["rank"]) == ("lora", rank)
    assert 2 * LLAMA_8B.num_adapter_params(rank) >= supervised
    assert rank == 8 or 2 * LLAMA_8B.num_adapter_params(rank // 2) < supervised


def test_more_data_than_adapters_hold_asks_for_full_tuning():
    config = make_config("advice.max_hours=100000")
    advice = make_advice(config, LLAMA_8B, counts(tokens=2_000_000_000, share=1.0))
    assert (advice["method"], advice["rank"]) == ("full", None)


def test_base_too_large_for_the_gpu_is_quantised():
    config = make_config("advice.gpu=A100-80G", name="llama-70b-qlora")
    assert make_advice(config, find_shape(config.model.source), counts())["method"] == "qlora"


def test_hours_follow_from_operations_and_tighter_budgets_take_more_hardware():
    config = make_config("advice.gpu=A100-80G", "advice.mfu=0.5")
    advice = make_advice(config, LLAMA_8B, counts())
    computed = LLAMA_8B.num_linear_params + LLAMA_8B.vocab * LLAMA_8B.hidden
    steps = counts()["num_steps"]
    tokens = steps * config.train.global_batch_size * config.train.max_seq_len
    per_token = 6 if "activation_checkpointing=true" in advice["overrides"] else 4
    expected = per_token * computed * tokens / (advice["num_gpus"] * 312e12 * 0.5) / 3600
    assert advice["hours"] == pytest.approx(expected, abs=0.01)
    hurried = make_advice(make_config("advice.gpu=A100-80G", "advice.max_hours=0.2"), LLAMA_8B, counts())
    assert hurried["num_gpus"] > advice["num_gpus"] and hurried["hours"] <= 0.2
    hopeless = make_advice(make_config("advice.gpu=A10G", "advice.max_hours=0.01"), LLAMA_8B, counts())
    assert not hopeless["within_budget"]


def test_settings_that_are_advised_fit():
    advice = make_advice(make_config(), LLAMA_8B, counts())
    assert plan_memory(make_config(*advice["overrides"].split()), LLAMA_8B).fits


def test_latency_is_compared_with_reading_the_weights():
    slow, fast = (
        make_advice(make_config("advice.gpu=A100-80G", f"advice.latency_ms={wanted}"), LLAMA_8B, counts())["reasons"][
            -1
        ]
        for wanted in (7, 9)
    )
    assert "at least 7.9 ms on one A100-80G, which cannot keep advice.latency_ms 7" in slow
    assert "which keeps advice.latency_ms 9" in fast


def test_nothing_that_fits_is_an_error():
    config = make_config("advice.gpu=L4", "advice.max_gpus=1", name="llama-70b-qlora")
    with pytest.raises(UserError, match=r"no method fits advice.max_gpus 1 of L4"):
        make_advice(config, find_shape(config.model.source), counts())


def test_advice_reads_data_and_model_from_disk(tmp_path, tiny_model, capsys):
    small_prepared(tmp_path / "data")
    config = TrainConfig.model_validate(
        {
            "data": {"path": str(tmp_path / "data")},
            "model": {"source": str(tiny_model)},
            "output": {"path": "none"},
            "train": {"max_seq_len": 128},
            "advise": True,
        }
    )
    advice = advise(config)
    page = capsys.readouterr().out
    assert page == as_text(advice) + "\n"
    assert re.search(r"Tune: not yet\nMethod: lora, rank 8\nHardware: 1 × \w+, about", page)
    assert advice["reasons"][0].startswith("40 rows teach something")


# ---- the shape of the plan on CPUs


def smol(**changes):
    shape = ModelShape(hidden=576, layers=30, heads=9, kv_heads=3, intermediate=1536, vocab=49_152, tied=True)
    base = {"data": {"path": "d"}, "model": {"source": "m"}, "output": {"path": "o"}, "parallel": {"strategy": "ddp"}}
    return plan_memory(TrainConfig.model_validate(base | changes), shape), shape


def test_chunked_loss_does_not_grow_with_the_vocabulary_times_the_length():
    long, short = (
        smol(train={"max_seq_len": length, "precision": "float32"})[0].logits_bytes for length in (2048, 1024)
    )
    every, shape = smol(train={"max_seq_len": 2048, "precision": "float32", "chunked_loss": False})
    assert every.logits_bytes == 8 * 2048 * shape.vocab
    assert long - short == 1024 * shape.hidden * 4 * 2
    assert long < 0.15 * every.logits_bytes


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bytes_kept_by_a_layer_are_those_that_autograd_saves(kind, precision):
    """Oracle: the storages that the backward pass holds, counted; differences of length and depth leave one layer."""
    shape = ModelShape(hidden=96, layers=1, heads=6, kv_heads=2, intermediate=256, vocab=64, tied=True)
    base = {"data": {"path": "d"}, "model": {"source": "m"}, "output": {"path": "o"}, "parallel": {"strategy": "ddp"}}
    base |= {"method": {"kind": kind, "rank": 4}, "train": {"precision": precision}}
    config = TrainConfig.model_validate(base)
    long, short = (
        saved_bytes(kind, precision, shape, layers=2, length=length)
        - saved_bytes(kind, precision, shape, layers=1, length=length)
        for length in (96, 32)
    )
    assert block_bytes(config, shape) == pytest.approx((long - short) / 64, rel=0.02)


def saved_bytes(kind, precision, shape, layers, length):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftlib.models.adapt import AdapterSpec, add_adapter
    from ftlib.train.attention import use_packed_attention

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
            num_hidden_layers=layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        )
    )  # fmt: skip
    mixed = precision == "bfloat16"
    model = model.to(torch.bfloat16) if mixed and kind == "lora" else model
    use_packed_attention(model, torch.device("cpu"))
    model = (add_adapter(model, AdapterSpec(rank=4)) if kind == "lora" else model).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    ids, places = torch.zeros((1, length), dtype=torch.long), torch.arange(length)[None]
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        model(input_ids=ids, position_ids=places, use_cache=False, sequence_lengths=[[length]]).logits.sum()
    return sum(storage.nbytes() for storage in saved.values())
