"""A base model, its tokenizer and any number of adapters by name, in one plain process.

One adapter, or none, is active at a time. PEFT keeps adapters as modules of the base's layers; switching costs a walk
over them (a few milliseconds), so callers group requests by adapter.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.models.adapt import check_adapter
from ftlib.models.chat import stop_token_ids
from ftlib.models.load import load_model, load_tokenizer, pick_dtype
from ftlib.models.vocabulary import beside_token_rows, grow_embeddings, num_rows_of


@dataclass(frozen=True)
class _Grown:
    """What an adapter with new tokens brings."""

    tokenizer: Any
    num_rows: int
    """Embedding rows that are the base's or its own."""


class ModelRunner:
    """Owns a model; not thread-safe."""

    def __init__(self, model: Any, tokenizer: Any, base_folder: Path | None = None) -> None:
        """Take a loaded model. `base_folder` is what adapters are checked against."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.base_folder = base_folder
        self.device: torch.device = next(model.parameters()).device
        self.stop_ids = frozenset(stop_token_ids(tokenizer, model.generation_config))
        self.max_positions = int(getattr(model.config, "max_position_embeddings", None) or 1 << 20)
        self._adapters: dict[str, str] = {}
        self._grown: dict[str, _Grown] = {}
        self._base_rows = self._num_rows = int(model.get_input_embeddings().weight.shape[0])
        self._hook: Any = None
        self._num_loaded = 0
        self._active: str | None = None

    @classmethod
    def load(cls, folder: Path, precision: str = "auto", device: str = "cpu") -> "ModelRunner":
        """Load a resolved model folder (`ftlib.models.source.resolve_source`)."""
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # one line a tensor in the log of every actor
        return cls(load_model(folder, pick_dtype(precision, device), device), load_tokenizer(folder), folder)

    @property
    def adapters(self) -> list[str]:
        """Names of the loaded adapters."""
        return list(self._adapters)

    def load_adapter(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Load a PEFT adapter under a name.

        Raises UserError when the name is taken, the adapter does not fit the base, or its files are not those of
        `sha256` (`ftlib.core.fingerprints.folder_sha256`).
        """
        from peft import PeftModel

        if name in self._adapters:
            raise UserError(
                f"adapter {name} is loaded already; names stand for one content for as long as they are loaded"
            )
        if sha256 is not None and (actual := folder_sha256(path)) != sha256:
            raise UserError(
                f"adapter {name}: the files in {path} are not those expected (sha256 {actual[:12]}…, "
                f"expected {sha256[:12]}…)"
            )
        if self.base_folder is not None:
            check_adapter(path, self.base_folder)
        internal = f"adapter{self._num_loaded}"  # PEFT's names are module names: no dots
        self._num_loaded += 1
        if (num_rows := num_rows_of(path)) > self._base_rows:
            self._grow(name, path, num_rows)
        # autocast_adapter_dtype=False: the adapter computes in the base's dtype, without casts in every layer.
        if isinstance(self.model, PeftModel):
            with beside_token_rows(self.model, path):
                self.model.load_adapter(str(path), internal, autocast_adapter_dtype=False)
        else:
            self.model = PeftModel.from_pretrained(self.model, str(path), internal, autocast_adapter_dtype=False)
        self.model.eval()
        self._adapters[name] = internal
        self._watch_output()
        self._apply(None)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; unknown names are ignored."""
        self._grown.pop(name, None)
        if internal := self._adapters.pop(name, None):
            if len(self._adapters) == 0:
                self.model = self.model.unload()
            else:
                self.model.delete_adapter(internal)
            self._watch_output()
            self._apply(None)

    def use(self, name: str | None) -> None:
        """Make an adapter (None: the bare base) the active one. Raises KeyError for an unknown name."""
        if name is not None and name not in self._adapters:
            raise KeyError(name)
        if name != self._active:
            self._apply(name)

    def tokenizer_of(self, name: str | None) -> Any:
        """The tokenizer of an adapter that brings new tokens, else the base's."""
        grown = self._grown.get(name) if name is not None else None
        return grown.tokenizer if grown is not None else self.tokenizer

    def _grow(self, name: str, path: Path, num_rows: int) -> None:
        """Make room for an adapter's new tokens, which nobody else must ever be answered with."""
        grow_embeddings(self.model, num_rows)
        self._num_rows = max(self._num_rows, num_rows)
        self._grown[name] = _Grown(load_tokenizer(path), num_rows)

    def _watch_output(self) -> None:
        """Hook the output layer, which adapters with new tokens wrap and unwrap."""
        if self._num_rows > self._base_rows:
            if self._hook is not None:
                self._hook.remove()
            self._hook = self.model.get_output_embeddings().register_forward_hook(self._hide_foreign_tokens)

    def _hide_foreign_tokens(self, module: Any, arguments: Any, logits: torch.Tensor) -> torch.Tensor:
        grown = self._grown.get(self._active) if self._active is not None else None
        own = grown.num_rows if grown is not None else self._base_rows
        if own < logits.shape[-1]:
            logits[..., own:] = -torch.inf
        return logits

    def _apply(self, name: str | None) -> None:
        self._active = name
        if not self._adapters:
            return
        layers = self.model.base_model
        if name is None:
            layers.disable_adapter_layers()
        else:
            self.model.set_adapter(self._adapters[name], inference_mode=True)
            layers.enable_adapter_layers()
