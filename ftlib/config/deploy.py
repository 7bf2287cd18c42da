"""Configuration of `jobs.deploy`: models behind an OpenAI-compatible endpoint on Ray Serve."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ftlib.config.base import Config, JobConfig, PathStr, SourceStr
from ftlib.config.promote import RegistryConfig, RegistryName


class ServedAdapterConfig(Config):
    """A tuned model served under a public name."""

    name: RegistryName
    """Name by which clients ask for it."""

    alias: RegistryName | None = None
    """Alias in `registry` whose version is served."""

    path: PathStr | None = None
    """Or: an adapter, run or sweep folder."""

    replicas: Annotated[int, Field(ge=1)] | None = None
    """So many replicas hold it, instead of `replicas.adapter_replicas`."""

    @model_validator(mode="after")
    def _one_origin(self) -> "ServedAdapterConfig":
        if (self.alias is None) == (self.path is None):
            raise ValueError("give either alias or path")
        return self


class ServedModelConfig(Config):
    """The base model under all adapters."""

    source: SourceStr
    """The base model: `embedded:smollm2-135m`, a Hugging Face id or a local folder."""

    name: RegistryName | None = None
    """Public name of the base itself; default: the last part of the source."""

    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """Precision of inference; `auto`: float32 on a CPU, bfloat16 on a GPU. `int8` (CPU): INT8 products, twice as fast as bfloat16 (one request alone, AVX-512 VNNI), slightly worse. A CPU without bfloat16 arithmetic computes in float32 instead."""

    max_model_len: Annotated[int, Field(ge=16)] = 2048
    """Longest prompt and answer together, in tokens."""


class HttpConfig(Config):
    """The HTTP listener."""

    host: str = "127.0.0.1"
    """Address it binds to; any but loopback needs API keys."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port."""


class ReplicaConfig(Config):
    """Replicas of the engine."""

    num_replicas: Annotated[int, Field(ge=1)] = 1
    """How many, or the fewest where `max_replicas` is set."""

    max_replicas: Annotated[int, Field(ge=1)] | None = None
    """Most of them; between the two their number follows the load. None: always `num_replicas`."""

    target_load: Annotated[float, Field(gt=0)] = 0.8
    """Load of a replica that is aimed at: its requests, waiting ones too, per answer that it generates at once, or the share of its key/value cache in use, whichever is higher."""

    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    """So long must the load be above before replicas are added."""

    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0
    """So long must it be below before some are taken away; they finish what they have."""

    adapter_replicas: Annotated[int, Field(ge=1)] | None = None
    """So many replicas hold an adapter, from its first request on; others get its requests when those have no row free. None: all replicas hold all adapters from the start."""

    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of each, and threads that it computes with."""

    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each."""

    max_ongoing_requests: Annotated[int, Field(ge=1)] = 16
    """Answers that a replica generates at once."""

    max_queued_requests: Annotated[int, Field(ge=-1)] = 64
    """Requests waiting in a replica beyond those; more get status 429 with Retry-After at once. -1: unlimited."""

    @model_validator(mode="after")
    def _max_is_more(self) -> "ReplicaConfig":
        if self.max_replicas is not None and self.max_replicas < self.num_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below num_replicas {self.num_replicas}")
        return self


class GatewayConfig(Config):
    """What stands before the replicas: HTTP, keys, tokenizers, and the tokens of each answer under way."""

    num_replicas: Annotated[int, Field(ge=1)] = 1
    """How many. A stream goes on when an engine replica dies, not when its gateway does."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.0
    """CPUs set aside for each; 0 lets it run beside the engine."""


class VllmConfig(Config):
    """vLLM as a child process of each replica, in an environment of its own."""

    python: PathStr
    """Interpreter of that environment, the same path on every node (`cluster/setup-vllm.sh` makes one for CPUs)."""

    max_loras: Annotated[int, Field(ge=1)] = 4
    """Adapters that take part in one step."""

    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 64
    """Highest rank of an adapter."""

    arguments: list[str] = []
    """Further arguments of vLLM's server."""

    environment: dict[str, str] = {}
    """Further environment variables of it, such as `VLLM_CPU_KVCACHE_SPACE` (GiB)."""

    start_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """It must answer by then."""


class EngineConfig(Config):
    """What generates the answers."""

    kind: Literal["embedded", "vllm"] = "embedded"
    """`embedded`: in the replica's own process, on a CPU or GPU; `vllm`: as `engine.vllm` says."""

    vllm: VllmConfig | None = None
    """Of kind `vllm`."""

    @model_validator(mode="after")
    def _vllm_is_described(self) -> "EngineConfig":
        if (self.kind == "vllm") != (self.vllm is not None):
            raise ValueError("engine.kind vllm needs engine.vllm.python, and engine.vllm needs that kind")
        return self


class DeployConfig(JobConfig):
    """`jobs.deploy`. API keys come from `FTLIB_API_KEYS_FILE` (one per line), never from here."""

    model: ServedModelConfig
    """The base model."""

    adapters: list[ServedAdapterConfig] = []
    """Tuned models on it."""

    registry: RegistryConfig | None = None
    """Registry in which aliases are looked up."""

    engine: EngineConfig = EngineConfig()
    """Engine."""

    app_name: RegistryName = "ftlib"
    """Name of the Ray Serve application; deploying again replaces it. The default answers at `/v1`, others at `/NAME/v1`."""

    http: HttpConfig = HttpConfig()
    """Listener."""

    replicas: ReplicaConfig = ReplicaConfig()
    """Replicas of the engine."""

    gateway: GatewayConfig = GatewayConfig()
    """Gateways."""

    state_dir: PathStr | None = None
    """Folder of uploaded files and batches, which all replicas must reach; default: one in `FTLIB_HOME`."""

    load_adapters: bool = False
    """Whether whoever has an API key may load adapters while the endpoint serves (`POST /v1/load_lora_adapter`, `/v1/unload_lora_adapter`)."""

    ready_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """The job fails when the endpoint is not ready by then."""

    @model_validator(mode="after")
    def _aliases_have_a_registry(self) -> "DeployConfig":
        names = [adapter.name for adapter in self.adapters]
        if len(names) != len(set(names)):
            raise ValueError(f"adapters: names must differ, got {', '.join(names)}")
        if any(adapter.alias for adapter in self.adapters) and self.registry is None:
            raise ValueError("adapters by alias need registry.uri")
        if self.engine.kind == "vllm" and self.model.precision == "int8":
            raise ValueError("model.precision int8 is the embedded engine's; vLLM takes quantised models instead")
        return self
