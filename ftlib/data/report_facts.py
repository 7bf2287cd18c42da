"""What `report.json` holds: facts that the stages count, and what the report derives from them.

Facts are counts, names of files, columns, labels and entities: never a record's text, never a found value. Only
examples hold text, which was redacted before.
"""

from typing import Literal, NotRequired, TypedDict

from ftlib.data.broken import BrokenFacts
from ftlib.data.leftout import LeftOutFacts

Severity = Literal["high", "medium", "low", "info"]
PERCENTILES = ("min", "p5", "p25", "p50", "p75", "p95", "p99", "max")


class InputFacts(TypedDict):
    """One input file."""

    source: str
    """Its name."""
    shape: str
    """The shape that was detected or set."""
    num_rows: int
    """Rows read, broken ones included."""


class StageFacts(TypedDict):
    """One stage's row account: `num_in = num_out + num_dropped + num_quarantined`."""

    stage: str
    num_in: int
    num_out: int
    num_dropped: int
    num_quarantined: int


class DropFacts(TypedDict):
    """Rows that one stage left out for one reason."""

    stage: str
    reason: str
    num_rows: int


class QuarantineFacts(TypedDict):
    """Rows that could not be read or processed, by error class."""

    error: str
    num_rows: int


class PiiFacts(TypedDict):
    """Findings of one entity type in one kind of field."""

    entity: str
    field: str
    """`text`, `messages.user`, `messages.assistant`, `rejected`, `metadata` …: the kind of field, not its position."""
    num_findings: int
    num_records: int
    """Records with at least one."""
    sample_lengths_chars: list[int]
    """Lengths in characters of a few findings: all that the report shows of them."""


class ResidualEntity(TypedDict):
    """What the second detector found of one entity type."""

    entity: str
    num_findings: int
    num_records: int


class ResidualFacts(TypedDict):
    """What an independent detector still finds in redacted records."""

    detector: str
    """Its name and version."""
    num_scanned: int
    """Records in the sample."""
    num_records: int
    """Records of these with at least one finding."""
    entities: list[ResidualEntity]
    """Most frequent first."""


class NoNerFacts(TypedDict):
    """Records in one language that no NER model could read: rules alone looked for names in them."""

    language: str
    num_records: int


class DuplicateFacts(TypedDict):
    """What deduplication found."""

    num_exact: int
    """Rows dropped as exact duplicates."""
    num_near: int
    """Rows dropped as near-duplicates."""
    cluster_sizes: dict[str, int]
    """Number of records in a cluster, keeper included (`"2"`, `"3"` …) → number of clusters."""
    num_in_reference: NotRequired[int]
    """Rows dropped as near-duplicates of the reference corpus."""
    expected_recall: NotRequired[dict[str, float]]
    """Jaccard similarity → share of such pairs that the chosen bands find, by the S-curve."""


class LossFacts(TypedDict):
    """Rows that one source lost to one reason, more than a third of them."""

    source: str
    stage: str
    reason: str
    num_rows: int
    num_in: int
    """Rows read of the source."""
    examples: list[str]
    """Records or pairs of records by place, with redacted text."""


class CommonTextFacts(TypedDict):
    """Text that most records of a source share."""

    source: str
    num_rows: int
    """Kept records that have at least half of it."""
    text: str
    """A passage of it, redacted; empty where it is not shown."""


class SemanticFacts(TypedDict):
    """How alike the kept records are in meaning, by `dedup.semantic`."""

    num_records: int
    """Kept records that were embedded."""
    num_alike: int
    """Records of these that reach the threshold with another one."""
    num_cells: int
    """Cells of k-means."""
    effective_num_cells: float
    """Coverage: the exponential of the entropy of the cells' sizes; `num_cells` where all are of one size, 1 where one
    holds everything."""
    mean_distance_to_nearest: float | None
    """Diversity: the mean of 1 - cosine to the nearest other record of the cell; 0 where each has a twin."""


class LabelFacts(TypedDict):
    """Records of one label among those that were kept."""

    label: str
    num_rows: int


class ConflictFacts(TypedDict):
    """Groups of records with the same input and these different labels or answers."""

    labels: list[str]
    num_groups: int
    num_rows: int


class LengthFacts(TypedDict):
    """Length percentiles of the kept records."""

    field: str
    """`record`, `input`, `output`, `text` …"""
    unit: Literal["characters", "tokens"]
    percentiles: dict[str, float]
    """As `percentiles` gives them."""


class MixFacts(TypedDict):
    """Records of train of one label or source, and what they weigh."""

    name: str
    num_rows: int
    weight: float
    """Sum of the factors that duplicates, balance and weights give."""


class SplitFacts(TypedDict):
    """One split and the labels in it."""

    split: str
    num_rows: int
    labels: dict[str, int]


class Facts(TypedDict):
    """What the data plane hands over. Lists are shown in the order given."""

    inputs: list[InputFacts]
    settings: dict[str, str | int | float | bool | None]
    """What a reader must know: `pii_profile`, `pii_replacement`, `ner_model`, `dedup_threshold`, `seed` …"""
    stages: list[StageFacts]
    drops: list[DropFacts]
    quarantine: list[QuarantineFacts]
    pii: list[PiiFacts]
    num_records_scanned: int
    num_records_with_pii: int
    duplicates: DuplicateFacts
    labels: list[LabelFacts]
    label_conflicts: list[ConflictFacts]
    lengths: list[LengthFacts]
    splits: list[SplitFacts]
    no_ner: NotRequired[list[NoNerFacts]]
    residual: NotRequired[ResidualFacts | None]
    """None or absent: not scanned again."""
    left_out: NotRequired[list[LeftOutFacts]]
    """Columns and keys of the inputs that no record carries on."""
    broken: NotRequired[list[BrokenFacts]]
    """Sources of whose rows more than half are no records."""
    mix: NotRequired[list[MixFacts]]
    replay: NotRequired[dict[str, str | float]]
    warnings: NotRequired[list[str]]
    losses: NotRequired[list[LossFacts]]
    common_text: NotRequired[list[CommonTextFacts]]
    semantic: NotRequired[SemanticFacts | None]


class Summary(TypedDict):
    """The figures at the head of the report."""

    num_in: int
    num_kept: int
    num_dropped: int
    num_quarantined: int
    accounted: bool
    """Whether every input row is in exactly one of kept, dropped, quarantined, in every stage and in all."""
    num_pii_findings: int
    share_records_with_pii: float
    num_duplicates: int
    quality_score: float
    """Share of the input rows that were kept."""


class LabelBalance(TypedDict):
    """How evenly labels are spread."""

    num_labels: int
    ratio: float
    """Largest class over smallest."""
    entropy: float
    """Normalised to 0 (one class only) … 1 (all classes alike)."""


class Finding(TypedDict):
    """Something a reader should know or do."""

    severity: Severity
    title: str
    count: int
    fix: str
    examples: NotRequired[list[str]]
    """Places, masks and redacted text, never a value."""


class Report(Facts):
    """`report.json`."""

    version: int
    summary: Summary
    label_balance: LabelBalance | None
    findings: list[Finding]
