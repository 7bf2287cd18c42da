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

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of inference; `auto`: float32 on a CPU, bfloat16 on a GPU."""

    max_model_len: Annotated[int, Field(ge=16)] = 2048
    """Longest prompt and answer together, in tokens."""


class HttpConfig(Config):
    """The HTTP listener."""

    host: str = "127.0.0.1"
    """Address it binds to; any but loopback needs API keys."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port."""


class ReplicaConfig(Config):
    """Replicas of the model app."""

    num_replicas: Annotated[int, Field(ge=1)] = 1
    """How many."""

    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of each, and threads that it computes with."""

    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each."""

    max_ongoing_requests: Annotated[int, Field(ge=1)] = 16
    """Answers that a replica generates at once."""

    max_queued_requests: Annotated[int, Field(ge=-1)] = 64
    """Requests waiting in a replica beyond those; more get status 429 with Retry-After at once. -1: unlimited."""


class DeployConfig(JobConfig):
    """`jobs.deploy`. API keys come from `FTLIB_API_KEYS_FILE` (one per line), never from here."""

    model: ServedModelConfig
    """The base model."""

    adapters: list[ServedAdapterConfig] = []
    """Tuned models on it."""

    registry: RegistryConfig | None = None
    """Registry in which aliases are looked up."""

    app_name: RegistryName = "ftlib"
    """Name of the Ray Serve application; deploying again replaces it. The default answers at `/v1`, others at `/NAME/v1`."""

    http: HttpConfig = HttpConfig()
    """Listener."""

    replicas: ReplicaConfig = ReplicaConfig()
    """Replicas."""

    ready_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """The job fails when the endpoint is not ready by then."""

    @model_validator(mode="after")
    def _aliases_have_a_registry(self) -> "DeployConfig":
        names = [adapter.name for adapter in self.adapters]
        if len(names) != len(set(names)):
            raise ValueError(f"adapters: names must differ, got {', '.join(names)}")
        if any(adapter.alias for adapter in self.adapters) and self.registry is None:
            raise ValueError("adapters by alias need registry.uri")
        return self
