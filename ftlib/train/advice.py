"""`advise=true`: whether to tune at all, with which method and rank, on what hardware, and why.

In: a configuration (its model, data, length and batch; `advice` says what may be spent). Out: short text for a person
and the same as JSON, with the overrides that put it into effect. Every rule rests on something published:

- Under 50 rows prompting comes first: OpenAI's guide to fine-tuning sees clear improvements from 50 to 100 examples.
  A label of fewer than 16 rows is below what few-shot fine-tuning is measured with (Gao et al. 2021, "LM-BFF").
- LoRA on all linear layers learns as well as full tuning while its capacity holds the data (Schulman et al. 2025,
  "LoRA Without Regret"), and forgets less (Biderman et al. 2024). A parameter stores about 2 bits (Allen-Zhu & Li 2024,
  "Physics of Language Models 3.3"); a supervised token is taken to need 1 bit. So the rank is the smallest power of
  two, from 8, whose adapters hold the supervised tokens. Past rank 256 the data asks for full tuning, if that fits.
- QLoRA (Dettmers et al. 2023) where a 16-bit base does not fit: its steps are about a fifth slower (a published pair
  for 8B on a 4090: 2,413 against 3,083 tokens/s).
- Time: 6·N operations a token for full tuning (Kaplan et al. 2020), 4·N for adapters, whose frozen weights need no
  gradients, and 2·N more with checkpointing; N without the input embedding; at `advice.mfu` of the peak.
- Latency: each generated token reads all weights once (Pope et al. 2022), so no less than their bytes over bandwidth.
- Memory: `ftlib.train.plan`.

Communication between GPUs is not in the times: within one node of up to 8 it is hidden for the most part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import format_duration
from ftlib.train.devices import GPUS
from ftlib.train.fit import Overrides, parts, settings, with_overrides
from ftlib.train.plan import GIB, MemoryPlan, ModelShape, plan_memory

MIN_ROWS = 50
MIN_LABEL_ROWS = 16
BITS_PER_PARAMETER = 2.0
BITS_PER_TOKEN = 1.0
RANKS = (8, 16, 32, 64, 128, 256)
_KINDS = ("L4", "A10G", "L40S", "A100-40G", "A100-80G", "H100", "H200")
_MICRO_BATCHES = (8, 4, 2, 1)


@dataclass(frozen=True)
class Choice:
    """A method on some hardware."""

    method: str
    gpu: str
    num_gpus: int
    overrides: Overrides
    plan: MemoryPlan
    hours: float


def advise(config: TrainConfig) -> dict[str, Any]:
    """Print advice and return it as JSON; raises UserError where data and model do not fit, or nothing does."""
    from ftlib.models.source import read_config
    from ftlib.train.inspection import read_split
    from ftlib.train.preflight import check_run

    inputs = check_run(with_overrides(config, {"train.check_memory": False}))
    counts, _ = read_split(config, inputs, 0)
    advice = make_advice(config, ModelShape.from_config(read_config(inputs.model_folder)), counts)
    print(as_text(advice), flush=True)
    return advice


def make_advice(config: TrainConfig, shape: ModelShape, counts: dict[str, Any]) -> dict[str, Any]:
    """The advice for a model's shape and the counts of `ftlib.train.inspection.read_split`."""
    scale = counts["num_rows"] / max(counts["num_rows_read"], 1)
    supervised = round(counts["num_tokens"] * counts["supervised_share"] * scale)
    steps = counts["num_steps"] if config.train.max_steps else counts["num_steps"] * scale
    tokens = round(steps * config.train.global_batch_size * config.train.max_seq_len * counts["fill"])
    tune, reasons = _worth_tuning(counts)
    rank, reason = _pick_rank(shape, supervised)
    reasons.append(reason)
    choice, reason = _pick_hardware(config, shape, rank, tokens)
    reasons.append(reason)
    if config.advice.latency_ms:
        reasons.append(_latency(config, shape, choice))
    return {
        "tune": tune,
        "method": choice.method,
        "rank": None if choice.method == "full" else choice.overrides["method.rank"],
        "gpu": choice.gpu,
        "num_gpus": choice.num_gpus,
        "hours": round(choice.hours, 2),
        "within_budget": choice.hours <= config.advice.max_hours,
        "tokens": tokens,
        "supervised_tokens": supervised,
        "memory": choice.plan.as_json(),
        "overrides": settings(choice.overrides),
        "reasons": reasons,
    }


def as_text(advice: dict[str, Any]) -> str:
    """A few lines for a person."""
    method = advice["method"] if advice["rank"] is None else f"{advice['method']}, rank {advice['rank']}"
    lines = [
        f"Tune: {'yes' if advice['tune'] else 'not yet'}",
        f"Method: {method}",
        f"Hardware: {advice['num_gpus']} × {advice['gpu']}, about {format_duration(3600 * advice['hours'])} and "
        f"{advice['memory']['total_gib']} GiB each",
        f"Settings: {advice['overrides']}",
        "Why:",
        *(f"- {reason}" for reason in advice["reasons"]),
    ]
    return "\n".join(lines)


def _worth_tuning(counts: dict[str, Any]) -> tuple[bool, list[str]]:
    rows = counts["num_rows"] - counts["num_unsupervised"]
    if rows < MIN_ROWS:
        return False, [
            f"{rows} rows teach something; gains are seen from {MIN_ROWS} on: put examples into the prompt, or get more"
        ]
    reasons = [f"{rows:,} rows teach something, {MIN_ROWS} or more: tuning is worth a try beside a prompted base"]
    if 0 < counts["rarest_label_rows"] < MIN_LABEL_ROWS:
        reasons.append(
            f"the rarest of {counts['num_labels']} labels has {counts['rarest_label_rows']} rows, fewer than "
            f"{MIN_LABEL_ROWS}: collect more of it or give it weight (data.class_weights)"
        )
    return True, reasons


def _pick_rank(shape: ModelShape, supervised: int) -> tuple[int | None, str]:
    """The smallest rank whose adapters hold the data; None when none does."""
    largest = min(min(sides) for sides in shape.linears)
    needed = supervised * BITS_PER_TOKEN / BITS_PER_PARAMETER
    for rank in RANKS:
        if rank <= largest and (held := shape.num_adapter_params(rank)) >= needed:
            return rank, (
                f"{supervised:,} supervised tokens need about {needed / 1e6:.2f} M parameters; adapters of rank "
                f"{rank} have {held / 1e6:.2f} M, so LoRA learns as well as full tuning and forgets less"
            )
    return None, f"{supervised:,} supervised tokens are more than adapters of rank {RANKS[-1]} hold: full tuning"


def _pick_hardware(config: TrainConfig, shape: ModelShape, rank: int | None, tokens: int) -> tuple[Choice, str]:
    """The least hardware that fits and keeps the time; else the fastest that fits."""
    largest = min(min(sides) for sides in shape.linears)
    adapter = {"method.rank": rank or max(known for known in (1, *RANKS) if known <= largest)}
    methods: list[Overrides] = [{"method.kind": kind} | adapter for kind in ("lora", "qlora")]
    if rank is None:
        methods.insert(0, {"method.kind": "full"})
    slowest: Choice | None = None
    for method in methods:
        choices = list(_choices(config, shape, method, tokens))
        for choice in choices:
            if choice.hours <= config.advice.max_hours:
                return choice, (
                    f"{choice.num_gpus} × {choice.gpu} is the least that fits ({parts(choice.plan)} GiB) and trains "
                    f"{tokens:,} tokens within {config.advice.max_hours:g} h at {config.advice.mfu:.0%} of its peak"
                )
        fastest = min(choices, key=lambda choice: choice.hours, default=None)
        if fastest and (slowest is None or fastest.hours < slowest.hours):
            slowest = fastest
    if slowest is None:
        raise UserError(
            f"advise: no method fits advice.max_gpus {config.advice.max_gpus} of "
            f"{config.advice.gpu or 'any known kind'} at train.max_seq_len {config.train.max_seq_len}"
        )
    return slowest, (
        f"nothing within advice.max_gpus {config.advice.max_gpus} trains {tokens:,} tokens in advice.max_hours "
        f"{config.advice.max_hours:g}; this is the fastest: allow more, or fewer epochs"
    )


def _choices(config: TrainConfig, shape: ModelShape, method: Overrides, tokens: int) -> Iterator[Choice]:
    """What fits, the least arithmetic first."""
    kinds = [config.advice.gpu] if config.advice.gpu else _KINDS
    counts = [2**power for power in range(config.advice.max_gpus.bit_length()) if 2**power <= config.advice.max_gpus]
    hardware = sorted(
        (count * GPUS[kind].flops, GPUS[kind].memory_bytes, kind, count) for kind in kinds for count in counts
    )
    for flops, _, kind, count in hardware:
        if found := _mildest(config, shape, method, kind, count):
            overrides, plan = found
            per_token = 6 if method["method.kind"] == "full" else 4
            per_token += 2 if overrides["train.activation_checkpointing"] else 0
            computed = shape.num_linear_params + shape.vocab * shape.hidden
            hours = per_token * computed * tokens / (flops * config.advice.mfu) / 3600
            yield Choice(str(method["method.kind"]), kind, count, overrides, plan, hours)


def _mildest(
    config: TrainConfig, shape: ModelShape, method: Overrides, kind: str, count: int
) -> tuple[Overrides, MemoryPlan] | None:
    """The settings that fit with the least cost: no checkpointing before it, low ZeRO stages before high ones."""
    stages = (2, 3) if method["method.kind"] == "full" else (2,)
    for checkpointing in (False, True):
        for stage in stages:
            for micro in _MICRO_BATCHES:
                overrides: Overrides = {
                    **method,
                    "scaling.use_gpu": True,
                    "scaling.accelerator_type": kind,
                    "scaling.num_workers": count,
                    "parallel.strategy": "deepspeed",
                    "parallel.zero_stage": stage,
                    "train.micro_batch_size": micro,
                    "train.activation_checkpointing": checkpointing,
                }
                try:
                    plan = plan_memory(with_overrides(config, overrides), shape)
                except (ValidationError, UserError):
                    continue  # the batch cannot be divided so
                if plan.fits:
                    return overrides, plan
    return None


def _latency(config: TrainConfig, shape: ModelShape, choice: Choice) -> str:
    """Whether one conversation is served fast enough on one such GPU."""
    least = 1000 * 2 * shape.num_params / GPUS[choice.gpu].bandwidth_bytes
    wanted = config.advice.latency_ms or 0.0
    verdict = "keeps" if least <= wanted else "cannot keep"
    more = "" if least <= wanted else ": take a smaller base, a quantised copy or a GPU with more bandwidth"
    size = 2 * shape.num_params / GIB
    return (
        f"serving reads {size:.1f} GiB of 16-bit weights a token: at least {least:.1f} ms on one {choice.gpu}, which "
        f"{verdict} advice.latency_ms {wanted:g}{more}"
    )
