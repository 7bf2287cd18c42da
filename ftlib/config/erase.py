"""Configuration of `jobs.erase`: a person's records out of prepared data, and what must follow from it."""

from typing import Annotated

from pydantic import Field, model_validator

from ftlib.config.base import Config, JobConfig, PathStr, TrackingUri
from ftlib.config.values import Private, Verbatim

KeyStr = Annotated[str, Verbatim(), Private(), Field(min_length=1)]
"""A person's key: taken as it is written, on a command line and in a file, and never shown."""


class SearchConfig(Config):
    """Where copies and consequences are looked for."""

    paths: Annotated[list[PathStr], Field(min_length=1)]
    """Folders or URIs that are searched, however deep, for prepared datasets, runs, sweeps, evaluations and review exports."""

    state_dirs: list[PathStr] = []
    """State folders of endpoints (uploads, batches), besides those of the deployments in this machine's `FTLIB_HOME`."""


class SearchedRegistryConfig(Config):
    """The MLflow model registry."""

    uri: TrackingUri
    """As in `jobs.promote`; all names and versions in it are searched."""


class ErasedOutputConfig(Config):
    """The new versions and the proof."""

    path: PathStr | None = None
    """Folder of the new versions and the proof; default: beside each dataset, the proof beside the first."""


class EraseConfig(JobConfig):
    """`jobs.erase`. Keys on a command line are seen by other users and in Ray's list of jobs: `subjects_file` is not."""

    subject: KeyStr | None = None
    """The data subject's key, as it stood in the input's subject column: taken as it is written, without quotes of YAML. `4711`, `4711.0` and ` 4711` name the same person."""

    subjects: list[KeyStr] = []
    """More of them."""

    subjects_file: PathStr | None = None
    """A file with one key a line."""

    ids: list[KeyStr] = []
    """Ids of single records, as given in the input or as stored."""

    search: SearchConfig
    """Where to look."""

    registry: SearchedRegistryConfig | None = None
    """Also look for registered versions of the models found."""

    output: ErasedOutputConfig = ErasedOutputConfig()
    """New versions and proof."""

    delete_old: bool = False
    """Delete the old versions and their packed tokens once the new versions stand; otherwise they are listed."""

    dry_run: bool = False
    """Only list what would be done."""

    @model_validator(mode="after")
    def _names_somebody(self) -> "EraseConfig":
        if not (self.subject or self.subjects or self.subjects_file or self.ids):
            raise ValueError("say whose records: give subject, subjects, subjects_file or ids")
        return self
