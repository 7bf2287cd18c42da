"""Compile what a model repeats: one layer is compiled, and all others run the same code."""

from typing import Any

import torch

from ftlib.core.errors import UserError

_MAX_VARIANTS = 64
"""Versions of a layer that may be compiled: training and validation, with a mask and without, one length and any."""


def compile_layers(model: Any) -> int:
    """Have `torch.compile` fuse the kernels of a model's repeated layers at their first call; returns how many.

    What lies around the layers (embedding, masks, the output layer with the loss) stays as it is, so packs whose
    attention needs a mask do not break the graph. The first other length compiles once more, for any length from then
    on. Layers are changed in place: names of parameters and checkpoints stay.

    Raises:
        UserError: the model does not say which of its layers repeat.
    """
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise UserError(f"train.compile: {type(model).__name__} does not name its repeated layers; set it to false")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_VARIANTS)
    for layer in layers:
        layer.compile()
    return len(layers)
