"""Configuration of `jobs.prepare`: raw records to a redacted, deduplicated, split dataset."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ftlib.config.base import Config, JobConfig, OutputConfig, PathStr, without_secret
from ftlib.config.values import Private

Shape = Literal[
    "auto",
    "input_output",
    "instruction_output",
    "instruction_response",
    "prompt_completion",
    "kto",
    "messages",
    "conversations",
    "preferred_output",
    "text",
    "preference",
    "template",
    "canonical",
]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
PiiEntity = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]


def _phone_region(code: str) -> str:
    """A country code in capitals; ValueError for one whose numbers are not known."""
    from phonenumbers import SUPPORTED_REGIONS  # a third of a second, for configurations that name regions

    known = code.strip().upper()
    if known not in SUPPORTED_REGIONS:
        hint = "did you mean GB?" if known == "UK" else "take the two letters of ISO 3166, for example US, GB or DE"
        raise ValueError(f"{code} is no country whose telephone numbers are known: {hint}")
    return known


_NO_FILE_ENCODINGS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"}


class TemplateConfig(Config):
    """A conversation built from a file's columns by `{column}` placeholders."""

    user: Annotated[str, Field(min_length=1)]
    """What the user says, for example `"{text}"`."""

    assistant: Annotated[str, Field(min_length=1)]
    """What the assistant answers, for example `"{label}"`."""

    system: str | None = None
    """A system prompt put before both."""


class InputConfig(Config):
    """The raw records."""

    paths: list[PathStr] = []
    """Files, folders or globs of JSONL (.jsonl, .json, .gz, .zst), Parquet or CSV; local or `s3://…`. Required without `sql`."""

    sql: Annotated[str, Field(min_length=1)] | None = None
    """A query instead of files. It needs an ORDER BY over a unique key, and rows that do not change meanwhile: it is run once for each pass."""

    connection: (
        Annotated[str, Private(), Field(min_length=1), AfterValidator(without_secret("FTLIB_INPUT_DB_PASSWORD_FILE"))]
        | None
    ) = None
    """Where `sql` runs: an SQLAlchemy URL without a password (`postgresql://user@host/name`, `sqlite:////data/tickets.db`). The password comes from `FTLIB_INPUT_DB_PASSWORD_FILE`."""

    encoding: str = "auto"
    """Encoding of JSON and CSV files, by the name of a Python codec (`cp1252`, `shift_jis`). `auto`: UTF-8, or UTF-16 with a byte order mark; a file in another encoding is refused. A byte order mark goes before this."""

    csv_backslash: bool | None = None
    """Whether a backslash in a CSV file escapes the quote or delimiter behind it. Null: found out from the first records of each file."""

    shape: Shape = "auto"
    """The records' shape; `auto` detects it for each file from its first rows. `canonical`: records of a prepared dataset."""

    template: TemplateConfig | None = None
    """Builds conversations from other columns; implies `shape: template`."""

    system_prompt: str | None = None
    """A system message put before every conversation that has none."""

    strict: bool = False
    """Fail where a column of a file, or a key inside its messages, is carried on by no record; else the report lists each with its number of rows."""

    label_column: str = "label"
    """Column with the class of a record: used to stratify the split and to find contradictory labels."""

    subject_column: str = "subject"
    """Column with the data subject's key; stored as a keyed hash only."""

    max_record_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    """A longer line or row is quarantined."""

    chunk_bytes: Annotated[int, Field(ge=64)] = 16 * 1024 * 1024
    """Plain JSONL files are read in pieces of about this size, in parallel. Does not change the result."""

    @field_validator("encoding")
    @classmethod
    def _is_text_encoding(cls, value: str) -> str:
        import codecs

        if value == "auto":
            return value
        try:
            codec = codecs.lookup(value)
        except (LookupError, ValueError):
            raise ValueError(
                f"{value!r} is no encoding that Python knows; examples: cp1252, utf-16, shift_jis"
            ) from None
        if (
            not codec._is_text_encoding
            or codec.incrementaldecoder is None
            or codec.name.replace("-", "_") in _NO_FILE_ENCODINGS
        ):
            raise ValueError(f"{value!r} is no encoding of text files; examples: cp1252, utf-16, shift_jis")
        return value

    @model_validator(mode="after")
    def _files_or_query(self) -> "InputConfig":
        if bool(self.paths) == bool(self.sql):
            raise ValueError("input needs either paths or sql")
        if bool(self.sql) != bool(self.connection):
            raise ValueError("input.sql and input.connection go together")
        return self


class PatternConfig(Config):
    """A pattern of the user's own."""

    entity: PiiEntity
    """Entity type that a match is given."""

    regex: Annotated[str, Field(min_length=1)]
    """Python regular expression; group 1, where there is one, is what is redacted."""

    score: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Confidence of a match."""

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str) -> str:
        import re

        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a valid regular expression: {error}") from None
        return value


class NerEngineConfig(Config):
    """A further NER model. What any of the models finds is redacted."""

    engine: Literal["spacy", "gliner", "transformers"]
    """What runs it: a spaCy pipeline, GLiNER, or a Hugging Face token classifier."""

    model: Annotated[str, Field(min_length=1)]
    """A folder that all nodes see, an installed spaCy pipeline, or a Hugging Face id."""

    languages: list[Language] = []
    """The languages that it reads, as ISO 639-1 codes. Empty: all of them; for a spaCy pipeline, `pii.language`."""

    labels: dict[str, str] = {}
    """Model label → entity type, for this model only; on top of `pii.ner_labels`."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Confidence from which it is believed. Lower values find more and redact more words that are not personal. spaCy gives no confidence and ignores it."""


class PiiConfig(Config):
    """What counts as personal or secret, and what takes its place."""

    profile: Literal["safe_harbor", "enterprise", "fast", "custom", "none"] = "enterprise"
    """`safe_harbor`: HIPAA's 18 identifiers. `enterprise`: those plus organisations' secrets and numbers. `fast`: patterns and checksums, no NER. `custom`: `entities` and `patterns` only. `none`: nothing is redacted (the report says so)."""

    replacement: Literal["token", "numbered", "surrogate", "mask", "drop"] = "token"
    """`token`: `[REDACTED_TYPE]`. `numbered`: `[PERSON_1]`, the same value the same number within a record. `surrogate`: a consistent false value made from a keyed hash. `mask`: asterisks. `drop`: the whole record is dropped."""

    language: str = "en"
    """ISO 639-1 language of the texts; with `pii.models`, of those whose language is not known."""

    regions: list[Annotated[str, AfterValidator(_phone_region)]] = ["US", "GB"]
    """Countries (ISO 3166, for example `[US, IN]`) whose national telephone numbers are looked for in every text; a record in another language than English adds its own (German: DE, AT, CH). Numbers with `+` and a country code are found anyway. Each region costs another scan of texts with many digits."""

    ner_engine: Literal["spacy", "gliner", "transformers", "none"] = "spacy"
    """What finds names and places: a spaCy pipeline, a GLiNER model, a Hugging Face token classifier, or nothing."""

    ner_model: str = "auto"
    """The engine's model. spaCy: a pipeline; `auto` takes `en_core_web_lg` where installed, else the small one. GLiNER and transformers: a folder or Hugging Face id. `none` switches NER off."""

    ner_engines: list[NerEngineConfig] = []
    """Further NER models that run beside `ner_engine`, for example `[{engine: transformers, model: /models/pii}]`; a value that any of them finds is redacted. Set `ner_engine: none` to run these alone."""

    ner_labels: dict[str, str] = {}
    """Model label → entity type, for labels that are not known or mean something else in your model, for example `{DEBTOR: PERSON, HOBBY: none}`; `none` leaves a label out. The labels of OpenAI's privacy-filter, NVIDIA's GLiNER-PII, Piiranha, CoNLL and OntoNotes are known. GLiNER is also asked for the labels that you name here."""

    require_ner: bool = False
    """Quarantine records, as `no_ner`, that no NER model could read because of their language. Otherwise rules alone redact them, and the report counts them."""

    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each redaction process, for `gliner` and `transformers` models; fractions share one GPU, for example 0.25. 0: models run on CPUs."""

    models: dict[Language, str] = {}
    """Language → `ner_model` for records in it, for example `{de: de_core_news_sm}`. A record's language is `language` in its row or metadata, else detected."""

    entities: list[PiiEntity] | None = None
    """Entity types to redact; default: all of the profile. Required by `custom` without `patterns`."""

    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Findings below this confidence are ignored."""

    patterns: list[PatternConfig] = []
    """Patterns of your own, on top of the profile."""

    deny_list: dict[str, list[str]] = {}
    """Entity type → values that are always redacted (whole words, case-insensitive)."""

    allow_list: list[str] = []
    """Values that are never redacted (case-insensitive)."""

    residual_sample: Annotated[int, Field(ge=0)] | None = 500
    """Kept records whose redacted text a second, independent detector (Presidio as it comes) scans; the report counts what it still finds. 0: none, null: all."""

    max_residual: Annotated[float, Field(ge=0, le=1)] | None = None
    """Largest share of the scanned records that may still hold a finding: above it the job ends with exit code 3 and the dataset gets no `_SUCCESS`. Null: no gate."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    """Records that an actor scans at a time. Does not change the result."""

    @model_validator(mode="after")
    def _ner_is_wanted(self) -> "PiiConfig":
        if self.require_ner and self.profile in {"fast", "none"}:
            raise ValueError(f"require_ner needs a profile with NER, which {self.profile} is not: take enterprise")
        return self

    @model_validator(mode="after")
    def _custom_needs_entities(self) -> "PiiConfig":
        if self.profile == "custom" and not (self.entities or self.patterns or self.deny_list):
            raise ValueError("profile custom needs pii.entities, pii.patterns or pii.deny_list")
        return self


_KEEP_VARIANTS = {"threshold": 0.85, "drop_above": 0.99}


class SemanticConfig(Config):
    """Records that say the same in other words. They are kept, on one side of the split."""

    model: PathStr | None = None
    """Folder of an encoder that transformers loads (config.json, the tokenizer's files, model.safetensors), on a path that every node sees; a small sentence encoder such as all-MiniLM-L6-v2 is usual. It reads every kept record on the CPUs, some tens of records a second. Null: off."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Cosine similarity of two records' embeddings at and above which they stay on one side of the split. It depends on the model: look at a few pairs before you lower it."""

    num_cells: Annotated[int, Field(ge=1)] | None = None
    """Cells of k-means within which records are compared; more are faster and miss more pairs that lie across a border. Null: one for each 1,000 records."""

    max_tokens: Annotated[int, Field(ge=8)] = 256
    """Tokens of a record that the encoder reads; the rest of a longer one does not count."""


class DedupConfig(Config):
    """Exact and near duplicates."""

    enabled: bool = True
    """Whether duplicates are dropped."""

    preset: Literal["keep_variants"] | None = None
    """`keep_variants` sets `threshold: 0.85` and `drop_above: 0.99`: of records that are at least .99 similar one is kept, and those from .85 up to that all stay, on one side of the split. For forms, paraphrases and code, where a small difference is the point. It excludes other values of these two keys and `action: weight`."""

    policy: Literal["first", "longest", "quality", "most_recent"] = "first"
    """Which record of a cluster is kept: the first of the input, the longest, the one with the least repetition, symbols, boilerplate and damage (`quality`), or the most recent by `recency_field`."""

    recency_field: str | None = None
    """Metadata field (a dotted path) with a date, for `policy: most_recent`; records without a date come last."""

    action: Literal["drop", "weight"] = "drop"
    """`drop` all but one record of a cluster, or keep all and `weight` each by 1 / size of the cluster."""

    drop_above: Annotated[float, Field(gt=0, le=1)] | None = None
    """Near-duplicates are dropped at and above this similarity only; those between `threshold` and it are kept, on one side of the split. Default: `threshold`."""

    against: list[PathStr] = []
    """Files of a reference corpus: records that are near-duplicates of one of its records are dropped. Read with the settings of `input`."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Jaccard similarity of word n-grams at and above which two records are near-duplicates."""

    num_permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    """MinHash permutations; bands and rows follow from the threshold by the S-curve."""

    ngram: Annotated[int, Field(ge=1, le=20)] = 5
    """Words per shingle; shorter records are one shingle."""

    scheme: Literal["affine32", "legacy"] = "affine32"
    """datasketch's permutation scheme, written to the manifest; hashes of mixed schemes do not compare."""

    semantic: SemanticConfig = SemanticConfig()
    """Duplicates in meaning, found by embeddings."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("preset") != "keep_variants":
            return values
        for name, value in _KEEP_VARIANTS.items():
            if values.get(name) not in (None, value):
                raise ValueError(
                    f"preset keep_variants means {name} {value}, but {name} is {values[name]}; leave one of them out"
                )
        if values.get("action") == "weight":
            raise ValueError("preset keep_variants drops copies, but action is weight; leave one of them out")
        return {**values, **_KEEP_VARIANTS}

    @model_validator(mode="after")
    def _consistent(self) -> "DedupConfig":
        if self.policy == "most_recent" and not self.recency_field:
            raise ValueError("policy most_recent needs dedup.recency_field, a metadata field with a date")
        if self.drop_above is not None and self.drop_above < self.threshold:
            raise ValueError(f"drop_above {self.drop_above} must not be below threshold {self.threshold}")
        if self.against and not self.enabled:
            raise ValueError("against needs dedup.enabled")
        return self


class FilterConfig(Config):
    """Quality filters, run on the redacted text."""

    enabled: bool = True
    """Whether any filter runs."""

    min_tokens: Annotated[int, Field(ge=0)] = 3
    """Fewer tokens (words and punctuation) in a record than this: dropped as `too_short`."""

    max_tokens: Annotated[int, Field(ge=1)] = 2000
    """More tokens than this: dropped as `too_long`."""

    max_repetition: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the words taken by repeated 3-grams above which a record is `repetitive`."""

    max_symbol_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of characters that are neither letters, digits nor white space above which a record is `symbols`; redaction tokens do not count."""

    max_redacted_ratio: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the words that are redaction tokens above which nothing is left to learn: `mostly_redacted`."""

    languages: list[Language] = []
    """Languages to keep, as ISO 639-1 codes; records found to be in another are dropped as `language`, those too short or mixed to tell are kept. Empty: all."""

    max_boilerplate: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the text in sentences that come with every letter or page (disclaimers, unsubscribe and cookie notices, copyright lines) above which a record is `boilerplate`."""

    templates: Literal["keep", "drop"] = "keep"
    """Records with an unfilled variable such as `{{name}}`: kept, or dropped as `template`. The audit counts them."""

    refusals: Literal["keep", "drop"] = "keep"
    """Records whose answer is an assistant's refusal (`As an AI language model, I cannot …`): kept, or dropped as `refusal`."""

    label_conflicts: Literal["review", "keep"] = "review"
    """What happens to records of the same input with different labels or answers: held out for review, or kept."""

    max_age_days: Annotated[float, Field(gt=0)] | None = None
    """Records whose date lies more than this before `reference_date` are `stale`; those without a date are kept."""

    date_field: str | None = None
    """Metadata field (a dotted path) with the date for `max_age_days`."""

    reference_date: datetime.date | None = None
    """The day from which `max_age_days` counts back; never today, so that a run can be repeated."""

    @model_validator(mode="after")
    def _ordered(self) -> "FilterConfig":
        if self.min_tokens >= self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} must be below max_tokens {self.max_tokens}")
        if self.max_age_days is not None and not (self.date_field and self.reference_date):
            raise ValueError("max_age_days needs filter.date_field and filter.reference_date")
        return self


class SplitConfig(Config):
    """Train, validation and test. Near-duplicates and records of one subject stay on one side."""

    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of records for validation."""

    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of records for the held-out test."""

    stratify: bool = True
    """Keep the label distribution alike in all parts."""

    group_by_subject: bool = True
    """Keep all records of one data subject on one side."""

    group_column: str | None = None
    """Metadata field (a dotted path): records with the same value stay on one side."""

    by_time: str | None = None
    """Metadata field (a dotted path) with a date: the newest records go to test, the next to validation, without regard to labels. Records without a date stay in train."""

    @model_validator(mode="after")
    def _leaves_training_data(self) -> "SplitConfig":
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} + test_fraction {self.test_fraction} leave nothing to train on"
            )
        return self


class DecontaminateConfig(Config):
    """Records of train that a benchmark or the test split holds."""

    paths: list[PathStr] = []
    """Benchmark files, read with the settings of `input`: records that hold one of their texts, or share an n-gram with one, are dropped from train."""

    against_test: bool = False
    """Also drop records of train that share an n-gram with the test split. Near-duplicates never sit on both sides in any case; templates shared by many records would go too."""

    ngram: Annotated[int, Field(ge=5, le=50)] = 13
    """Words of an n-gram; a shorter text counts as a whole."""


class ReplayConfig(Config):
    """General data mixed in by training against forgetting; recorded here."""

    path: PathStr
    """A prepared dataset or raw files."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training tokens that come from it."""


class MixConfig(Config):
    """Weights of the records of train, written to their `weight`; training acts on them."""

    weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Label (or source, see `weights_by`) → factor; others have 1."""

    weights_by: Literal["label", "source"] = "label"
    """What `weights` and `balance` go by."""

    balance: Literal["none", "inverse_frequency"] = "none"
    """`inverse_frequency`: every label (or source) weighs the same in sum, before `weights`."""

    synthetic_sources: list[str] = []
    """Sources (names of input files, as in the report) whose records were generated rather than recorded."""

    min_genuine: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Smallest share of train's weight that records of all other sources have; synthetic ones are weighed down until it holds."""

    replay: ReplayConfig | None = None
    """General data for training to mix in. The manifest and the report record it; `jobs.train` mixes it in unless its `data.replay` names another source."""

    @model_validator(mode="after")
    def _floor_needs_sources(self) -> "MixConfig":
        if self.min_genuine and not self.synthetic_sources:
            raise ValueError("min_genuine needs mix.synthetic_sources, the inputs whose records were generated")
        return self


class QuarantineConfig(Config):
    """Rows that could not be read or processed."""

    keep_raw: bool = False
    """Also store the raw bytes of quarantined rows (they may hold PII); default: their hash only."""

    max_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The job fails when more than this share of the rows ends in quarantine."""


class ReviewConfig(Config):
    """What a person decided about rows that were held for review."""

    decisions: PathStr | None = None
    """Answers to an earlier run's `review.jsonl`: a Label Studio JSON export, or JSONL lines `{id, decision: accept|edit|reject, answer?, label?}`. accept keeps the row, edit replaces its answer or label (redacted like any input), reject drops it."""


class ExecutionConfig(Config):
    """How the work is spread. Nothing here changes the result."""

    num_workers: Annotated[int, Field(ge=1)] | None = None
    """Redaction actors; default: the cluster's CPUs less one, at least one."""

    num_partitions: Annotated[int, Field(ge=1)] = 8
    """Partitions of an exchange (grouping by hash). There are more where one would hold over 500,000 rows."""

    rows_per_block: Annotated[int, Field(ge=1)] | None = None
    """Rows that travel together between stages. Default: 2,048, and more for inputs that this would cut into over 256 blocks, up to 65,536: the driver keeps something of every block."""


class PrepareOutputConfig(OutputConfig):
    """The prepared dataset."""

    num_files: Annotated[int, Field(ge=1)] = 4
    """Parquet files per split (more where one would hold more than `rows_per_file` rows); rows are assigned by hash of id and sorted."""

    rows_per_file: Annotated[int, Field(ge=1)] = 1_000_000
    """Rows that one output file holds at most, about. `dropped.parquet`, `redactions.parquet`, `lineage.parquet`, `quarantine.parquet` and `review.jsonl` become folders of that name with several parts where they have more; Parquet readers open such a folder like a file. One task holds a file in memory while it is written, so lower this on small workers."""


class PrepareConfig(JobConfig):
    """`jobs.prepare`."""

    input: InputConfig
    """The raw records."""

    output: PrepareOutputConfig
    """The prepared dataset."""

    pii: PiiConfig = PiiConfig()
    """Redaction."""

    dedup: DedupConfig = DedupConfig()
    """Duplicates."""

    filter: FilterConfig = FilterConfig()
    """Quality filters."""

    split: SplitConfig = SplitConfig()
    """Train, validation and test."""

    decontaminate: DecontaminateConfig = DecontaminateConfig()
    """Records of train that a benchmark or the test split holds."""

    mix: MixConfig = MixConfig()
    """Weights and replay."""

    quarantine: QuarantineConfig = QuarantineConfig()
    """Unreadable rows."""

    review: ReviewConfig = ReviewConfig()
    """Rows held for a person."""

    execution: ExecutionConfig = ExecutionConfig()
    """Parallelism."""

    @property
    def result_keys(self) -> dict[str, Any]:
        """The part of the configuration on which the result's bytes depend; files count by their fingerprints."""
        values = self.resolved()
        for section, names in {
            "input": ["chunk_bytes", "paths", "sql", "connection"],
            "pii": ["batch_size", "num_gpus"],
            "dedup": ["against"],
            "decontaminate": ["paths"],
            "output": ["path"],
        }.items():
            for name in names:
                values[section].pop(name)
        values["dedup"]["semantic"].pop("model")
        if values["mix"]["replay"]:
            values["mix"]["replay"].pop("path")
        for name in ("execution", "cluster", "review"):
            values.pop(name)
        return values
