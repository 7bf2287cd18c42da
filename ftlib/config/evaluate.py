"""Configuration of `jobs.evaluate`: models scored on a held-out split, with gates."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ftlib.config.base import Config, JobConfig, OutputConfig, PathStr, SourceStr


class EvaluatedModelConfig(Config):
    """A model, with an adapter or without."""

    source: SourceStr
    """The base model: `embedded:smollm2-135m`, a Hugging Face id or a local folder."""

    adapter: PathStr | None = None
    """An adapter folder, a run's folder (its best adapter is taken), or a sweep's folder (its winner)."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of inference."""


class BaselineConfig(Config):
    """The base model without the adapter, prompted with the format and examples, on the same rows."""

    enabled: bool = True
    """Whether the baseline is scored."""

    num_examples: Annotated[int, Field(ge=0)] = 3
    """Examples from the training split put before each question."""

    instruction: str | None = None
    """Description of the wanted format, put into the baseline's system prompt."""


class EvalDataConfig(Config):
    """The rows scored."""

    path: PathStr
    """Folder of a prepared dataset."""

    split: Literal["train", "val", "test"] = "test"
    """Part that is scored."""

    max_rows: Annotated[int, Field(ge=1)] | None = None
    """At most this many rows, chosen by hash of id; default: all."""


class TaskConfig(Config):
    """A way to score an answer."""

    kind: Literal["answer", "perplexity"]
    """`answer`: generate greedily and compare with the reference. `perplexity`: of the reference given the prompt."""

    pattern: str | None = None
    """Regular expression that a well-formed answer matches in full; its named groups are fields, scored by F1 per class."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a valid regular expression: {error}") from None
        return value


class GateConfig(Config):
    """A condition on a metric, judged on the safe end of its 95 % interval."""

    metric: str
    """Name in `metrics.json`, for example `exact_match`; `exact_match_gain` is the paired difference to the baseline."""

    min: float | None = None
    """The interval's lower end must not be below this; for a gain it must be above, so that a tie does not pass 0."""

    max: float | None = None
    """The interval's upper end must not be above this."""


class EvaluateConfig(JobConfig):
    """`jobs.evaluate`."""

    model: EvaluatedModelConfig
    """The candidate."""

    data: EvalDataConfig
    """The rows."""

    output: OutputConfig
    """Folder of the evaluation."""

    tasks: Annotated[list[TaskConfig], Field(min_length=1)] = [TaskConfig(kind="answer"), TaskConfig(kind="perplexity")]
    """What is measured; a task may be given by its kind alone."""

    baseline: BaselineConfig = BaselineConfig()
    """Comparison with the base model."""

    gates: list[GateConfig] = [GateConfig(metric="exact_match_gain", min=0.0)]
    """Conditions for promotion."""

    num_workers: Annotated[int, Field(ge=1)] | None = None
    """Generation actors; default: one for each GPU, or for each CPU as far as memory holds copies of the model."""

    use_gpu: bool = False
    """Give every generation actor one GPU."""

    batch_size: Annotated[int, Field(ge=1)] = 16
    """Prompts generated together."""

    enforce_gates: bool = False
    """End with exit code 3 when a gate says no; otherwise only `jobs.promote` refuses."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _short_form(cls, tasks: object) -> object:
        if isinstance(tasks, list):
            return [{"kind": task} if isinstance(task, str) else task for task in tasks]
        return tasks

    @field_validator("tasks")
    @classmethod
    def _one_of_each(cls, tasks: list[TaskConfig]) -> list[TaskConfig]:
        kinds = [task.kind for task in tasks]
        if len(kinds) != len(set(kinds)):
            raise ValueError(f"each kind of task once, got {', '.join(kinds)}: metrics are named by what they measure")
        return tasks
