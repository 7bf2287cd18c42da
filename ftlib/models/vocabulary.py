"""New tokens: a tokenizer and the embeddings of a model grown by words of a domain.

A new token's row starts as the mean of the rows of the pieces that its text used to be split into. Under LoRA the new
rows are the only ones of the embeddings that train (PEFT's `trainable_token_indices`), so the adapter stays small and
brings them along; in full training all rows do. Padding and end tokens keep their ids.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ftlib.core.errors import UserError
from ftlib.core.storage import atomic_dir, read_json


def grow_tokenizer(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Add tokens to a tokenizer in place; returns their ids, in order.

    They are ordinary tokens, not special ones: they match anywhere in a text and are shown when it is decoded.

    Raises UserError for a token that the vocabulary has already.
    """
    for token in tokens:
        if len(tokenizer(token, add_special_tokens=False).input_ids) == 1:
            raise UserError(f"method.new_tokens: {token!r} is a single token of this model already")
    first = len(tokenizer)
    if tokenizer.add_tokens(list(tokens)) != len(tokens):
        raise UserError("method.new_tokens: the tokenizer took only some of them; they must differ from each other")
    return list(range(first, len(tokenizer)))


def save_grown_tokenizer(model_folder: Path, tokens: Sequence[str], folder: Path) -> Path:
    """Write a model's tokenizer, grown by tokens, to a folder of its own; returns the folder."""
    from ftlib.models.load import load_tokenizer

    tokenizer = load_tokenizer(model_folder)
    grow_tokenizer(tokenizer, tokens)
    with atomic_dir(str(folder)) as target:
        tokenizer.save_pretrained(target)
    return folder


@torch.no_grad()
def add_token_rows(model: Any, tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Grow a model's embeddings for tokens that its tokenizer is going to have; returns their ids.

    Args:
        model: a base model, its weights not sharded.
        tokenizer: the base's tokenizer, without the tokens; it is grown by them.
        tokens: as given to `grow_tokenizer`.
    """
    pieces = [tokenizer(token, add_special_tokens=False).input_ids for token in tokens]
    ids = grow_tokenizer(tokenizer, tokens)
    grow_embeddings(model, len(tokenizer))
    for layer in _embedding_layers(model):
        for row, split in zip(ids, pieces, strict=True):
            layer.weight[row] = layer.weight[split].float().mean(0).to(layer.weight.dtype)
    return ids


@torch.no_grad()
def grow_embeddings(model: Any, num_rows: int) -> None:
    """Give the input and output embeddings at least so many rows, new ones zero; tied ones stay tied.

    The model may be wrapped by adapters, trained rows included: what they wrap grows in place.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = _embedding_layers(base)
    if layers[0].weight.shape[0] >= num_rows:
        return
    for layer in layers:
        layer.weight = torch.nn.Parameter(_longer(layer.weight, num_rows), requires_grad=layer.weight.requires_grad)
        if getattr(layer, "bias", None) is not None:
            layer.bias = torch.nn.Parameter(_longer(layer.bias, num_rows), requires_grad=layer.bias.requires_grad)
        setattr(layer, "num_embeddings" if layer is layers[0] else "out_features", num_rows)
    output = _bare(base.get_output_embeddings())
    if len(layers) == 1 and output is not None:
        output.weight, output.out_features = layers[0].weight, num_rows
    base.config.get_text_config().vocab_size = num_rows
    modules: list[Any] = [base, getattr(base, base.base_model_prefix, None)]
    for module in modules:
        if hasattr(module, "vocab_size"):
            module.vocab_size = num_rows


def token_modules(model: Any) -> list[str]:
    """Names of the modules whose rows stand for tokens: the embeddings, and the output layer unless it is tied."""
    layers = _embedding_layers(model)
    return [name for layer in layers for name, module in model.named_modules() if module is layer]


def num_rows_of(adapter: Path) -> int:
    """Embedding rows that an adapter with trained token rows needs of its base; 0 for one without."""
    indices = read_json(str(adapter / "adapter_config.json")).get("trainable_token_indices") or []
    rows = indices if isinstance(indices, list) else [row for rows in indices.values() for row in rows]
    return max(rows, default=-1) + 1


@contextmanager
def beside_token_rows(model: Any, adapter: Path) -> Iterator[None]:
    """Context in which PEFT loads an adapter without token rows beside one that has them.

    PEFT (0.21) looks in every adapter's file for the rows that any of them trains.
    """
    wrappers = [module for module in model.modules() if hasattr(module, "token_adapter")]
    if num_rows_of(adapter):
        wrappers = []
    for wrapper in wrappers:
        wrapper.adapter_state_dict_load_map = lambda name: {}
    try:
        yield
    finally:
        for wrapper in wrappers:
            del wrapper.adapter_state_dict_load_map


def _embedding_layers(model: Any) -> list[Any]:
    """The input embeddings, and the output layer if it has weights of its own."""
    first, last = _bare(model.get_input_embeddings()), _bare(model.get_output_embeddings())
    return [first] if last is None or last.weight is first.weight else [first, last]


def _bare(layer: Any) -> Any:
    """A layer without the adapters around it."""
    while True:
        if hasattr(layer, "token_adapter"):
            layer = layer.token_adapter
        if not hasattr(layer, "base_layer"):
            return layer
        layer = layer.base_layer


def _longer(tensor: torch.Tensor, num_rows: int) -> torch.Tensor:
    longer = tensor.new_zeros((num_rows, *tensor.shape[1:]))
    longer[: tensor.shape[0]] = tensor
    return longer
