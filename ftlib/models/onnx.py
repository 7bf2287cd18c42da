"""Write a model as ONNX (extra `onnx`) and check it with ONNX Runtime."""

from pathlib import Path
from typing import Any

import torch

from ftlib.core.errors import UserError

MAX_DIFFERENCE = 1e-3
_PROBES = ((1, 8), (2, 13))
"""Batch and length of the inputs that are compared: none is the one that was exported."""


def check_onnx() -> None:
    """Raise UserError unless the extra is installed."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"export.onnx needs {', '.join(missing)}: pip install 'ftlib[onnx]'")


@torch.no_grad()
def write_onnx(model: Any, path: Path) -> float:
    """Write input ids and attention mask (batch × length) to logits (batch × length × vocabulary), float32, no cache.

    Args:
        model: a causal language model in float32 on the CPU.
        path: the file to write; weights stand beside it as `NAME.data`.

    Returns:
        The largest difference of a logit from the model's own.

    Raises:
        UserError: the model cannot be exported, or a logit differs by more than `MAX_DIFFERENCE` of the largest.
    """
    import onnxruntime

    class Logits(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            return logits

    wrapper = Logits()
    wrapper.model = model
    ids = torch.randint(model.config.get_text_config().vocab_size, (3, 11), generator=torch.Generator().manual_seed(0))
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    try:
        torch.onnx.export(
            wrapper.eval(),
            (ids, torch.ones_like(ids)),
            path,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=(shape, shape),
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    except Exception as error:  # the exporter has no common class
        raise UserError(f"export.onnx: this model cannot be exported ({type(error).__name__})") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, length in _PROBES:
        probe = torch.randint(model.config.get_text_config().vocab_size, (batch, length))
        mask = torch.ones_like(probe)
        expected = model(input_ids=probe, attention_mask=mask, use_cache=False).logits
        (found,) = session.run(None, {"input_ids": probe.numpy(), "attention_mask": mask.numpy()})
        difference = float((torch.from_numpy(found) - expected).abs().max())
        if not difference <= MAX_DIFFERENCE * max(1.0, float(expected.abs().max())):
            raise UserError(f"export.onnx: logits differ by {difference:.2g} from the model's")
        worst = max(worst, difference)
    return worst
