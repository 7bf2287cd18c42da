"""What a training configuration asks of each worker's memory, worked out without weights, a GPU or torch.

In: a `TrainConfig` and the model's shape (from `config.json`, or the table below for models not at hand).
Out: a `MemoryPlan`, bytes per worker by use: of its GPU, or of the host for a worker on CPUs. The formulas:

- states of P trained of N parameters (Rajbhandari et al. 2020, "ZeRO"): 2 bytes of weights, 2 of gradients and 12 of
  optimiser (fp32 master copy and two AdamW moments) for a parameter trained in 16 bits; without ZeRO, and for adapters,
  fp32 weights: 4 + 4 + 8. ZeRO-1 divides the optimiser by the number of workers, ZeRO-2 the gradients, ZeRO-3 the
  weights. A frozen base has the computing precision. Private training adds 8 bytes of gradients for each sequence of a
  micro-batch, and 8 for their sum.
- a 4-bit base (Dettmers et al. 2023, "QLoRA"): 0.5 bytes a parameter of the linear layers and 0.127 bits of constants;
  an 8-bit one: 1 byte.
- activations (the method of Korthikanti et al. 2022, for gated MLPs and grouped keys, attention scores not kept, as
  flash and memory-efficient attention do not): every tensor that a layer's backward pass reads, see `block_bytes`;
  with checkpointing only each layer's input and one layer's inside. Automatic mixed precision adds 16-bit copies of
  fp32 weights.
- the loss: logits of all positions with their float32 copies (an upper bound: only supervised positions have logits),
  or with `train.chunked_loss` a chunk of them, and the gradients that are taken at once.

What is left out of these: CUDA's context and NCCL's buffers, on CPUs the interpreter with its libraries (`*_OVERHEAD`),
and fragmentation (`FRAGMENTATION`). `python -m tests.bench.train_plan` compares plans with measured peaks.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import is_uri, local_path, read_json
from ftlib.train.devices import GPUS, host_has_bfloat16, host_memory_bytes, local_gpu_bytes

logger = get_logger(__name__)

GIB = 1024**3
GPU_OVERHEAD_BYTES = 2 * GIB
FRAGMENTATION = 0.05
ZERO3_LIVE_BYTES = 2 * 10**9  # DeepSpeed's stage3_max_live_parameters, 1e9, in 16 bits
CPU_OVERHEAD_BYTES = 7 * 10**8
HEAP_SLACK = 0.5
"""On CPUs: what glibc's heap keeps of freed blocks, as a share of what the backward pass of all layers reads (measured,
`tests.bench.train_plan`). With checkpointing the loop has it give them back (`ftlib.train.host_memory`)."""
LOSS_CHUNK_BYTES = 32 << 20  # ftlib.train.head.CHUNK_BYTES, which needs torch
_CLUSTER_VARIABLES = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")  # workers may be on other machines
_NF4_BYTES = 0.5 + 0.127 / 8


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder with gated MLPs and grouped-query attention."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool = False
    max_positions: int = 131_072

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ModelShape":
        """Read a model's `config.json`; raises UserError when a size is missing."""
        config = config.get("text_config", config)
        try:
            return cls(
                hidden=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
                intermediate=config["intermediate_size"],
                vocab=config["vocab_size"],
                tied=config.get("tie_word_embeddings", False),
                max_positions=config.get("max_position_embeddings", 131_072),
            )
        except KeyError as error:
            raise UserError(f"config.json: no {error}, so its memory cannot be planned") from None

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of the linear layers of one block."""
        kv = self.hidden // self.heads * self.kv_heads
        attention = [(self.hidden, self.hidden), (self.hidden, kv), (self.hidden, kv), (self.hidden, self.hidden)]
        return attention + [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]

    @property
    def num_linear_params(self) -> int:
        """Parameters of all linear layers of the blocks."""
        return self.layers * sum(rows * columns for rows, columns in self.linears)

    @property
    def num_params(self) -> int:
        """All parameters."""
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.num_linear_params + embeddings + self.layers * 2 * self.hidden + self.hidden

    def num_adapter_params(self, rank: int) -> int:
        """Parameters of a LoRA of this rank on all linear layers."""
        return self.layers * sum(rank * (rows + columns) for rows, columns in self.linears)


SHAPES = {
    "llama-3.1-8b": ModelShape(4096, 32, 32, 8, 14_336, 128_256),
    "llama-3.1-70b": ModelShape(8192, 80, 64, 8, 28_672, 128_256),
    "llama-3.3-70b": ModelShape(8192, 80, 64, 8, 28_672, 128_256),
}
"""Published shapes, for planning before the weights are at hand."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each worker (on its GPU, or of the host), by use, and what they rest on."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    overhead_bytes: int
    host_bytes: int
    """Per worker in host memory, by offloading."""
    device_bytes: int | None
    """Size of the configured accelerator, or this host's memory for each worker on CPUs; None if it is not known."""
    num_params: int
    num_trained_params: int
    gradient_accumulation: int
    num_workers: int

    @property
    def total_bytes(self) -> int:
        """Expected peak."""
        used = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        used += self.activations_bytes + self.logits_bytes
        return round(used * (1 + FRAGMENTATION)) + self.overhead_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the peak is below the device's size; None when the device is not known."""
        return None if self.device_bytes is None else self.total_bytes <= self.device_bytes

    def as_json(self) -> dict[str, Any]:
        """Everything, with the sum and a reading in GiB."""
        return {
            **asdict(self),
            "total_bytes": self.total_bytes,
            "total_gib": round(self.total_bytes / GIB, 1),
            "fits": self.fits,
        }


def find_shape(source: str) -> ModelShape | None:
    """The shape of a model named in the table, by the last part of its source (`-instruct` and `meta-` set aside)."""
    name = source.rstrip("/").rsplit("/", 1)[-1].lower().removeprefix("meta-").removesuffix("-instruct")
    return SHAPES.get(name)


def shape_of(config: TrainConfig) -> ModelShape:
    """The shape of the base, from its folder, else from the table; raises UserError when neither is there."""
    source = config.model.source
    folder = local_path(source) if not is_uri(source) else None
    if folder is not None and (folder / "config.json").exists():
        return ModelShape.from_config(read_json(str(folder / "config.json")))
    shape = find_shape(source)
    if shape is None:
        raise UserError(
            f"dry_run: model.source {source} is neither a local folder with config.json nor one of "
            + ", ".join(sorted(SHAPES))
        )
    return shape


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """The plan of a configuration as plain JSON; raises UserError where the model's shape is not known."""
    shape = shape_of(config)
    plan = plan_memory(config, shape).as_json()
    logger.info(
        "%s, %s, %d workers: about %.1f GiB each (weights %.1f, gradients %.1f, optimiser %.1f, activations %.1f, "
        "logits %.1f)", config.model.source, config.method.kind, config.scaling.num_workers, plan["total_gib"],
        *(plan[f"{name}_bytes"] / GIB for name in ("weights", "gradients", "optimizer", "activations", "logits")),
    )  # fmt: skip
    return plan


def plan_memory(config: TrainConfig, shape: ModelShape) -> MemoryPlan:
    """Work out the memory of one worker; raises UserError for a length or rank that the model has not."""
    if config.train.max_seq_len > shape.max_positions:
        raise UserError(f"train.max_seq_len {config.train.max_seq_len} is above the model's {shape.max_positions}")
    smallest = min(min(sides) for sides in shape.linears)
    use = _Use.of(config)
    if use.adapts and config.method.rank > smallest:
        raise UserError(f"method.rank {config.method.rank} is above the smallest layer's side {smallest}")
    trained = shape.num_adapter_params(config.method.rank) if use.adapts else shape.num_params
    weights, gradients, optimizer = _states(config, shape, use, trained)
    activations, host = _activations(config, shape, use), 0
    if use.zero_stage == 0 and config.gradient_accumulation == 1 and config.privacy is None:
        activations = max(0, activations - gradients)  # a backward pass makes those while it frees these
    if config.parallel.offload_optimizer:
        host, optimizer = host + optimizer, 0
    if config.parallel.offload_params:
        largest = use.value_bytes * max(
            shape.vocab * shape.hidden, *(rows * columns for rows, columns in shape.linears)
        )
        host, weights = host + weights, largest
    return MemoryPlan(
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_bytes=optimizer,
        activations_bytes=activations,
        logits_bytes=_loss(config, shape, use),
        overhead_bytes=GPU_OVERHEAD_BYTES if config.scaling.use_gpu or use.quantised else CPU_OVERHEAD_BYTES,
        host_bytes=host,
        device_bytes=_device_bytes(config),
        num_params=shape.num_params,
        num_trained_params=trained,
        gradient_accumulation=config.gradient_accumulation,
        num_workers=config.scaling.num_workers,
    )


@dataclass(frozen=True)
class _Use:
    """What of a configuration decides the size of values."""

    value_bytes: int
    """Of a value in the computing precision."""
    zero_stage: int
    adapts: bool
    quantised: bool
    on_cpu: bool

    @classmethod
    def of(cls, config: TrainConfig) -> "_Use":
        precision, on_gpu = config.train.precision, config.scaling.use_gpu
        native = on_gpu if precision == "auto" else precision != "float32"
        if precision == "auto" and not on_gpu:
            native = host_has_bfloat16()
        return cls(
            value_bytes=2 if native else 4,
            zero_stage=config.parallel.zero_stage if config.parallel.strategy == "deepspeed" else 0,
            adapts=config.method.kind != "full",
            quantised=config.method.kind == "qlora",
            on_cpu=not on_gpu,
        )

    @property
    def autocast(self) -> bool:
        """Automatic mixed precision, which casts what goes into each matrix product; ZeRO casts the model instead."""
        return self.value_bytes == 2 and self.zero_stage == 0


def _device_bytes(config: TrainConfig) -> int | None:
    """Of a named kind of GPU; else of this machine where it is the one that will train."""
    if config.scaling.accelerator_type in GPUS:
        return GPUS[config.scaling.accelerator_type].memory_bytes
    if config.cluster.address or any(name in os.environ for name in _CLUSTER_VARIABLES):
        return None
    return local_gpu_bytes() if config.scaling.use_gpu else host_memory_bytes() // config.scaling.num_workers


def _states(config: TrainConfig, shape: ModelShape, use: _Use, trained: int) -> tuple[int, int, int]:
    """Weights, gradients and optimiser states of one worker, before offloading."""
    workers, stage = config.scaling.num_workers, use.zero_stage
    if use.adapts:
        base = float(use.value_bytes * shape.num_params)
        if use.quantised:
            quantised = _NF4_BYTES if config.method.bits == 4 else 1.0
            base += (quantised - use.value_bytes) * shape.num_linear_params
        weights, gradients, optimizer = round(base) + 4 * trained, 4 * trained, 8 * trained
    elif stage:
        weights, gradients, optimizer = use.value_bytes * trained, use.value_bytes * trained, 12 * trained
    else:
        weights, gradients, optimizer = 4 * trained, 4 * trained, 8 * trained
    if config.privacy is not None:  # a gradient per sequence, its float32 copy, and the float64 sum
        gradients += trained * (8 * config.train.micro_batch_size + 8)
    gathered = min(ZERO3_LIVE_BYTES, weights)
    hpz = config.parallel.hpz_partition_size
    second = weights // hpz if hpz > 1 else 0
    return (
        weights // workers + gathered + second if stage >= 3 else weights,
        gradients // (workers if stage >= 2 else 1),
        optimizer // (workers if stage >= 1 else 1),
    )


def _tokens(config: TrainConfig) -> int:
    return config.train.micro_batch_size * config.train.max_seq_len


def _activations(config: TrainConfig, shape: ModelShape, use: _Use) -> int:
    """Bytes kept for the backward pass of one micro-batch, and those of the gradients on the way through one layer."""
    tokens, block = _tokens(config), block_bytes(config, shape)
    full_autocast = use.autocast and not use.adapts
    extra = 2 * (shape.num_linear_params + shape.vocab * shape.hidden) if full_autocast else 0
    passing = use.value_bytes * (3 * shape.intermediate + 2 * shape.hidden)
    if config.train.activation_checkpointing:
        stream = 4 if full_autocast else use.value_bytes
        return extra + tokens * (stream * shape.hidden * shape.layers + block + passing)
    slack = HEAP_SLACK if use.on_cpu else 0.0
    return extra + round(tokens * (block * shape.layers * (1 + slack) + passing))


def block_bytes(config: TrainConfig, shape: ModelShape) -> int:
    """Bytes per token that the backward pass of one layer reads.

    RMSNorm keeps its input in float32, and its output before the weight where that trains. Matrix products keep their
    input where a weight or an adapter trains: queries, keys and values share one, as gate and up do, but automatic
    mixed precision casts it for each anew. Attention keeps queries, keys, values and output (keys and values repeated
    for each head: a pack's mask and the attention by sequence need them so); the MLP its gate, the gate's activation,
    up, and the product.
    """
    use = _Use.of(config)
    hidden, inner, value = shape.hidden, shape.intermediate, use.value_bytes
    kv = hidden if use.on_cpu or config.data.packing else hidden // shape.heads * shape.kv_heads
    norms = 2 * 4 * hidden
    if not use.adapts:
        norms += 2 * hidden * (4 if use.autocast else value)
    inputs = (3 + 2 if use.autocast else 2) * hidden + hidden
    kept = value * (inputs + 2 * hidden + 2 * kv + 4 * inner)
    if use.adapts:
        kept += value * config.method.rank * len(shape.linears)
    return norms + kept


def _loss(config: TrainConfig, shape: ModelShape, use: _Use) -> int:
    """Logits and their gradients, or what the loss inside the output layer holds."""
    tokens = _tokens(config)
    if not config.train.chunked_loss:
        return tokens * shape.vocab * (8 if use.value_bytes == 4 else 10)
    chunk = LOSS_CHUNK_BYTES + 2 * LOSS_CHUNK_BYTES * use.value_bytes // 4
    gradients = 2 * use.value_bytes * tokens * shape.hidden
    return chunk + gradients + (0 if use.adapts else 2 * 4 * shape.vocab * shape.hidden)
