"""What the deployments of the application are told; the only thing that goes from `jobs.deploy` to a replica."""

from pydantic import BaseModel, ConfigDict


class AdapterArgs(BaseModel):
    """An adapter under a public name, fixed by content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    path: str
    sha256: str
    replicas: int | None = None
    """So many hold it, from its first request on; None: all, from the start."""

    @property
    def engine_id(self) -> str:
        """Its immutable name in the engine: the same name with other content is another adapter."""
        return f"{self.name}@{self.sha256[:12]}"


class VllmArgs(BaseModel):
    """A vLLM in an environment of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: str
    max_loras: int
    max_lora_rank: int
    arguments: list[str]
    environment: dict[str, str]
    start_timeout_s: float


class AppArgs(BaseModel):
    """What gateways and engines need. Holds digests of keys, never keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    base_name: str
    adapters: list[AdapterArgs] = []
    precision: str = "auto"
    vllm: VllmArgs | None = None
    """None: the embedded engine."""

    max_model_len: int = 2048
    max_ongoing_requests: int = 16
    max_queued_requests: int = 64
    key_pepper: str = ""
    key_digests: list[str] = []
    state_dir: str = ""
    """Folder of files and batches, shared by the replicas; without one the endpoint has neither."""

    load_adapters: bool = False
    """Whether adapters can be loaded while serving."""

    batch_share: float = 0.25
    """Share of `max_ongoing_requests` that batch rows may hold."""

    num_replicas: int = 1
    """Of the engine."""

    max_replicas: int | None = None
    adapter_replicas: int | None = None
    """`AdapterArgs.replicas` of adapters that come while serving."""

    target_load: float = 0.8
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0

    num_gateways: int = 1
    gateway_cpus: float = 0.0
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    surge: bool = True
