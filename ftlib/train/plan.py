"""What a training configuration asks of each GPU, worked out without weights, a GPU or torch.

In: a `TrainConfig` and the model's shape (from `config.json`, or the table below for models not at hand).
Out: a `MemoryPlan`, bytes per GPU by use. The formulas:

- states of P trained of N parameters (Rajbhandari et al. 2020, "ZeRO"): 2 bytes of weights, 2 of gradients and 12 of
  optimiser (fp32 master copy and two AdamW moments) for a parameter trained in 16 bits; adapters are held in fp32:
  4 + 4 + 8. ZeRO-1 divides the optimiser by the number of workers, ZeRO-2 the gradients, ZeRO-3 the weights. Private
  training adds 8 bytes of gradients for each sequence of a micro-batch, and 8 for their sum.
- a 4-bit base (Dettmers et al. 2023, "QLoRA"): 0.5 bytes a parameter of the linear layers and 0.127 bits of constants;
  an 8-bit one: 1 byte.
- activations (after Korthikanti et al. 2022, with the widths of gated MLPs and grouped keys, attention scores not kept,
  as flash and memory-efficient attention do not): every input that a layer's backward pass reads, in 2 bytes; with
  checkpointing only each layer's input and one layer's inside.
- logits: fp32 logits and their gradient at every position that supervises, here all of them: an upper bound.

What is left out: CUDA's context and NCCL's buffers (`OVERHEAD_BYTES`), and fragmentation (`FRAGMENTATION`).
"""

from dataclasses import asdict, dataclass
from typing import Any

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import is_uri, local_path, read_json

logger = get_logger(__name__)

GIB = 1024**3
OVERHEAD_BYTES = 2 * GIB
FRAGMENTATION = 0.05
ZERO3_LIVE_BYTES = 2 * 10**9  # DeepSpeed's stage3_max_live_parameters, 1e9, in 16 bits
DEVICE_BYTES = {"A100-40G": 40 * 10**9, "A100-80G": 80 * 10**9, "A100": 80 * 10**9, "H100": 80 * 10**9}
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
    """Bytes on each GPU, by use, and what they rest on."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    overhead_bytes: int
    host_bytes: int
    """Per worker in host memory, by offloading."""
    device_bytes: int | None
    """Size of the configured accelerator, if it is known."""
    num_params: int
    num_trained_params: int
    gradient_accumulation: int
    num_workers: int

    @property
    def total_bytes(self) -> int:
        """Expected peak on each GPU."""
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


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """The plan of a configuration as plain JSON; the shape comes from the model's folder, else from the table.

    Raises UserError when neither is there.
    """
    folder = local_path(config.model.source) if not is_uri(config.model.source) else None
    shape = find_shape(config.model.source)
    if folder is not None and (folder / "config.json").exists():
        shape = ModelShape.from_config(read_json(str(folder / "config.json")))
    if shape is None:
        raise UserError(
            f"dry_run: model.source {config.model.source} is neither a local folder with config.json nor one of "
            + ", ".join(sorted(SHAPES))
        )
    plan = plan_memory(config, shape).as_json()
    logger.info(
        "%s, %s, %d workers: about %.1f GiB each (weights %.1f, gradients %.1f, optimiser %.1f, activations %.1f, "
        "logits %.1f)", config.model.source, config.method.kind, config.scaling.num_workers, plan["total_gib"],
        *(plan[f"{name}_bytes"] / GIB for name in ("weights", "gradients", "optimizer", "activations", "logits")),
    )  # fmt: skip
    return plan


def plan_memory(config: TrainConfig, shape: ModelShape) -> MemoryPlan:
    """Work out the memory of one GPU; raises UserError for a length or rank that the model has not."""
    if config.train.max_seq_len > shape.max_positions:
        raise UserError(f"train.max_seq_len {config.train.max_seq_len} is above the model's {shape.max_positions}")
    smallest = min(min(sides) for sides in shape.linears)
    adapts = config.method.kind != "full"
    if adapts and config.method.rank > smallest:
        raise UserError(f"method.rank {config.method.rank} is above the smallest layer's side {smallest}")
    trained = shape.num_adapter_params(config.method.rank) if adapts else shape.num_params
    weights, gradients, optimizer = _states(config, shape, trained)
    host = 0
    if config.parallel.offload_optimizer:
        host, optimizer = host + optimizer, 0
    if config.parallel.offload_params:
        largest = 2 * max(shape.vocab * shape.hidden, *(rows * columns for rows, columns in shape.linears))
        host, weights = host + weights, largest
    return MemoryPlan(
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_bytes=optimizer,
        activations_bytes=_activations(config, shape),
        logits_bytes=2 * 4 * _tokens(config) * shape.vocab,
        overhead_bytes=OVERHEAD_BYTES,
        host_bytes=host,
        device_bytes=DEVICE_BYTES.get(config.scaling.accelerator_type or ""),
        num_params=shape.num_params,
        num_trained_params=trained,
        gradient_accumulation=config.gradient_accumulation,
        num_workers=config.scaling.num_workers,
    )


def _states(config: TrainConfig, shape: ModelShape, trained: int) -> tuple[int, int, int]:
    """Weights, gradients and optimiser states of one GPU, before offloading."""
    stage = config.parallel.zero_stage if config.parallel.strategy == "deepspeed" else 0
    workers = config.scaling.num_workers
    if config.method.kind == "full":
        weights, gradients, optimizer = 2 * trained, 2 * trained, 12 * trained
    else:
        base = 2.0 * shape.num_params
        if config.method.kind == "qlora":
            quantised = _NF4_BYTES if config.method.bits == 4 else 1.0
            base += (quantised - 2) * shape.num_linear_params
        weights, gradients, optimizer = round(base) + 4 * trained, 4 * trained, 8 * trained
    if config.privacy is not None:  # a gradient per sequence, its float32 copy, and the float64 sum
        gradients += trained * (8 * config.train.micro_batch_size + 8)
    gathered = min(ZERO3_LIVE_BYTES, weights)
    return (
        weights // workers + gathered if stage >= 3 else weights,
        gradients // (workers if stage >= 2 else 1),
        optimizer // (workers if stage >= 1 else 1),
    )


def _tokens(config: TrainConfig) -> int:
    return config.train.micro_batch_size * config.train.max_seq_len


def _activations(config: TrainConfig, shape: ModelShape) -> int:
    """Bytes kept for the backward pass of one micro-batch."""
    kv = shape.hidden // shape.heads * shape.kv_heads
    # two norms' and two blocks' inputs, queries and attention output; keys and values; gate, up, product
    block = 2 * (6 * shape.hidden + 2 * kv + 3 * shape.intermediate)
    if config.method.kind != "full":
        block += 4 * config.method.rank * len(shape.linears)
    tokens = _tokens(config)
    if config.train.activation_checkpointing:
        return tokens * (2 * shape.hidden * shape.layers + block)
    return tokens * block * shape.layers
