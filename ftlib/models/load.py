"""Load a tokenizer and a causal language model from a resolved folder (torch and transformers alone)."""

from pathlib import Path
from typing import Any

import torch

from ftlib.core.errors import UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model or adapter folder; raises UserError when it cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: its tokenizer cannot be loaded ({' '.join(str(error).split())[:200]})") from error


def load_model(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    bits: int | None = None,
) -> Any:
    """A causal model in evaluation mode.

    Args:
        folder: a resolved model folder (`ftlib.models.source.resolve_source`).
        dtype: dtype of all weights.
        device: where they go.
        bits: quantise the linear layers (QLoRA; needs a CUDA device and bitsandbytes): 4, NF4 with double
            quantisation, or 8, LLM.int8.

    Raises:
        UserError: the folder holds no causal language model, or `bits` are not possible here.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
    }
    if bits is not None:
        options |= {"quantization_config": _quantization(bits, dtype), "device_map": {"": device}}
    try:
        model = AutoModelForCausalLM.from_pretrained(str(folder), **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: cannot be loaded as a causal language model ({reason})") from error
    return model if bits is not None else model.to(device)


def _quantization(bits: int, dtype: torch.dtype) -> Any:
    if not torch.cuda.is_available():
        raise UserError("method.kind qlora needs a CUDA device (scaling.use_gpu true); on a CPU use lora")
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        raise UserError("method.kind qlora needs bitsandbytes: pip install 'ftlib[gpu]'") from None
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def pick_dtype(precision: str, device: str | torch.device) -> torch.dtype:
    """The dtype behind `precision` (`auto`, `float32`, `bfloat16`, `float16`) on a device.

    `auto` is bfloat16 where the device multiplies it natively (CUDA compute capability ≥ 8, CPUs with AMX or
    AVX512-BF16), else float32.
    """
    if precision != "auto":
        return _DTYPES[precision]
    native = torch.cuda.is_bf16_supported() if torch.device(device).type == "cuda" else cpu_has_bfloat16()
    return torch.bfloat16 if native else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
