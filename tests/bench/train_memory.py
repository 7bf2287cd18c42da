"""Peak memory of one forward and backward pass with the loss inside the output layer, beside the plain loss.

    python -m tests.bench.train_memory [--model embedded:smollm2-135m] [--tokens 2048] [--methods lora,full]

One pack in float32 on a CPU, every token learnt, with activation checkpointing. Plain: all logits at once and torch's
cross-entropy. Each measurement has a process of its own: resident memory is read when the model is loaded and its
weights have been touched (they are mapped from a file); the kernel's high-water mark is reset there and read at the
end. What lies between is activations, logits and gradients. As in any run with activation checkpointing, glibc is told
to give freed blocks back at once (`ftlib.train.host_memory`), for both: what it keeps otherwise is several times what
is in use and says nothing about either loss (`--keep-freed` shows it). Both losses are compared, so that both did the
same work.

The last line is JSON; the exit code is 1 when the ratio is above 0.6.
"""

import argparse
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

LIMIT = 0.6
MB = 1e6


def measure(folder: Path, tokens: int, method: str, chunked: bool, keep_freed: bool, pipe: Any) -> None:
    """Send memory before and at the peak, in bytes, and the mean loss."""
    import numpy as np
    import torch

    from ftlib.data.pack import Pack
    from ftlib.models.adapt import AdapterSpec, add_adapter
    from ftlib.models.load import load_model
    from ftlib.train.attention import set_attention
    from ftlib.train.batches import Forward, collate
    from ftlib.train.head import find_loss_head
    from ftlib.train.host_memory import give_back_freed_blocks

    cpu = torch.device("cpu")
    if not keep_freed:
        give_back_freed_blocks()
    model = load_model(folder)
    pack_hint = set_attention(model, "auto", cpu, torch.float32)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if method == "lora":
        torch.manual_seed(0)
        model = add_adapter(model, AdapterSpec(rank=16))
    model.train()
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, tokens).astype(np.int32)
    pack = Pack(ids, np.arange(tokens, dtype=np.int32), np.r_[0.0, np.ones(tokens - 1)].astype(np.float32))
    batch = collate([pack], 0, cpu)
    forward = Forward(model, find_loss_head(model) if chunked else None, pack_hint)
    for parameter in model.parameters():
        parameter.detach().sum()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from the present size
    before = _status_bytes("VmRSS")
    loss = forward.loss(batch)
    loss.backward()
    pipe.send((before, _status_bytes("VmHWM"), loss.item() / (tokens - 1)))


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def in_process(folder: Path, tokens: int, method: str, chunked: bool, keep_freed: bool) -> tuple[int, int, float]:
    """What `measure` found in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(folder, tokens, method, chunked, keep_freed, theirs))
    process.start()
    theirs.close()
    try:
        found: tuple[int, int, float] = ours.recv()
    finally:
        process.join()
    return found


def main() -> int:
    from ftlib.models.source import resolve_source

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--methods", default="lora,full")
    parser.add_argument("--keep-freed", action="store_true", help="leave glibc as it is")
    options = parser.parse_args()
    folder, found = resolve_source(options.model), {}
    print(f"{'':6} {'weights MB':>10} {'plain MB':>10} {'chunked MB':>10} {'ratio':>6}")
    for method in options.methods.split(","):
        before, peak, plain_loss = in_process(folder, options.tokens, method, False, options.keep_freed)
        before_chunked, peak_chunked, loss = in_process(folder, options.tokens, method, True, options.keep_freed)
        assert abs(loss - plain_loss) < 1e-5 * plain_loss, f"losses {loss} and {plain_loss}: not the same work"
        plain, chunked = peak - before, peak_chunked - before_chunked
        found[method] = {"plain_mb": plain / MB, "chunked_mb": chunked / MB, "ratio": chunked / plain}
        print(
            f"{method:6} {before / MB:10.0f} {plain / MB:10.0f} {chunked / MB:10.0f} {chunked / plain:6.2f}", flush=True
        )
    holds = all(values["ratio"] <= LIMIT for values in found.values())
    print(json.dumps({"bench": "train_memory", "tokens": options.tokens, "limit": LIMIT, **found, "holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
