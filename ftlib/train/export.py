"""Copies of a run's result in other formats, below `RUN/export/`, with what each costs in quality.

    merged/            base and adapter as one safetensors model, logits compared with the adapter's in float32
    KIND/model.gguf    for llama.cpp; `q8_0` and `q4_0` are the 8-bit and 4-bit copies
    onnx/model.onnx    for ONNX Runtime (extra `onnx`), logits compared with the model's

The mean loss on validation tokens with the weights of a GGUF file is compared with the result's own, in float32.

    python -m ftlib.train.export RUN --to merged q8_0 onnx      adds formats to a finished run
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger, setup_logging
from ftlib.core.storage import atomic_dir, local_path
from ftlib.registry.manifest import hash_files, read_manifest, write_manifest
from ftlib.train.layout import ADAPTER, EXPORT, MODEL

logger = get_logger(__name__)

MERGED, ONNX = "merged", "onnx"
GGUF_KINDS = ("f32", "f16", "q8_0", "q4_0")
FORMATS = (MERGED, *GGUF_KINDS, ONNX)
MAX_PACKS = 64
"""Validation packs on which the loss of a copy is measured."""


@dataclass(frozen=True)
class _Result:
    """What copies are made from, loaded once."""

    model: Any
    """Whole and in float32."""
    tokenizer: Any
    tokenizer_folder: Path
    dtype: Any
    """In which a merged copy is stored."""
    val: Any
    """Packed validation split, if it is still there."""
    max_logit_difference: float | None
    """Between merged and adapter; None for a run of all weights."""


def with_exports(run_dir: Path, manifest: dict[str, Any], base: Path, formats: Sequence[str]) -> dict[str, Any]:
    """A run's manifest with the formats that it lacked, written beside its result.

    Args:
        run_dir: the run's folder, its result in it.
        manifest: of the run, written or not.
        base: the base model's folder.
        formats: of `FORMATS`.

    Returns:
        The manifest with `exports` (format → path, differences, losses) and the hashes of the new files.

    Raises:
        UserError: a format cannot hold this model, needs an extra, or does not give the model's logits.
    """
    exports = dict(manifest.get("exports") or {})
    missing = [name for name in formats if name not in exports]
    if not missing:
        return manifest
    whole = (run_dir / MODEL).exists()
    check_formats(missing, run_dir / MODEL if whole else base, run_dir / (MODEL if whole else ADAPTER), whole=whole)
    result = _load_result(run_dir, base, manifest)
    for name in missing:
        target = run_dir / EXPORT / name
        logger.info("exporting %s", name)
        writer: Callable[..., dict[str, Any]] = {MERGED: _merged, ONNX: _onnx}.get(name, _gguf)
        with atomic_dir(str(target)) as folder:
            facts = writer(result, folder, name)
        exports[name] = {"path": str(target.relative_to(run_dir)), **facts}
        logger.info("exported %s: %s", name, ", ".join(f"{key} {value}" for key, value in exports[name].items()))
    files = {f"{EXPORT}/{name}": digest for name, digest in hash_files(run_dir / EXPORT).items()}
    return manifest | {"exports": exports, "files": manifest["files"] | files}


def check_formats(formats: Sequence[str], model_folder: Path, tokenizer_folder: Path, *, whole: bool) -> None:
    """Raise UserError for a format that cannot be made, as far as that is known before anything is loaded or trained.

    Args:
        formats: their names.
        model_folder: with the `config.json` of base or result.
        tokenizer_folder: of the result, or of its base.
        whole: whether all weights are trained.
    """
    from ftlib.models.gguf import check_gguf
    from ftlib.models.onnx import check_onnx
    from ftlib.models.source import read_config

    if MERGED in formats and whole:
        raise UserError("export.merged: a run that trains all weights gives a whole model already")
    if any(name in GGUF_KINDS for name in formats):
        check_gguf(read_config(model_folder), tokenizer_folder)
    if ONNX in formats:
        check_onnx()


def _load_result(run_dir: Path, base: Path, manifest: dict[str, Any]) -> _Result:
    from ftlib.data.pack import INFO, PackedSplit
    from ftlib.models.load import load_model, load_tokenizer
    from ftlib.models.merge import merge_adapter
    from ftlib.models.source import read_config

    if (run_dir / MODEL).exists():
        folder, difference, model = run_dir / MODEL, None, load_model(run_dir / MODEL)
    else:
        folder, merged = run_dir / ADAPTER, merge_adapter(base, run_dir / ADAPTER)
        difference, model = merged.max_logit_difference, merged.model
    dtype = read_config(base).get("dtype") or "float32"
    tokens = (manifest.get("tokens") or {}).get("val")
    val = PackedSplit(tokens) if tokens and (Path(tokens) / INFO).exists() else None
    if val is not None and val.holds_preferences:
        val = None
    return _Result(model.eval(), load_tokenizer(folder), folder, dtype, val, difference)


def _merged(result: _Result, folder: Path, name: str) -> dict[str, Any]:
    import torch

    from ftlib.models.export import save_model

    dtype = getattr(torch, result.dtype)
    weights = dict(result.model.named_parameters())
    save_model(result.model, weights, result.tokenizer, folder, dtype)
    return {"dtype": result.dtype, "max_logit_difference": result.max_logit_difference}


def _gguf(result: _Result, folder: Path, name: str) -> dict[str, Any]:
    from ftlib.models.gguf import rounded_weights, write_gguf

    path = folder / "model.gguf"
    write_gguf(result.model, result.tokenizer_folder, path, name)
    facts: dict[str, Any] = {"num_bytes": path.stat().st_size}
    if result.val is not None:
        with rounded_weights(result.model, name):
            facts["val_loss"] = _validation_loss(result.model, result.val)
        facts["val_loss_change"] = facts["val_loss"] - _validation_loss(result.model, result.val)
    return facts


def _onnx(result: _Result, folder: Path, name: str) -> dict[str, Any]:
    from ftlib.models.onnx import write_onnx

    difference = write_onnx(result.model, folder / "model.onnx")
    result.tokenizer.save_pretrained(folder)
    return {"max_logit_difference": difference}


def _validation_loss(model: Any, split: Any) -> float:
    """Mean loss over the learnt tokens of at most `MAX_PACKS` packs."""
    import torch

    from ftlib.train.batches import Forward, collate

    count, forward = min(len(split), MAX_PACKS), Forward(model)
    with torch.no_grad():
        losses = [float(forward.loss(collate([split[row]], 0, torch.device("cpu")))) for row in range(count)]
    return sum(losses) / float(split.pack_weights[:count].sum())


def main() -> None:
    """Add formats to a finished run; exit 2 with the reason when one cannot be made."""
    from ftlib.models.source import resolve_source

    setup_logging()
    parser = argparse.ArgumentParser(prog="python -m ftlib.train.export", description="Export a finished run.")
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--to", nargs="+", choices=FORMATS, required=True, help="formats")
    arguments = parser.parse_args()
    try:
        manifest = read_manifest(arguments.run, "run")
        base = resolve_source(manifest["base"]["source"], manifest["base"]["revision"])
        manifest = with_exports(local_path(arguments.run), manifest, base, arguments.to)
        print(write_manifest(arguments.run, manifest))
    except UserError as error:
        logger.error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
