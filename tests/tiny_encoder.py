"""A small encoder with random weights, as `dedup.semantic.model` takes it."""

from pathlib import Path


def save_tiny_encoder(folder: Path) -> str:
    """Save a BERT of two layers and its tokenizer, whose words are those of the tests; its path."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["alpha", "beta", "gamma", "delta", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789")]
    words += list("abcdefghijklmnopqrstuvwxyz0123456789.,")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words) + 5,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=130,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)
