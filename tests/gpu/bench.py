"""Tokens a second, MFU and peak memory of the loop on one GPU, beside a peer on the same packs and weights.

    python -m tests.gpu.bench --size 1b|3b --method lora|full --seq-len 4096 --micro-batch N [--compile] [--attention A]

One plain process: no Ray, no DeepSpeed, nothing downloaded. Weights and tokens are random, every token is learnt and
every pack is full; `--sequences K` fills each with K sequences of equal length. bfloat16: LoRA of rank 16 on all linear
layers over a frozen bfloat16 base, or all weights in float32 under autocast. The peer is TRL's SFTTrainer where it can
be imported, else Hugging Face's Trainer, else the plain loop in this file; the output says which. Contenders take
turns, a fresh model each time; a figure is the median over its timed steps, the ratio the median over rounds.
The last line is JSON. `--size tiny --device cpu` tries the script without a GPU.

MFU is the share of the device's dense bfloat16 peak that the model's own arithmetic takes (Chowdhery et al. 2022,
"PaLM", appendix B); what is computed again (activation checkpointing) does not count. FLOPs of a token:
- full: 6 N, with N the weights of all matrix products (layers and output layer, no embedding look-up): 2 N forward,
  4 N backward;
- LoRA: 2 N forward and 2 N for the gradients of inputs, since a frozen weight needs none of its own, plus 6 A for the
  adapters' A weights;
- attention: 12 · layers · heads · head size · sequence length, halved because it is causal, in both methods.
  `mfu_palm` is with the unhalved term, as PaLM counts it.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ftlib.data.pack import PackedSplit
from ftlib.models.adapt import AdapterSpec, add_adapter
from ftlib.models.load import load_model, load_tokenizer
from ftlib.train.loop import LoopSettings, train
from ftlib.train.schedule import Schedule
from ftlib.train.strategy import SingleProcess
from tests.gpu.cases import write_llama, write_packs

RANK = 16
SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "1b": {
        "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "3b": {
        "vocab_size": 128_256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "num_key_value_heads": 8,
    },
}  # fmt: skip
"""The shapes of Llama 3.2."""
PEAKS = (("H200", 989e12), ("H100 PCIe", 756e12), ("H100", 989e12), ("A100", 312e12))
"""Dense bfloat16 FLOP/s by the device's name, from NVIDIA's data sheets; the first that is part of the name counts."""


class _Enough(Exception):
    """All timed steps are done: nobody evaluates or saves."""


class Watch:
    """Seconds of steps after the warm-up; ends the run after the last."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._device, self._left = torch.device(options.device), options.warmup + options.steps
        self._warmup = options.warmup
        self._last = 0.0
        self.seconds: list[float] = []

    def step_done(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last, self._left = now, self._left - 1
        if not self._left:
            self.seconds = self.seconds[max(1, self._warmup) :]
            raise _Enough


def flops_per_token(sizes: dict[str, int], method: str, sequence: int, *, causal: bool) -> float:
    """See the head of this file."""
    hidden, inner, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    narrow = hidden * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    linear = [(hidden, hidden), (hidden, narrow), (hidden, narrow), (hidden, hidden)]
    linear += [(hidden, inner), (hidden, inner), (inner, hidden)]
    weights = layers * sum(rows * columns for rows, columns in linear) + hidden * sizes["vocab_size"]
    adapters = layers * sum(RANK * (rows + columns) for rows, columns in linear)
    attention = 12 * layers * hidden * sequence * (0.5 if causal else 1.0)
    return (6 * weights if method == "full" else 4 * weights + 6 * adapters) + attention


def loop_settings(root: Path, options: argparse.Namespace) -> LoopSettings:
    return LoopSettings(
        run_dir=root / "run",
        model_folder=root / "model",
        base_source="random",
        train_data=root / "data",
        val_data=None,
        resume_key="bench",
        schedule=Schedule(1e-5, options.warmup + options.steps + 1, "constant", 0.0),
        kind=options.method,
        adapter=AdapterSpec(rank=RANK),
        batch_size=options.micro_batch * options.accumulation,
        micro_batch_size=options.micro_batch,
        precision=torch.bfloat16,
        activation_checkpointing=options.checkpointing,
        attention=options.attention,
        compile=options.compile,
    )


def our_loop(root: Path, options: argparse.Namespace, watch: Watch) -> None:
    """The loop as it is."""

    class Watched(SingleProcess):
        def step(self, learning_rate: float) -> float:
            norm = super().step(learning_rate)
            watch.step_done()
            return norm

    settings = loop_settings(root, options)
    settings.run_dir.mkdir(exist_ok=True)
    train(settings, Watched(torch.device(options.device)))


def first_model(root: Path, options: argparse.Namespace) -> Any:
    """The peers' model, as they themselves would load it: PyTorch's attention, adapters in float32."""
    dtype = torch.float32 if options.method == "full" else torch.bfloat16
    model = load_model(root / "model", dtype, options.device)
    model.config.use_cache = False
    return (model if options.method == "full" else add_adapter(model, AdapterSpec(rank=RANK))).train()


def examples(root: Path) -> list[dict[str, list[int]]]:
    split = PackedSplit(root / "data")
    packs = [
        (pack.input_ids.tolist(), pack.position_ids.tolist()) for pack in map(split.__getitem__, range(len(split)))
    ]
    return [{"input_ids": ids, "labels": ids, "position_ids": positions} for ids, positions in packs]


def stack(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels", "position_ids")}


def trainer(root: Path, options: argparse.Namespace, watch: Watch) -> None:
    """Hugging Face's Trainer, or TRL's SFTTrainer, with the same batches; gradients through PyTorch's fused AdamW."""
    from transformers import TrainerCallback

    class Watching(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            watch.step_done()

    values: dict[str, Any] = {
        "output_dir": str(root / "peer"), "max_steps": options.warmup + options.steps + 1,
        "per_device_train_batch_size": options.micro_batch, "gradient_accumulation_steps": options.accumulation,
        "gradient_checkpointing": options.checkpointing, "learning_rate": 1e-5, "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused", "remove_unused_columns": False, "logging_strategy": "no", "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "torch_compile": options.compile, "bf16": True,
        "use_cpu": options.device == "cpu",
    }  # fmt: skip
    if options.checkpointing:
        values["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    common: dict[str, Any] = {"model": first_model(root, options), "callbacks": [Watching()], "data_collator": stack}
    if peer_name() == "trl":
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(**values, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
        data = Dataset.from_list(examples(root))
        SFTTrainer(
            **common, args=arguments, train_dataset=data, processing_class=load_tokenizer(root / "model")
        ).train()
        return
    from transformers import Trainer, TrainingArguments

    Trainer(**common, args=TrainingArguments(**values), train_dataset=examples(root)).train()  # type: ignore[arg-type]


def reference_loop(root: Path, options: argparse.Namespace, watch: Watch) -> None:
    """What one writes by hand: all logits, autocast, fused AdamW."""
    model, device = first_model(root, options), torch.device(options.device)
    if options.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if options.compile:
        model.compile()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, fused=device.type == "cuda" or None)
    rows, at = examples(root), 0
    while True:
        for _ in range(options.accumulation):
            batch = stack([rows[(at + place) % len(rows)] for place in range(options.micro_batch)])
            at += options.micro_batch
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
            (loss / options.accumulation).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch.step_done()


def peer_name() -> str:
    """`trl`, `transformers` (its Trainer needs accelerate) or `reference`."""

    def there(*names: str) -> bool:
        return all(importlib.util.find_spec(name) for name in names)

    return "trl" if there("trl", "datasets") else "transformers" if there("accelerate") else "reference"


def measure(contender: Callable[..., None], root: Path, options: argparse.Namespace) -> tuple[float, float | None]:
    """Median seconds of a step, and the peak of allocated memory in GB."""
    on_gpu, watch = torch.device(options.device).type == "cuda", Watch(options)
    torch._dynamo.reset()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(options.device)
    with contextlib.suppress(_Enough):
        contender(root, options, watch)
    peak = torch.cuda.max_memory_allocated(options.device) / 1e9 if on_gpu else None
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return statistics.median(watch.seconds), peak


def compare(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    device, sizes = torch.device(options.device), SIZES[options.size]
    limits = {"max_position_embeddings": options.seq_len, "tie_word_embeddings": True}
    write_llama(root / "model", device, torch.bfloat16, **sizes, **limits)
    sequence = options.seq_len // options.sequences
    num_packs = options.micro_batch * options.accumulation * 4
    lengths = [sequence] * (num_packs * options.sequences)
    write_packs(root / "data", lengths, sequence * options.sequences, sizes["vocab_size"])
    peer = peer_name()
    contenders = {"ours": our_loop}
    if not options.alone:
        contenders[peer] = reference_loop if peer == "reference" else trainer
    taken: dict[str, list[tuple[float, float | None]]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            taken[name].append(measure(contenders[name], root, options))
            print(f"{name}: {taken[name][-1][0]:.4f} s a step, peak {taken[name][-1][1]} GB", flush=True)
    tokens = options.micro_batch * options.accumulation * sequence * options.sequences
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak_flops = next((value for name, value in PEAKS if name in kind), None)
    result: dict[str, Any] = {"device": kind, "torch": torch.__version__, "peak_flops": peak_flops, **vars(options)}
    for name, runs in taken.items():
        rate = tokens / statistics.median(seconds for seconds, _ in runs)
        mfu = {
            key: peak_flops and rate * flops_per_token(sizes, options.method, sequence, causal=causal) / peak_flops
            for key, causal in (("mfu", True), ("mfu_palm", False))
        }
        result[name] = {"tokens_per_s": rate, **mfu, "peak_memory_gb": runs[-1][1]}
    if not options.alone:
        pairs = zip(taken["ours"], taken[peer], strict=True)
        result |= {"peer": peer, "tokens_vs_peer": statistics.median(theirs[0] / ours[0] for ours, theirs in pairs)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="1b")
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--seq-len", type=int, default=4096)
    parser.add_argument("--sequences", type=int, default=1, help="sequences in a pack")
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--attention", default="auto", help="of our loop; the peer takes PyTorch's")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--alone", action="store_true", help="no peer")
    parser.add_argument("--warmup", type=int, default=4, help="steps before those that are timed")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print(json.dumps({"skipped": "needs a CUDA device: torch.cuda is not available"}))
        return
    with tempfile.TemporaryDirectory(prefix="ftlib-bench-") as folder:
        result = compare(Path(folder), options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
