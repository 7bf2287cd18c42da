"""The base of every configuration model and the types its fields share."""

import re
import urllib.parse
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

SECRET_ERROR = "secret_in_url"
"""Type of the mistake whose value a message must not show."""
_SECRET_NAME = re.compile(
    r"(?:^|[?&;,\s])\s*(?:[\w.-]*(?:password|passwd|pwd|passphrase|secret|token|credential|signature|api_?key|access_?key"
    r"|secret_?key|account_?key)|pass|sig|pw)\s*=\s*[^&;\s]",
    re.IGNORECASE,
)


def holds_secret(url: str) -> bool:
    """Whether a URL has a password in it: before the host, or as a parameter however it is escaped."""
    if "://" not in url:
        return False
    rest = url.split("://", 1)[1]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if host.rpartition("@")[0].partition(":")[2]:
        return True
    query = rest.partition("?")[2]
    for _ in range(3):  # an ODBC string inside a parameter is escaped once more
        if _SECRET_NAME.search("?" + query):
            return True
        query = urllib.parse.unquote_plus(query)
    return False


def without_secret(place: str) -> Callable[[str], str]:
    """A validator that refuses a URL with a password in it. `place`: where the password belongs."""

    def check(url: str) -> str:
        if holds_secret(url):
            raise PydanticCustomError(
                SECRET_ERROR, "take the password out of the URL and put it into {place}", {"place": place}
            )
        return url

    return check


class PathMarker:
    """Marks a string field as a path or URI, so that relative ones can be found and made absolute."""


PathStr = Annotated[
    str,
    PathMarker(),
    Field(min_length=1),
    AfterValidator(without_secret("the environment of the store's client (AWS_SECRET_ACCESS_KEY and the like)")),
]
"""A local path or an fsspec URI without credentials: configurations stand in manifests and in Ray's list of jobs."""

TrackingUri = Annotated[
    str,
    PathMarker(),
    Field(min_length=1),
    AfterValidator(without_secret("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")),
]
"""A folder, `sqlite:///FILE`, or the URL of an MLflow server without credentials."""

SourceStr = Annotated[
    str,
    PathMarker(),
    Field(min_length=1),
    AfterValidator(without_secret("the environment (HF_TOKEN, AWS_SECRET_ACCESS_KEY)")),
]
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
