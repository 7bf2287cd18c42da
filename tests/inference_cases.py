"""A random Llama whose greedy answers vary from token to token, so that a wrong mask or position shows in them.

(The shared tiny model ties its embeddings, so it repeats the last token whatever it attends to.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tiny_model import tiny_llama


def varied_model(tokenizer: Any) -> Any:
    """Untied embeddings, large weights."""
    return tiny_llama(tokenizer, seed=11, initializer_range=0.4, tie_word_embeddings=False).eval()


def save_varied_model(tokenizer: Any, folder: Path, num_adapters: int = 0) -> Path:
    """Save it with its tokenizer to `folder/base`, and random adapters to `folder/adapter0`, …"""
    import torch
    from peft import LoraConfig, get_peft_model

    model = varied_model(tokenizer)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for index in range(num_adapters):
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng():
            torch.manual_seed(100 + index)
            get_peft_model(varied_model(tokenizer), config).save_pretrained(folder / f"adapter{index}")
        tokenizer.save_pretrained(folder / f"adapter{index}")
    return folder


def generate_alone(model: Any, prompt: list[int], limit: int, stops: frozenset[int] = frozenset()) -> list[int]:
    """Greedy tokens of transformers' own `generate`, end token included."""
    import torch

    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=sorted(stops) or [10**6],
    )
    return output[0, len(prompt) :].tolist()


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """PyTorch, and kernels beside it, on so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
