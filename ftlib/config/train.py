"""Configuration of `jobs.train`: a prepared dataset to an adapter or a tuned model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ftlib.config.base import Config, JobConfig, OutputConfig, PathStr, SourceStr, TrackingUri
from ftlib.config.method import MethodConfig, ObjectiveConfig
from ftlib.config.privacy import PrivacyConfig, conflicts

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class TrainReplayConfig(Config):
    """General data in every batch, against forgetting."""

    path: PathStr
    """A prepared dataset; its train split is mixed in."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of every batch that comes from it."""


class TrainDataConfig(Config):
    """The prepared dataset and how it is laid out for the model."""

    path: PathStr
    """Folder of a prepared dataset (with `_SUCCESS`)."""

    packing: bool = True
    """Put several samples into one sequence, each attending to itself only."""

    max_unsupervised: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The job aborts when more than this share of the rows supervises no token."""

    truncation: Literal["left", "right", "drop"] = "left"
    """What a conversation above `train.max_seq_len` loses: the left of its prompt, its right end, or `drop`: all of it."""

    weighting: Literal["loss", "sampling"] = "loss"
    """A record's weight scales its loss, or says how often an epoch shows it (2.5: twice, and half of such records thrice)."""

    class_weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Label → factor of its records' weights; others have 1."""

    replay: TrainReplayConfig | None = None
    """Default: what `mix.replay` of the prepared dataset recorded, if anything."""


class ModelConfig(Config):
    """The base model."""

    source: SourceStr
    """`embedded:smollm2-135m`, a Hugging Face id or a local folder; safetensors only."""

    revision: str | None = None
    """Git revision of a Hugging Face id."""


class OptimConfig(Config):
    """AdamW and its schedule."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""

    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up."""

    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the rate rises linearly."""

    min_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The rate at the end, as a share of the peak."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's first-moment decay."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's second-moment decay."""

    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this global norm."""


class TrainLoopConfig(Config):
    """Length, batch and rhythm of the run."""

    num_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training split, when `max_steps` is not set."""

    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps; overrides `num_epochs`."""

    global_batch_size: Annotated[int, Field(ge=1)] = 16
    """Sequences (packs, with packing) per optimiser step over all workers; constant under any number of workers."""

    micro_batch_size: Annotated[int, Field(ge=1)] = 1
    """Sequences per forward pass of one worker; gradient accumulation is derived."""

    max_seq_len: Annotated[int, Field(ge=8)] = 1024
    """Longest sequence in tokens; longer samples are truncated and counted (see `data.truncation`)."""

    precision: Precision = "auto"
    """`auto`: bfloat16 where the device computes it natively, else float32. `float16` scales the loss, tries a step whose gradient overflows again with half the scale, and needs `parallel.strategy: ddp`."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    eval_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Validation interval; default: at the end only."""

    max_eval_samples: Annotated[int, Field(ge=1)] | None = None
    """At most this many validation rows; default: all."""

    checkpoint_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Checkpoint interval; default: with every validation."""

    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept besides the best."""

    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations in a row without a lower loss; the result is the best checkpoint in any case."""

    early_stopping_min_delta: Annotated[float, Field(ge=0)] = 0.0
    """How much lower a validation loss must be to count as lower."""

    chunked_loss: bool = True
    """Take the loss inside the output layer, a few positions at a time, so that all logits never exist at once."""

    attention: Literal["auto", "sdpa", "eager", "varlen", "flash_attention_2"] = "auto"
    """`auto`: by sequence on a CPU, PyTorch's with a mask for packs on a GPU. On a GPU below float32, `varlen` (PyTorch's own flash attention) and `flash_attention_2` (needs the package `flash-attn`) skip what the mask hides."""

    compile: bool = False
    """Compile the model's layers (`torch.compile`): faster steps on a GPU after a minute or so of compiling."""

    check_memory: bool = True
    """Refuse, before anything starts, a run whose estimated memory is above the device's (see `dry_run`)."""


class ParallelConfig(Config):
    """How the model is spread over the workers."""

    strategy: Literal["ddp", "deepspeed"] = "deepspeed"
    """PyTorch's DistributedDataParallel, or DeepSpeed ZeRO."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """ZeRO stage: 1 shards optimiser states, 2 gradients too, 3 parameters too."""

    offload_optimizer: bool = False
    """Keep optimiser states in host memory."""

    offload_params: bool = False
    """Keep parameters in host memory (ZeRO-3)."""

    hpz_partition_size: Annotated[int, Field(ge=1)] = 1
    """ZeRO-3: a second copy of the weights is spread over so many GPUs (those of a node), so that the backward pass gathers them without the network (ZeRO++ hpZ). 1: off."""


class ScalingConfig(Config):
    """The workers."""

    num_workers: Annotated[int, Field(ge=1)] = 1
    """Training workers (one per GPU); with `min_workers` the most of them."""

    min_workers: Annotated[int, Field(ge=1)] | None = None
    """Elastic: start with as few, use up to `num_workers` as the cluster grows and shrinks; the result stays the same."""

    use_gpu: bool = False
    """Give every worker one GPU."""

    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs reserved for each worker."""

    accelerator_type: str | None = None
    """Ray accelerator type that the workers need, for example `A100-80G`."""

    max_failures: Annotated[int, Field(ge=0)] = 2
    """Worker failures after which the run goes on from the last checkpoint."""


class ExportConfig(Config):
    """Copies of the result in other formats, written below `export/` in the run's folder when training has ended."""

    merged: bool = False
    """Base and adapter as one safetensors model, checked against the adapter's logits in float32."""

    gguf: list[Literal["f32", "f16", "q8_0", "q4_0"]] = []
    """GGUF files for llama.cpp (Llama, Qwen2 and Qwen3 models). `q8_0` has 8 bits a weight, `q4_0` 4; what each costs in validation loss is measured."""

    onnx: bool = False
    """ONNX (needs the extra `onnx`), checked against the model's logits."""

    @property
    def formats(self) -> list[str]:
        """Names of the formats that are wanted."""
        return ["merged"] * self.merged + list(dict.fromkeys(self.gguf)) + ["onnx"] * self.onnx


class TrackConfig(Config):
    """Where a run's figures go besides `metrics.jsonl`."""

    tensorboard: bool = False
    """Event files in the run's folder, `tensorboard/`."""

    mlflow_uri: TrackingUri | None = None
    """An MLflow run in this folder (SQLite inside), `sqlite:///FILE` or server; credentials as for `jobs.promote`."""

    wandb: bool = True
    """Weights & Biases, only where `WANDB_API_KEY` is set on the node of the first worker and wandb is installed."""

    experiment: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$")] = "ftlib"
    """MLflow's experiment, W&B's project."""


class AdviceConfig(Config):
    """What `advise` may spend."""

    max_hours: Annotated[float, Field(gt=0)] = 24.0
    """Longest time that training may take."""

    max_gpus: Annotated[int, Field(ge=1)] = 8
    """Most GPUs."""

    gpu: Literal["L4", "A10G", "L40S", "A100-40G", "A100-80G", "H100", "H200"] | None = None
    """Kind of GPU; default: the least that does."""

    mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of a GPU's peak arithmetic that training reaches; NeMo AutoModel published 402 of 989 TFLOP/s for LoRA of Llama-3-8B."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Longest time for each generated token of one conversation when the model serves on that GPU."""


class RunOutputConfig(OutputConfig):
    """The folder of runs."""

    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None
    """Name of the run's folder; default: derived from data, model and configuration, so that a second run finds the first."""


class TrainConfig(JobConfig):
    """`jobs.train`."""

    data: TrainDataConfig
    """The prepared dataset."""

    model: ModelConfig
    """The base model."""

    output: RunOutputConfig
    """The folder of runs."""

    method: MethodConfig = MethodConfig()
    """What is trained."""

    objective: ObjectiveConfig = ObjectiveConfig()
    """What is minimised."""

    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule."""

    train: TrainLoopConfig = TrainLoopConfig()
    """Length, batch and rhythm."""

    parallel: ParallelConfig = ParallelConfig()
    """Parallel strategy."""

    scaling: ScalingConfig = ScalingConfig()
    """Workers."""

    export: ExportConfig = ExportConfig()
    """Further formats of the result."""

    privacy: PrivacyConfig | None = None
    """Differentially private training (DP-SGD); left out: off."""

    track: TrackConfig = TrackConfig()
    """Where figures go besides `metrics.jsonl`."""

    dry_run: bool = False
    """Train nothing: print the memory that each worker is expected to need. Needs no GPU, weights or cluster."""

    advise: bool = False
    """Train nothing: recommend whether to tune, method, rank and hardware for this data and model. Needs no cluster."""

    advice: AdviceConfig = AdviceConfig()
    """What `advise` may spend."""

    inspect: Annotated[int, Field(ge=1)] | None = None
    """Train nothing: print this many samples of the training split as the model gets them, supervised tokens marked, and counts. Needs no cluster."""

    @property
    def writes_output(self) -> bool:
        """Whether the job makes a run, rather than telling something about one."""
        return not (self.dry_run or self.inspect or self.advise)

    @property
    def gradient_accumulation(self) -> int:
        """Micro-batches per worker and optimiser step."""
        return self.train.global_batch_size // (self.train.micro_batch_size * self.scaling.num_workers)

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainConfig":
        batch, micro, workers = self.train.global_batch_size, self.train.micro_batch_size, self.scaling.num_workers
        if batch % (micro * workers):
            raise ValueError(
                f"train.global_batch_size {batch} cannot be divided among scaling.num_workers {workers} × "
                f"train.micro_batch_size {micro}; the next that can is {-(-batch // (micro * workers)) * micro * workers}"
            )
        if (self.scaling.min_workers or 0) > workers:
            raise ValueError(f"scaling.min_workers {self.scaling.min_workers} is above scaling.num_workers {workers}")
        if self.train.early_stopping_patience and not self.train.eval_every_steps:
            raise ValueError("train.early_stopping_patience counts validations: set train.eval_every_steps")
        if self.train.precision == "float16" and self.parallel.strategy == "deepspeed" and self.parallel.zero_stage:
            raise ValueError("train.precision float16 needs parallel.strategy ddp; with ZeRO take bfloat16 or float32")
        if self.train.compile and self.parallel.strategy == "deepspeed" and self.parallel.zero_stage == 3:
            raise ValueError("train.compile: ZeRO-3 gathers parameters inside the layers; take zero_stage 2 or less")
        if self.parallel.offload_params and (self.parallel.strategy != "deepspeed" or self.parallel.zero_stage != 3):
            raise ValueError("parallel.offload_params needs parallel.strategy deepspeed with zero_stage 3")
        self.method.check()
        if self.parallel.strategy == "deepspeed" and self.parallel.zero_stage == 3:
            self._check_sharded_weights()
        if self.parallel.hpz_partition_size > 1 and (
            self.parallel.strategy != "deepspeed"
            or self.parallel.zero_stage != 3
            or workers % self.parallel.hpz_partition_size
        ):
            raise ValueError(
                f"parallel.hpz_partition_size {self.parallel.hpz_partition_size} needs parallel.strategy deepspeed with "
                f"zero_stage 3 and must divide scaling.num_workers {workers}"
            )
        if self.parallel.offload_optimizer and (self.parallel.strategy != "deepspeed" or self.parallel.zero_stage == 0):
            raise ValueError("parallel.offload_optimizer needs parallel.strategy deepspeed with zero_stage 1, 2 or 3")
        return self

    def _check_sharded_weights(self) -> None:
        """Refuse what reads whole weights on every rank."""
        method = self.method
        for name, wrong in (
            ("init", method.init.startswith(("pissa", "olora", "eva"))),
            ("use_dora", method.use_dora),
            ("target_parameters", bool(method.target_parameters)),
            ("new_tokens", bool(method.new_tokens)),
        ):
            if wrong:
                raise ValueError(
                    f"method.{name} {getattr(method, name)} needs whole weights, which ZeRO-3 shards: use "
                    "parallel.zero_stage 1 or 2"
                )

    @model_validator(mode="after")
    def _private(self) -> "TrainConfig":
        if found := conflicts(self):
            raise ValueError("privacy cannot be combined with " + "; ".join(found))
        return self
