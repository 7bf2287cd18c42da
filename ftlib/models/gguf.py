"""Write a model as one GGUF file (llama.cpp's format; `transformers` reads it too).

Architectures: Llama, Qwen2 and Qwen3 with byte-level BPE tokenizers. Weights by kind: `f32`; `f16`; `q8_0`, blocks of
32 weights in 8 bits and a scale (8.5 bits each); `q4_0`, the same in 4 bits (4.5), with embeddings and output layer in
`q8_0`. Norms and biases stay in float32. llama.cpp rotates halves of a head interleaved, so the rows of a Llama's
queries and keys are reordered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ftlib.core.errors import UserError
from ftlib.core.storage import read_json

KINDS = ("f32", "f16", "q8_0", "q4_0")
_BLOCK = 32
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe", _WORDS + r"\p{N}" + _REST: "qwen2"}
"""How a tokenizer cuts words → llama.cpp's name for it."""


def write_gguf(model: Any, tokenizer_folder: Path, path: Path, kind: str = "f16") -> None:
    """Write a model and its tokenizer.

    Args:
        model: a causal language model of transformers.
        tokenizer_folder: with `tokenizer.json` and its configuration.
        path: the file to write.
        kind: one of `KINDS`.

    Raises:
        UserError: the architecture, its rotary embedding or the tokenizer is not one that can be written.
    """
    import gguf

    config = model.config.get_text_config()
    check_gguf(model.config.to_dict(), tokenizer_folder)
    writer = gguf.GGUFWriter(path, config.model_type, use_temp_file=True)
    _add_config(writer, config, kind)
    _add_tokenizer(writer, tokenizer_folder, model.get_input_embeddings().weight.shape[0])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise UserError(f"export.gguf: GGUF has no name for the weight {name}")
        weights = tensor.detach().float().cpu().numpy()
        if config.model_type == "llama" and ".self_attn." in name and name.split(".")[-2] in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weights = _interleaved(weights, heads)
        data, dtype = _encoded(name, weights, kind)
        writer.add_tensor(target, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def rounded_weights(model: Any, kind: str) -> Iterator[None]:
    """Context in which a model has the weights that a file of this kind gives back: to measure what it costs."""
    import gguf

    kept = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                kept[name] = parameter.detach().clone()
                data, dtype = _encoded(name, parameter.float().cpu().numpy(), kind)
                values = gguf.quants.dequantize(data, dtype).reshape(parameter.shape)
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))
        try:
            yield
        finally:
            for name, parameter in model.named_parameters():
                if name in kept:
                    parameter.copy_(kept[name])


def check_gguf(config: dict[str, Any], tokenizer_folder: Path) -> None:
    """Raise UserError for a model (its `config.json`) or tokenizer that cannot be written."""
    kind = config.get("model_type")
    if kind not in ("llama", "qwen2", "qwen3"):
        raise UserError(f"export.gguf: models of type {kind} cannot be written as GGUF; llama, qwen2 and qwen3 can")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"export.gguf: rotary embeddings of type {rope['rope_type']} cannot be written as GGUF")
    if config.get("use_sliding_window"):
        raise UserError("export.gguf: models with sliding windows cannot be written as GGUF")
    _pre_tokenizer(_tokenizer_file(tokenizer_folder))


def _add_config(writer: Any, config: Any, kind: str) -> None:
    import gguf

    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(
        {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
            "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
        }[kind]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: Any, folder: Path, num_rows: int) -> None:
    import gguf

    from ftlib.models.load import load_tokenizer

    file, tokenizer = _tokenizer_file(folder), load_tokenizer(folder)
    added = {token["id"]: token for token in file["added_tokens"]}
    words = {row: word for word, row in file["model"]["vocab"].items()}
    tokens, kinds = [], []
    for row in range(num_rows):
        if row in added:
            tokens.append(added[row]["content"])
            kinds.append(gguf.TokenType.CONTROL if added[row]["special"] else gguf.TokenType.USER_DEFINED)
        else:  # rows of a padded vocabulary have no token
            tokens.append(words.get(row, f"[PAD{row}]"))
            kinds.append(gguf.TokenType.NORMAL if row in words else gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(file))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in file["model"]["merges"]])
    for name, row in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("unk", tokenizer.unk_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        if row is not None:
            getattr(writer, f"add_{name}_token_id")(row)
    starts_with_bos = tokenizer("a").input_ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id is not None
    writer.add_add_bos_token(starts_with_bos)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tokenizer_file(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    file: dict[str, Any] = read_json(str(path)) if path.exists() else {}
    if file.get("model", {}).get("type") != "BPE" or file["model"].get("byte_fallback"):
        raise UserError(f"export.gguf: {folder} has no byte-level BPE tokenizer (tokenizer.json)")
    return file


def _pre_tokenizer(file: dict[str, Any]) -> str:
    """llama.cpp's name for the way in which a tokenizer cuts words; it must be the same there, or tokens differ."""
    outer = file.get("pre_tokenizer") or {}
    parts = outer.get("pretokenizers", [outer])
    match [part.get("type") for part in parts]:
        case ["ByteLevel"] if parts[0].get("use_regex", True):
            return "gpt-2"
        case ["Digits", "ByteLevel"] if parts[0].get("individual_digits"):
            return "smollm"
        case ["Split", "ByteLevel"] if name := _SPLITS.get(parts[0]["pattern"].get("Regex", "")):
            return name
    raise UserError("export.gguf: the tokenizer cuts words in a way that GGUF has no name for")


def _is_vocabulary(name: str) -> bool:
    return name.split(".")[-2] in ("embed_tokens", "lm_head")


def _interleaved(weights: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of each head from two halves to pairs."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def _encoded(name: str, weights: npt.NDArray[np.float32], kind: str) -> tuple[Any, Any]:
    """The bytes of a weight and GGUF's type of them. Blocks lie within rows, so their order does not matter."""
    import gguf

    if kind == "q4_0" and _is_vocabulary(name):
        kind = "q8_0"
    if weights.ndim < 2 or kind == "f32":
        return weights, gguf.GGMLQuantizationType.F32
    if kind == "f16" or weights.shape[-1] % _BLOCK:
        return weights.astype(np.float16), gguf.GGMLQuantizationType.F16
    dtype = gguf.GGMLQuantizationType[kind.upper()]
    return gguf.quants.quantize(weights, dtype), dtype
