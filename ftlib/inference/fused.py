"""Decoder layers of the Llama family, computed in a dozen calls instead of sixty, or all together in one.

On a CPU a step of a few tokens is as long as its calls are many. `FusedLayer` keeps a layer's own modules for the
products, so that adapters and quantised weights work as elsewhere, and puts the kernels of `native` between them.
`JoinedLayers` takes steps without adapters, where the products are `native`'s too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ftlib.inference import native
from ftlib.inference.linears import NativeInt8Linear, NativeLinear, SharedLinear
from ftlib.inference.slots import Plan, SlotCache

FAMILY = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"})
"""Layers that compute norm, attention with rotary positions, norm, gated SiLU, and nothing else."""


def fuse_layers(model: Any, slots: SlotCache) -> list[nn.Module]:
    """Replace a model's decoder layers by fused ones if all can be; `slots` has seen a step.

    Returns:
        The layers that were replaced, for `unfuse`; none where the model or the machine is of another kind.
    """
    layers = getattr(model.base_model, "layers", None)
    config = model.config.get_text_config()
    if (
        not isinstance(layers, nn.ModuleList)
        or model.device.type != "cpu"
        or getattr(config, "hidden_act", None) != "silu"
    ):
        return []
    if (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0) != 1.0:
        return []
    if not all(type(layer).__name__ in FAMILY and _fits(layer) for layer in layers):
        return []
    kernels = native.kernels_for(model.dtype)
    if kernels is None:
        return []
    replaced = list(layers)
    for index, layer in enumerate(replaced):
        layers[index] = FusedLayer(layer, kernels, slots)
    return replaced


def unfuse_layers(model: Any, replaced: Sequence[nn.Module]) -> None:
    """Put the layers back."""
    for index, layer in enumerate(replaced):
        model.base_model.layers[index] = layer


def _fits(layer: Any) -> bool:
    widths = (layer.self_attn.q_proj.in_features, layer.mlp.down_proj.in_features)
    return layer.self_attn.head_dim in native.HEAD_DIMS and all(width % native.LANES == 0 for width in widths)


class FusedLayer(nn.Module):
    """A decoder layer over slots; its children are those of the layer it replaces."""

    def __init__(self, layer: Any, kernels: native.Kernels, slots: SlotCache) -> None:
        super().__init__()
        attention = layer.self_attn
        self.self_attn, self.mlp = attention, layer.mlp
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.kernels = kernels
        self._norm_weights = [norm.weight.detach() for norm in (self.input_layernorm, self.post_attention_layernorm)]
        self._epsilons = [norm.variance_epsilon for norm in (self.input_layernorm, self.post_attention_layernorm)]
        query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self._head_norms = (_weight(query_norm), _weight(key_norm))
        self._states = slots.states[attention.layer_idx]
        window, scaling = slots.settings[attention.layer_idx]
        self._sizes = native.AttentionSizes(
            attention.q_proj.out_features // attention.head_dim, attention.k_proj.out_features // attention.head_dim,
            attention.head_dim, slots.capacity, window, scaling,
            0.0 if query_norm is None else query_norm.variance_epsilon,
        )  # fmt: skip

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: SlotCache,
        **others: Any,
    ) -> Tensor:
        """`[1, tokens, width]` → the same tensor, changed in place."""
        kernels, attention, mlp = self.kernels, self.self_attn, self.mlp
        read = kernels.add_norm(hidden_states, None, self._norm_weights[0], self._epsilons[0])
        qkv = _together(read, attention.q_proj, attention.k_proj, attention.v_proj)
        attended = kernels.attend(
            self._sizes, past_key_values.plan.layout, qkv, position_embeddings, self._head_norms, self._states
        )
        read = kernels.add_norm(hidden_states, attention.o_proj(attended), self._norm_weights[1], self._epsilons[1])
        return hidden_states.add_(mlp.down_proj(kernels.silu_mul(_together(read, mlp.gate_proj, mlp.up_proj))))

    def packed(self) -> native.PackedLayer | None:
        """Where the kernels find the layer; None if one of its products is not theirs."""
        attention, mlp = self.self_attn, self.mlp
        groups = (
            (attention.q_proj, attention.k_proj, attention.v_proj), (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,),
        )  # fmt: skip
        products = [_product(*group) for group in groups]
        if not all(
            isinstance(product, NativeLinear | NativeInt8Linear) and product.bias is None for product in products
        ):
            return None
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in (*self._head_norms, *self._states)]
        return native.PackedLayer(
            self._sizes, tuple(self._epsilons), tuple(weight.data_ptr() for weight in self._norm_weights), *addresses,
            *(product.packed() for product in products),
        )  # fmt: skip


class JoinedLayers:
    """A model whose layers are fused and packed, from tokens to logits: its layers in one call."""

    def __init__(self, model: Any, kernels: native.Kernels, packed: Sequence[native.PackedLayer]) -> None:
        base = model.base_model
        self._embeddings, self._head = model.get_input_embeddings(), model.get_output_embeddings()
        self._angles, self._norm = base.rotary_emb, base.norm
        self._kernels, self._layers = kernels, (native.PackedLayer * len(packed))(*packed)

    @classmethod
    def of(cls, model: Any) -> "JoinedLayers | None":
        """The model joined, which must not change any more; None where a layer or a product is of another kind."""
        layers: list[Any] = list(getattr(model.base_model, "layers", ()))
        parts = all(hasattr(model.base_model, name) for name in ("rotary_emb", "norm"))
        if not parts or not layers or not all(type(layer) is FusedLayer for layer in layers):
            return None
        packed = [layer.packed() for layer in layers]
        return cls(model, layers[0].kernels, packed) if all(packed) else None

    def __call__(self, tokens: Tensor, plan: Plan, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Compute a step.

        Args:
            tokens: int64[tokens].
            plan: where they belong.
            wanted: those after which logits are wanted, int64[wanted].

        Returns:
            Logits, 1 × wanted × vocabulary, and the last hidden states, 1 × tokens × width.
        """
        states = self._embeddings(tokens[None])
        angles = self._angles(states, plan.positions[None])
        self._kernels.run_layers(self._layers, plan.layout, states, angles)
        hidden = self._norm(states)
        return self._head(hidden[:, wanted]), hidden


def _weight(norm: Any) -> Tensor | None:
    return None if norm is None else norm.weight.detach()


def _product(*linears: Any) -> Any:
    """The one layer that computes what layers that read the same give, side by side; None if there is none."""
    first = linears[0]
    if type(first) is SharedLinear and len(first.shared.sizes) == len(linears):
        return first.shared.layer
    return first if len(linears) == 1 else None


def _together(x: Tensor, *linears: Any) -> Tensor:
    """Outputs of layers that read the same, side by side."""
    product = _product(*linears)
    return product(x) if product is not None else torch.cat([linear(x) for linear in linears], -1)
