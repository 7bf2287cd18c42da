"""Fused decoder layers and their kernels against the model's own layers and PyTorch's functions."""

import random

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import rms_norm, silu

from ftlib.inference import native, stepper
from ftlib.inference.fused import FusedLayer
from ftlib.inference.slots import Segment
from ftlib.inference.stepper import Stepper
from ftlib.models.load import cpu_has_bfloat16
from tests.inference_cases import num_threads

SIZES = {
    "vocab_size": 300, "hidden_size": 128, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 512,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip


@pytest.fixture
def fresh_build(monkeypatch, tmp_path):
    """No library built yet, and none afterwards."""
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path))
    native._library.cache_clear()
    yield tmp_path / "kernels"
    native._library.cache_clear()


def _build(name, options, dtype=torch.float32):
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **options})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = getattr(transformers, f"{name}ForCausalLM")(config).eval().to(dtype)
        for key, weight in model.named_parameters():
            if "norm" in key or "bias" in key:
                torch.nn.init.normal_(weight, 0.8, 0.3)
    return model


def _traffic(seed=0, slots=5, steps=30):
    """Steps of requests that start, go on in chunks or token by token, and end."""
    generator = random.Random(seed)
    held = [0] * slots
    for _ in range(steps):
        segments = []
        for slot in generator.sample(range(slots), generator.randint(1, slots)):
            if held[slot] > 200:
                held[slot] = 0
            length = generator.choice([1, 1, 1, 2, 31, 32, 33, 70])
            segments.append(Segment(slot, held[slot], length))
            held[slot] += length
        yield segments, [generator.randrange(3, 300) for segment in segments for _ in range(segment.length)]


def _is_fused(engine):
    return all(isinstance(layer, FusedLayer) for layer in engine.model.model.layers)


FAMILY = pytest.mark.parametrize(
    "name, options",
    [
        ("Llama", {}),
        ("Llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "head_dim": 64}),
        ("Llama", {"hidden_size": 160, "num_attention_heads": 10, "num_key_value_heads": 1, "head_dim": 32}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 96}),
        ("Mistral", {"sliding_window": 50, "head_dim": 128}),
    ],
)


def _stock(model, tokenizer, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stepper, "fuse_layers", lambda model, slots: [])
        engine = Stepper(model, tokenizer, num_slots=5, capacity=300)
    assert not _is_fused(engine)
    return engine


def _errors(engine, exact):
    """Largest error of each row of logits, relative to its largest logit."""
    errors = []
    for segments, ids in _traffic():
        expected, found = (one.step(segments, ids, range(len(segments)))[0] for one in (exact, engine))
        errors.append((found - expected).abs().amax(-1) / expected.abs().amax(-1))
    return torch.cat(errors)


@FAMILY
def test_the_family_gives_what_its_own_layers_give(name, options, tokenizer, monkeypatch):
    fused = Stepper(_build(name, options), tokenizer, num_slots=5, capacity=300)
    stock = _stock(_build(name, options), tokenizer, monkeypatch)
    assert _is_fused(fused)
    assert _errors(fused, stock).max() < 2e-5


@FAMILY
def test_in_bfloat16_it_is_no_further_from_float32_than_they_are(name, options, tokenizer, monkeypatch):
    if not cpu_has_bfloat16():
        pytest.skip("this CPU multiplies no bfloat16")
    fused = Stepper(_build(name, options, torch.bfloat16), tokenizer, num_slots=5, capacity=300)
    stock = _stock(_build(name, options, torch.bfloat16), tokenizer, monkeypatch)
    exact = _stock(_build(name, options, torch.bfloat16).float(), tokenizer, monkeypatch)
    assert _is_fused(fused)
    assert _errors(fused, exact).mean() < 1.1 * _errors(stock, exact).mean()


@pytest.mark.parametrize("int8, dtype", [(False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float32)])
@pytest.mark.parametrize("name, options", [("Llama", {}), ("Qwen3", {"head_dim": 96})])
def test_layers_in_one_call_give_the_same_bits(name, options, int8, dtype, tokenizer, monkeypatch):
    kernels = native.kernels_for(dtype)
    if kernels is None or not (kernels.has_int8 if int8 else kernels.has_bfloat16):
        pytest.skip("this CPU has no products of ours")
    joined = Stepper(_build(name, options, dtype), tokenizer, num_slots=5, capacity=300, int8=int8)
    monkeypatch.setattr(stepper.JoinedLayers, "of", lambda model: None)
    apart = Stepper(_build(name, options, dtype), tokenizer, num_slots=5, capacity=300, int8=int8)
    assert joined.joined is not None and apart.joined is None
    for segments, ids in _traffic():
        found, expected = (one.step(segments, ids, range(len(segments)), True) for one in (joined, apart))
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    with num_threads(1):
        alone = joined.step(segments, ids, range(len(segments)))[0]
    with num_threads(2):
        again = joined.step(segments, ids, range(len(segments)))[0]
    assert torch.equal(again, alone)


@pytest.mark.parametrize("case", ["float32", "biases"])
def test_layers_whose_products_are_others_stay_apart(case, tokenizer):
    model = _build("Llama", {}) if case == "float32" else _build("Qwen2", {}, torch.bfloat16)
    engine = Stepper(model, tokenizer, num_slots=2, capacity=64)
    assert _is_fused(engine) and engine.joined is None


@pytest.mark.parametrize(
    "name, options", [("Llama", {"head_dim": 48}), ("Llama", {"hidden_act": "gelu"}), ("Granite", {})]
)
def test_others_keep_their_layers(name, options, tokenizer):
    assert not _is_fused(Stepper(_build(name, options), tokenizer, num_slots=2, capacity=64))


def test_a_layer_that_computes_more_than_its_name_says_is_put_back(tokenizer, caplog):
    model = _build("Llama", {})
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, arguments, output: output * 1.5)
    engine = Stepper(model, tokenizer, num_slots=2, capacity=64)
    assert not _is_fused(engine)
    assert "the model's own" in caplog.text


def test_without_a_compiler_the_model_keeps_its_layers(fresh_build, tokenizer, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert not _is_fused(Stepper(_build("Llama", {}), tokenizer, num_slots=2, capacity=64))
    assert not fresh_build.exists()


@pytest.mark.parametrize(
    "script, told",
    [
        ('echo "no such header" >&2; exit 1', "no such header"),
        ('for last; do :; done; echo nonsense > "$last"', "could not build"),
    ],
    ids=["fails", "makes what does not load"],
)
def test_a_compiler_that_does_not_do_is_told_and_done_without(
    script, told, fresh_build, tokenizer, monkeypatch, tmp_path, caplog
):
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{script}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert not _is_fused(Stepper(_build("Llama", {}), tokenizer, num_slots=2, capacity=64))
    assert told in caplog.text
    assert not [path for path in fresh_build.iterdir() if path.is_dir()]


def test_a_library_is_built_once(fresh_build):
    assert native.kernels_for(torch.float32) is not None
    (library,) = fresh_build.iterdir()
    written = library.stat().st_mtime_ns
    native._library.cache_clear()
    assert native.kernels_for(torch.bfloat16) is not None
    assert [path.stat().st_mtime_ns for path in fresh_build.iterdir()] == [written]
    assert native.kernels_for(torch.float16) is None


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("rows, width", [(1, 16), (7, 576), (130, 1536)])
def test_norm_and_gate(dtype, tolerance, rows, width):
    generator = torch.Generator().manual_seed(0)
    kernels = native.kernels_for(dtype)
    states, added = (torch.randn(1, rows, width, generator=generator).mul(30).to(dtype) for _ in range(2))
    weight = torch.randn(width, generator=generator).to(dtype)
    total = states + added
    expected = rms_norm(states.float(), (width,), weight.float(), 1e-5).to(dtype)
    torch.testing.assert_close(kernels.add_norm(states, None, weight, 1e-5), expected, rtol=tolerance, atol=tolerance)
    expected = rms_norm(total.float(), (width,), weight.float(), 1e-5).to(dtype)
    found = kernels.add_norm(states, added, weight, 1e-5)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(states, total)
    both = torch.randn(1, rows, 2 * width, generator=generator).mul(40).to(dtype)
    gate, up = both.float().chunk(2, -1)
    expected = (silu(gate) * up).to(dtype)
    torch.testing.assert_close(kernels.silu_mul(both), expected, rtol=tolerance, atol=1e-30)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("ranks", [1, 8, 11])
def test_adapters_add_their_products_to_their_own_tokens(dtype, tolerance, ranks):
    generator = torch.Generator().manual_seed(0)
    parts = [96, 32, 16]
    width, columns, ends = 48, sum(parts), np.cumsum(parts)
    a = torch.randn(4, len(parts) * ranks, width, generator=generator).to(dtype)
    b = torch.zeros(4, len(parts) * ranks, columns, dtype=dtype)
    for part, (end, size) in enumerate(zip(ends, parts, strict=True)):
        rows = slice(part * ranks, (part + 1) * ranks)
        b[:, rows, end - size : end] = torch.randn(4, ranks, size, generator=generator).to(dtype)
    x = torch.randn(300, width, generator=generator).to(dtype)
    y = torch.randn(300, columns, generator=generator).to(dtype)
    spans = np.array([(1, 0, 1), (3, 2, 9), (2, 20, 290)])
    expected = y.double()
    for index, first, last in spans:
        expected[first:last] += x[first:last].double() @ a[index].double().T @ b[index].double()
    sizes = native.AdapterSizes(width, columns, len(a[0]), len(parts), ends.ctypes.data)
    native.kernels_for(dtype).add_adapters(sizes, spans, x, a, b, y)
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
