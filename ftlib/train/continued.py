"""Training that goes on from an adapter (`method.adapter`): what it decides, and whether it fits."""

from pathlib import Path
from typing import Any

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.storage import exists, read_json

_DECIDED = {
    "rank": "r",
    "alpha": "lora_alpha",
    "target_modules": "target_modules",
    "target_parameters": "target_parameters",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}
"""Keys of `method` that an adapter decides → their names in its `adapter_config.json`."""


def adopt_adapter(config: TrainConfig) -> TrainConfig:
    """The configuration with what its adapter decides filled in; unchanged without one.

    Raises:
        UserError: the adapter is no LoRA, belongs to another base, tokenizer or chat template, or a key that it decides
            was set to something else.
    """
    if config.method.adapter is None:
        return config
    from ftlib.models.adapt import ADAPTER_CONFIG, check_adapter, find_adapter
    from ftlib.models.source import resolve_source

    folder = find_adapter(config.method.adapter).absolute()
    base = resolve_source(config.model.source, config.model.revision)
    stored = read_json(str(folder / ADAPTER_CONFIG))
    if stored.get("peft_type") != "LORA":
        raise UserError(
            f"method.adapter {folder}: training goes on from LoRA adapters only ({stored.get('peft_type')})"
        )
    check_adapter(folder, base)
    _check_origin(folder, base)
    decided: dict[str, Any] = {key: stored.get(name) for key, name in _DECIDED.items()}
    decided = {key: value for key, value in decided.items() if value is not None}
    decided["new_tokens"] = _new_tokens(folder, base)
    for key in sorted(config.method.model_fields_set & decided.keys()):
        wanted, value = getattr(config.method, key), decided[key]
        if not (wanted in (value, None, "all-linear") or (isinstance(value, list) and sorted(wanted) == sorted(value))):
            raise UserError(
                f"method.{key} {wanted} is not {value}, which method.adapter {folder} was made with; unset it"
            )
    return config.model_copy(update={"method": config.method.model_copy(update=decided | {"adapter": str(folder)})})


def _check_origin(folder: Path, base: Path) -> None:
    """Compare the base's content with that of the run that made the adapter, where its manifest is beside it."""
    from ftlib.models.fingerprint import model_fingerprint

    manifest = str(folder.parent / "manifest.json")
    origin = (read_json(manifest).get("base") or {}) if exists(manifest) else {}
    if origin.get("fingerprint") and origin["fingerprint"] != model_fingerprint(base):
        raise UserError(
            f"method.adapter {folder} was trained on {origin.get('source')}, whose content is not that of {base}"
        )


def _new_tokens(folder: Path, base: Path) -> list[str]:
    """Tokens that the adapter's tokenizer has more than the base's; UserError where they differ otherwise."""
    from ftlib.models.fingerprint import chat_template_hash
    from ftlib.models.load import load_tokenizer

    if not (folder / "tokenizer_config.json").exists():
        return []
    own, other = load_tokenizer(base), load_tokenizer(folder)
    known, vocabulary = own.get_vocab(), other.get_vocab()
    if known != {token: row for token, row in vocabulary.items() if token in known}:
        raise UserError(f"method.adapter {folder}: its tokenizer is another than that of the base {base}")
    if chat_template_hash(own) != chat_template_hash(other):
        raise UserError(
            f"method.adapter {folder}: its chat template is another than that of the base {base}; prompts would differ "
            "from those that it was trained on"
        )
    return sorted((token for token in vocabulary if token not in known), key=vocabulary.__getitem__)
