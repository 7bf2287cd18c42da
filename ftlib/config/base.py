"""The base of every configuration model and the types its fields share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class PathMarker:
    """Marks a string field as a path or URI, so that relative ones can be found and made absolute."""


PathStr = Annotated[str, PathMarker(), Field(min_length=1)]
"""A local path or an fsspec URI."""

SourceStr = Annotated[str, PathMarker(), Field(min_length=1)]
"""A model source: `embedded:NAME`, a Hugging Face id, a local folder or a URI. Made absolute only if it is a folder."""


class Config(BaseModel):
    """Frozen, strict about unknown keys; a docstring under each field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), populate_by_name=True
    )

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, as plain JSON types: what manifests record."""
        return self.model_dump(mode="json")


class ClusterConfig(Config):
    """Which Ray cluster runs the job."""

    address: str | None = None
    """Ray address (`auto`, `host:port`, `ray://…`). Default: the cluster the job runs in, else a local one that it starts and stops."""

    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """CPUs of the local cluster that the job starts; ignored on an existing cluster."""


class OutputConfig(Config):
    """Where the result goes."""

    path: PathStr
    """Folder or URI of the result; it appears whole or not at all."""


class JobConfig(Config):
    """What every job has."""

    cluster: ClusterConfig = ClusterConfig()
    """The Ray cluster."""

    seed: int = 0
    """Seed of everything random in the job."""

    @property
    def writes_output(self) -> bool:
        """Whether this call of the job writes a result; a job that only shows something says no."""
        return True
