"""An adapter merged into its base: a plain model, checked against the two side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftlib.core.errors import UserError
from ftlib.models.adapt import load_adapter
from ftlib.models.load import load_model

MAX_RELATIVE_DIFFERENCE = 1e-4
_PROBE_TOKENS = 64


@dataclass(frozen=True)
class Merged:
    """A base with an adapter merged into it, float32."""

    model: Any
    max_logit_difference: float
    """Largest difference of a logit between the merged model and base and adapter side by side, both in float32."""


@torch.no_grad()
def merge_adapter(base: Path, adapter: Path) -> Merged:
    """Merge in float32 and compare the logits of pseudo-random tokens before and after.

    Raises:
        UserError: the adapter does not fit, or a logit differs by more than `MAX_RELATIVE_DIFFERENCE` of the largest.
    """
    model = load_adapter(load_model(base), adapter).eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, _PROBE_TOKENS), generator=generator)
    ids[0, -1] = vocabulary - 1  # new tokens come last
    expected = model(input_ids=ids, use_cache=False).logits
    merged = model.merge_and_unload(safe_merge=True)
    difference = float((merged(input_ids=ids, use_cache=False).logits - expected).abs().max())
    if not difference <= MAX_RELATIVE_DIFFERENCE * max(1.0, float(expected.abs().max())):
        raise UserError(
            f"{adapter}: merged into {base} its logits differ by {difference:.2g} from those of the adapter (largest "
            f"{float(expected.abs().max()):.3g}): serve the adapter itself"
        )
    return Merged(merged, difference)
