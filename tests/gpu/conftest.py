"""The device that these tests run on."""

import pytest
import torch

from tests.gpu.cases import chosen_device


@pytest.fixture(scope="module")
def device():
    chosen = chosen_device()
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: torch.cuda is not available")
    return chosen


@pytest.fixture(scope="module")
def only_gpu(device):
    if device.type != "cuda":
        pytest.skip("runs on a CUDA device alone")
    return device
