"""The result of a run: `adapter/` or `model/` from its best checkpoint."""

from pathlib import Path
from typing import Any

import torch

from ftlib.core.storage import atomic_dir
from ftlib.models.export import save_adapter, save_model
from ftlib.models.initial import find_initial
from ftlib.train.checkpoint import Checkpoint
from ftlib.train.layout import ADAPTER, INITIAL, MODEL


def export_result(
    run_dir: Path, best: Checkpoint, model: Any, tokenizer: Any, *, base: str, dtype: torch.dtype
) -> Path:
    """Write the trained weights of a checkpoint so that peft and transformers load them; returns the folder.

    `model` gives names and configuration only, so it may be sharded. An adapter keeps float32, a model takes `dtype`.
    """
    weights = dict(best.tensors("param"))
    adapted = hasattr(model, "peft_config")
    target = run_dir / (ADAPTER if adapted else MODEL)
    with atomic_dir(str(target)) as folder:
        if adapted:
            initial = run_dir / INITIAL
            computed = find_initial(initial, best.state["key"])
            save_adapter(model, weights, tokenizer, folder, base, initial=initial if computed else None)
        else:
            save_model(model, weights, tokenizer, folder, dtype)
    return target
