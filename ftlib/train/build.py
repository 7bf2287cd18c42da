"""The model that a run trains: base, new tokens, adapter (new, computed from the base or the data, or gone on from).

Every rank builds it alike. What is computed once, on rank 0, stands in the run's folder, from which the others and
every resumed process take it.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftlib.core.errors import UserError
from ftlib.models.adapt import add_adapter, load_adapter
from ftlib.models.initial import compute_eva, find_initial, is_computed, load_initial, save_initial
from ftlib.models.load import load_model, load_tokenizer
from ftlib.models.vocabulary import add_token_rows
from ftlib.train.attention import set_attention
from ftlib.train.batches import PackHint
from ftlib.train.compile import compile_layers
from ftlib.train.layout import INITIAL
from ftlib.train.noise import add_embedding_noise
from ftlib.train.samples import Samples
from ftlib.train.strategy import Strategy

if TYPE_CHECKING:
    from ftlib.train.loop import LoopSettings

EVA_PACKS = 16
"""Packs whose activations EVA looks at."""


def build_model(settings: "LoopSettings", strategy: Strategy, data: Samples) -> tuple[Any, PackHint | None]:
    """The model in training mode, and how it is told of the sequences in packs (`ftlib.train.attention`).

    Raises UserError for a model that cannot be loaded or adapted.
    """
    adapter = settings.adapter
    computed = settings.kind != "full" and settings.adapter_folder is None and is_computed(adapter.init)
    initial = settings.run_dir / INITIAL
    if computed:
        error = None
        if strategy.rank == 0 and not find_initial(initial, settings.resume_key):
            try:
                _compute_initial(settings, strategy, data)
            except UserError as reason:
                error = str(reason)
        if error := strategy.broadcast(error):  # the others wait here for the file
            raise UserError(error)
    model, pack_hint, token_ids = _load_base(settings, strategy)
    if settings.kind == "full":
        pass
    elif settings.adapter_folder is not None:
        model = load_adapter(model, settings.adapter_folder, trainable=True, dropout=adapter.dropout)
    elif computed:
        model = load_initial(model, initial)
    else:
        model = _add_adapter(model, settings, token_ids)
    if settings.neftune_alpha:
        add_embedding_noise(model, settings.neftune_alpha)
    return model.train(), pack_hint


def _load_base(settings: "LoopSettings", strategy: Strategy) -> tuple[Any, PackHint | None, list[int]]:
    """The base with rows for new tokens; how it is told of sequences; the new tokens' ids."""
    dtype = strategy.load_dtype(settings.precision, frozen_base=settings.kind != "full")
    device = torch.device("cpu") if strategy.sharded_forward else strategy.device
    bits = settings.quantize_bits if settings.kind == "qlora" else None
    with strategy.loading(settings.precision):
        model = load_model(settings.model_folder, dtype, device, bits=bits)
    model.config.use_cache = False
    pack_hint = set_attention(model, settings.attention, strategy.device, settings.precision, compiled=settings.compile)
    if settings.compile:
        compile_layers(model)
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = []
    if settings.new_tokens:
        ids = add_token_rows(model, load_tokenizer(settings.model_folder), settings.new_tokens)
    return model, pack_hint, ids


def _add_adapter(model: Any, settings: "LoopSettings", token_ids: list[int]) -> Any:
    torch.manual_seed(settings.seed)  # the same first weights on every rank
    return add_adapter(model, replace(settings.adapter, token_ids=tuple(token_ids)))


def _compute_initial(settings: "LoopSettings", strategy: Strategy, data: Samples) -> None:
    """Compute first weights and store them; the base that this changes is thrown away."""
    model, pack_hint, token_ids = _load_base(settings, strategy)
    model = _add_adapter(model, settings, token_ids)
    if settings.adapter.init == "eva":

        def forward(model: Any, batch: dict[str, torch.Tensor]) -> None:
            # One row of whole sequences: their lengths are the distances between the zeros of its position ids.
            starts = torch.nonzero(batch["position_ids"][0] == 0)[:, 0].tolist()
            ends = [*starts[1:], batch["position_ids"].shape[1]]
            lengths = [[end - start for start, end in zip(starts, ends, strict=True)]]
            hint = pack_hint(lengths, strategy.device) if pack_hint else {}
            model(**batch, use_cache=False, logits_to_keep=1, **hint)

        ranks = [settings.adapter.rank, *settings.adapter.rank_pattern.values()]
        compute_eva(model, _eva_batches(settings, strategy.device, data, max(ranks)), forward)
    save_initial(model, settings.run_dir / INITIAL, settings.resume_key)


def _eva_batches(
    settings: "LoopSettings", device: torch.device, data: Samples, min_tokens: int
) -> list[dict[str, torch.Tensor]]:
    """Some packs as batches of one row; short ones are joined until they hold `min_tokens`."""
    samples = np.random.default_rng(settings.seed).permutation(len(data))[:EVA_PACKS].tolist()
    batches: list[dict[str, torch.Tensor]] = []
    ids: list[int] = []
    positions: list[int] = []
    for pack in (data.pack(sample) for sample in samples):
        ids += pack.input_ids.tolist()
        positions += pack.position_ids.tolist()
        if len(ids) >= min_tokens:
            batches.append(
                {
                    "input_ids": torch.tensor([ids], device=device),
                    "position_ids": torch.tensor([positions], device=device),
                }
            )
            ids, positions = [], []
    if not batches:
        raise UserError(f"method.init eva: {len(samples)} packs hold fewer tokens than the rank, {min_tokens}")
    return batches
