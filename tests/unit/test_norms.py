"""Norms in one call: the same results, or left as they are."""

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ftlib.inference.norms import fuse_norms


def _varied(norm):
    with torch.no_grad():
        norm.weight.normal_()
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_that_give_the_same_are_replaced(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(_varied(LlamaRMSNorm(96, 1e-5)), nn.Sequential(_varied(LlamaRMSNorm(96, 1e-6)))).to(dtype)
    x = torch.randn(2, 7, 96).to(dtype)
    expected = model(x)
    assert fuse_norms(model) == 2
    assert isinstance(model[1][0], nn.RMSNorm)
    tolerance = 0 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(model(x), expected, rtol=tolerance, atol=tolerance)
    assert fuse_norms(model) == 0


def test_others_stay():
    torch.manual_seed(0)
    model = nn.Sequential(_varied(GemmaRMSNorm(96)), nn.LayerNorm(96))
    assert fuse_norms(model) == 0
    assert isinstance(model[0], GemmaRMSNorm)
