"""The vLLM engine for tests: its construction in one place, and whether there is a vLLM to construct it with."""

import os
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("FTLIB_VLLM_PYTHON", "")
needs_vllm = pytest.mark.skipif(not PYTHON, reason="FTLIB_VLLM_PYTHON names no interpreter with vLLM: make test-vllm")


def vllm_engine(
    model: Path, max_waiting: int = -1, stall_s: float = 60.0, max_restarts: int = 3, **options: Any
) -> Any:
    """An engine in float32, not started, small enough for a laptop."""
    from ftlib.inference.vllm import VllmEngine
    from ftlib.inference.vllm_server import VllmOptions

    settings = {
        "dtype": "float32",
        "max_model_len": 512,
        "max_rows": 4,
        "max_loras": 2,
        "max_lora_rank": 16,
        "arguments": ["--enforce-eager"],
        "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        **options,
    }
    return VllmEngine(VllmOptions(model, PYTHON, **settings), max_waiting, stall_s, max_restarts)
