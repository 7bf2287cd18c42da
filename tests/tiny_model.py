"""Models that load and train in moments."""

from pathlib import Path
from typing import Any


def tiny_llama(tokenizer: Any, *, seed: int, initializer_range: float, tie_word_embeddings: bool) -> Any:
    """A random two-layer Llama (float32, grouped-query attention) for a tokenizer; always the same one for a seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=initializer_range,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def write_tiny_model(folder: Path, tokenizer_folder: Path) -> Path:
    """Save one of 1.6 M parameters with another model's tokenizer and chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tiny_llama(tokenizer, seed=7, initializer_range=0.05, tie_word_embeddings=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
