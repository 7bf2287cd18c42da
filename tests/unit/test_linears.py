"""Linear layers laid out for inference: the same products, in fewer and faster calls."""

import ctypes

import pytest
import torch
from torch import nn

from ftlib.inference import linears, native
from ftlib.inference.linears import (
    Int8Linear,
    NativeInt8Linear,
    NativeLinear,
    PackedLinear,
    SharedLinear,
    finding_siblings,
    lay_out_linears,
)
from ftlib.models.load import cpu_has_bfloat16
from tests.inference_cases import num_threads


class Block(nn.Module):
    """Two layers read one input, a third another."""

    def __init__(self, dtype=torch.float32, biases=(True, True)):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(8, 64, dtype=dtype)
        self.left = nn.Linear(64, 32, bias=biases[0], dtype=dtype)
        self.right = nn.Linear(64, 96, bias=biases[1], dtype=dtype)
        self.out = nn.Linear(32, 64, dtype=dtype)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, x):
        left, right = self.left(x), self.right(x)
        return self.out(left) + right[..., :64] + right[..., 32:]


def laid_out(block, x, int8=False):
    with torch.inference_mode():
        with finding_siblings(block) as siblings:
            block(x)
        lay_out_linears(block, siblings, int8)
    return siblings


@pytest.fixture(params=["float32", "bfloat16", "bfloat16 without kernels"])
def dtype(request, monkeypatch):
    name, _, without = request.param.partition(" ")
    if name == "bfloat16" and not cpu_has_bfloat16():
        pytest.skip("this CPU has no bfloat16 arithmetic")
    if without:
        monkeypatch.setattr(linears, "kernels_for", lambda dtype: None)
    monkeypatch.setattr(PackedLinear, "SMALLEST_FLOAT32", 1)
    return getattr(torch, name)


def laid_out_kind(dtype):
    kernels = linears.kernels_for(dtype)
    return NativeLinear if kernels is not None and kernels.has_bfloat16 else PackedLinear


@torch.inference_mode()
def test_layers_that_read_one_input_share_a_product(dtype):
    block, x = Block(dtype), torch.randn(1, 5, 64, dtype=dtype)
    expected, weights = block(x), [block.left.weight.clone(), block.right.weight.clone()]
    assert [names for _, names in laid_out(block, x)] == [["left", "right"]]
    assert isinstance(block.left, SharedLinear) and isinstance(block.out, laid_out_kind(dtype))
    close(block(x), expected)
    other = torch.randn(1, 3, 64, dtype=dtype)
    assert not torch.equal(block(other)[0, 0], block(x)[0, 0])
    assert torch.equal(block.left.weight, weights[0]) and torch.equal(block.right.weight, weights[1])
    assert block.left.bias.shape == (32,) and (block.right.in_features, block.right.out_features) == (64, 96)


@torch.inference_mode()
def test_a_part_may_be_asked_twice_alone_or_for_another_input(dtype):
    block, plain, x = Block(dtype), Block(dtype), torch.randn(1, 5, 64, dtype=dtype)
    laid_out(block, x)
    block.left(x).zero_()  # as adapters write into their part
    close(block.left(x), plain.left(x))
    y = x + 1
    close(block.right(y), plain.right(y))
    close(block.right(x), plain.right(x))


def close(found, expected):
    tolerance = 1e-5 if found.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@torch.inference_mode()
def test_layers_of_which_some_have_a_bias_stay_apart(dtype):
    block = Block(dtype, (True, False))
    laid_out(block, torch.randn(1, 5, 64, dtype=dtype))
    assert isinstance(block.left, laid_out_kind(dtype))


@torch.inference_mode()
def test_small_float32_layers_stay_as_they_are():
    block = Block()
    laid_out(block, torch.randn(1, 5, 64))
    assert type(block.left) is nn.Linear


def _kernels(dtype=torch.float32):
    kernels = native.kernels_for(dtype)
    if kernels is None or not (kernels.has_bfloat16 if dtype == torch.bfloat16 else kernels.has_int8):
        pytest.skip("this CPU has no products of ours")
    return kernels


@pytest.mark.parametrize("kind", [Int8Linear, NativeInt8Linear])
@torch.inference_mode()
def test_int8_scales_each_token_by_itself(kind, monkeypatch):
    if kind is Int8Linear:
        monkeypatch.setattr(linears, "kernels_for", lambda dtype: None)
    else:
        _kernels()
    block, x = Block(), torch.randn(1, 5, 64)
    expected, alone = block(x), block(x[:, 1:2])
    laid_out(block, x, int8=True)
    assert isinstance(block.left, SharedLinear) and isinstance(block.out, kind)
    scale = expected.abs().max()
    assert 0 < (block(x) - expected).abs().max() < 0.03 * scale
    x[0, 0] *= 1000  # as the first token of a text is
    assert (block(x)[0, 1:] - expected[0, 1:]).abs().max() < 0.03 * scale
    assert (block(x[:, 1:2]) - alone).abs().max() < 0.03 * scale
    assert torch.isfinite(block(torch.zeros(1, 3, 64))).all()


@pytest.fixture(params=["tiles", "registers"])
def in_tiles(request):
    """Products in AMX's tiles, or as on a CPU without."""
    library = native._library()
    if library is None or not ctypes.CDLL(str(library)).use_tiles(1):
        if request.param == "tiles":
            pytest.skip("this CPU has no tiles")
        yield
        return
    ctypes.CDLL(str(library)).use_tiles(request.param == "tiles")
    yield
    ctypes.CDLL(str(library)).use_tiles(1)


SHAPES = [(1, 64, 32), (11, 48, 37), (12, 1536, 576), (13, 64, 96), (33, 96, 64), (65, 1600, 40), (144, 576, 960)]
"""Tokens, width, columns: tiles full and not, widths that fit tiles or not, sums taken in parts."""


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_int8_products_are_those_of_the_rounded_values(shape, dtype, tolerance, in_tiles):
    _kernels()
    tokens, width, columns = shape
    torch.manual_seed(0)
    linear = nn.Linear(width, columns)
    product = NativeInt8Linear(linear, native.kernels_for(dtype))
    x = (torch.randn(1, tokens, width) * torch.logspace(-2, 2, tokens)[:, None]).to(dtype)
    unit = x.float().abs().amax(-1, keepdim=True) / 127
    expected = (x.float() / unit).round().double() * unit @ product.weight.double().T + linear.bias
    bound = tolerance * expected.abs().amax(-1, keepdim=True)
    with num_threads(1):
        found = product(x)
    assert ((found.double() - expected).abs() <= bound).all()
    with num_threads(2):
        assert torch.equal(product(x), found)
    assert (product.weight - linear.weight).abs().max() <= linear.weight.abs().max() / 254 * 1.001


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_bfloat16_products_are_those_of_the_values(shape, in_tiles):
    kernels = _kernels(torch.bfloat16)
    tokens, width, columns = shape
    torch.manual_seed(0)
    linear = nn.Linear(width, columns, dtype=torch.bfloat16)
    product, x = NativeLinear(linear, kernels), torch.randn(1, tokens, width, dtype=torch.bfloat16)
    expected = x.double() @ linear.weight.double().T + linear.bias.double()
    bound = 2 * torch.finfo(torch.bfloat16).eps * expected.abs().amax(-1, keepdim=True)
    with num_threads(1):
        found = product(x)
    assert found.shape == (1, tokens, columns) and ((found.double() - expected).abs() <= bound).all()
    assert torch.equal(product.weight, linear.weight)
    with num_threads(2):
        assert torch.equal(product(x), found)
    for row in (0, tokens - 1):  # whatever is computed beside it
        assert torch.equal(product(x[:, row : row + 1])[0, 0], found[0, row])


@torch.inference_mode()
def test_bfloat16_products_take_any_layout_and_hide_nothing():
    product = NativeLinear(nn.Linear(64, 32, dtype=torch.bfloat16), _kernels(torch.bfloat16))
    x = torch.randn(1, 3, 128, dtype=torch.bfloat16)[..., ::2]
    x[0, 1, 5] = float("nan")
    found = product(x)
    assert found.isfinite().all(-1).tolist() == [[True, False, True]]
    assert torch.equal(found[0, 2], product(x[:, 2:].contiguous())[0, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.inference_mode()
def test_int8_does_not_hide_what_is_broken(value):
    product = NativeInt8Linear(nn.Linear(64, 32), _kernels())
    x = torch.randn(1, 3, 64)
    x[0, 1, 5] = value
    assert product(x).isfinite().all(-1).tolist() == [[True, False, True]]
