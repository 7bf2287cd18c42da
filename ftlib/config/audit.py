"""Configuration of `jobs.audit`: what is in a set of records, and what is wrong with it."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from ftlib.config.base import Config, JobConfig, OutputConfig, PathStr, SourceStr
from ftlib.config.prepare import (
    DedupConfig,
    ExecutionConfig,
    FilterConfig,
    InputConfig,
    PiiConfig,
    PrepareConfig,
    QuarantineConfig,
)


class AuditDataConfig(Config):
    """A prepared dataset to look at again."""

    path: PathStr
    """Folder or URI of a prepared dataset."""


class AuditSettings(Config):
    """What is looked at, and the gate."""

    min_quality: Annotated[float, Field(ge=0, le=1)] | None = 0.85
    """Smallest share of clean records (neither broken, duplicate, contradictory nor filtered): below it the job ends with exit code 3, after the report is written. Null: no gate."""

    tokenizer: SourceStr | None = None
    """Model whose tokenizer counts tokens, for the share of long records and fragmented terms; null: words are counted."""

    max_seq_len: Annotated[int, Field(ge=1)] = 2048
    """Length in tokens above which training would cut a record."""

    token_sample: Annotated[int, Field(ge=1)] = 20_000
    """Clean records that the tokenizer counts."""

    annotations: str = "annotations"
    """Key in `metadata` with the labels of several annotators (`{name: label}` or a list); Krippendorff's alpha is computed of them."""

    num_examples: Annotated[int, Field(ge=0, le=20)] = 3
    """Masked examples of each finding."""


class AuditConfig(JobConfig):
    """`jobs.audit`."""

    input: InputConfig | None = None
    """The raw records; or `data.path`."""

    data: AuditDataConfig | None = None
    """A prepared dataset, instead of `input`."""

    output: OutputConfig
    """Folder of `report.json`, `report.html` and `manifest.json`."""

    audit: AuditSettings = AuditSettings()
    """The audit."""

    pii: PiiConfig = PiiConfig()
    """What counts as personal."""

    dedup: DedupConfig = DedupConfig()
    """What counts as duplicate."""

    filter: FilterConfig = FilterConfig()
    """What counts as unfit to learn from."""

    execution: ExecutionConfig = ExecutionConfig()
    """Parallelism."""

    @model_validator(mode="after")
    def _one_source(self) -> "AuditConfig":
        if (self.input is None) == (self.data is None):
            raise ValueError("give either input.paths (raw records) or data.path (a prepared dataset)")
        return self

    def as_prepare(self, records: InputConfig) -> PrepareConfig:
        """The preparation that the audit follows, without writing its data; broken rows are counted, never refused."""
        return PrepareConfig.model_validate(
            {
                "input": records,
                "output": {"path": self.output.path},
                "pii": self.pii,
                "dedup": self.dedup,
                "filter": self.filter,
                "quarantine": QuarantineConfig(max_fraction=1.0),
                "execution": self.execution,
                "seed": self.seed,
            }
        )

    @property
    def result_keys(self) -> dict[str, Any]:
        """The part of the configuration on which the report depends."""
        values = self.resolved()
        for name in ("execution", "cluster", "output"):
            values.pop(name)
        return values
