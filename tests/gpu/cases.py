"""Llamas of random weights with a tokenizer, and packs of random tokens, made on the spot: nothing is downloaded."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

TEMPLATE = "{% for message in messages %}<s>{{ message['role'] }} {{ message['content'] }}</s>{% endfor %}"


def chosen_device() -> torch.device:
    """The CUDA device; `FTLIB_TEST_DEVICE=cpu` runs what can be run without one."""
    return torch.device(os.environ.get("FTLIB_TEST_DEVICE", "cuda"))


def write_llama(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 7, **sizes: Any
) -> Path:
    """A random Llama of given sizes (`LlamaConfig`), with a tokenizer of words and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(config.vocab_size - 4))]
    words_model = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    words_model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_model, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_packs(
    folder: Path, lengths: Sequence[int], capacity: int, vocabulary: int, *, learnt: float = 1.0, seed: int = 0
) -> Path:
    """A packed split of sequences of random tokens, of each of which the last share `learnt` is learnt."""
    from ftlib.data.pack import write_file, write_index

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(4, vocabulary, length).tolist() for length in lengths]
    weights = [[float(place >= length * (1 - learnt)) for place in range(length)] for length in lengths]
    sequences = write_file(folder, 0, tokens, weights, [f"row-{number}" for number in range(len(lengths))])
    write_index(folder, sequences, capacity, packing=True, counts={"num_rows": len(lengths)})
    return folder
