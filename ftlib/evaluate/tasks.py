"""What is asked and how it is scored: from prepared rows to prompts, and from answers to metrics. No Ray, no torch.

The question of a row is everything before its last assistant message, which is the reference. The candidate gets the
question as it was trained on; the baseline gets the same question with an instruction about the format and a few worked
examples from the training split, as turns of the conversation, so that it is judged on what it can do, not on guessing
the format.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftlib.config.evaluate import BaselineConfig, EvaluateConfig, TaskConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.data import schema as s
from ftlib.data.records import INSTRUCTING, said, tool_definitions, turns
from ftlib.text.metrics import (
    Floats,
    Metric,
    Resampler,
    class_scores,
    exact_match,
    extract_fields,
    format_compliance,
    macro_f1_statistic,
    mean_statistic,
    perplexity_statistic,
    share_metric,
)

CANDIDATE = "candidate"
BASELINE = "baseline"
_MAX_CLASSES = 200  # a field with more values is free text: F1 per class says nothing about it

Message = dict[str, Any]
COLUMNS = [s.ID, s.MESSAGES, s.TEXT, s.REJECTED, s.LABEL, s.TOOLS]
"""What is read of the records."""


@dataclass(frozen=True)
class EvalRow:
    """A question and its reference answer."""

    id: str
    question: tuple[Message, ...]
    """Empty for plain text, whose reference is all of it: perplexity alone can score that."""
    reference: str
    label: str | None = None
    tools: tuple[Any, ...] = ()
    """Definitions of the tools that the record gives the assistant."""


@dataclass(frozen=True)
class Answer:
    """What a system made of a row. `log_prob` (of the reference) is None where it was not or could not be scored."""

    id: str
    text: str
    finish_reason: str
    prompt_hash: str
    log_prob: float | None
    num_tokens: int


def rows_from_records(records: Iterable[Mapping[str, Any]], *, texts: bool = False) -> list[EvalRow]:
    """Rows that end in an assistant's message with content, and with `texts` plain texts.

    The others (a call of a tool at the end, an undesirable answer alone) have nothing to compare with.
    """
    rows = []
    for record in records:
        messages, label = turns(record), record.get("label")
        if len(messages) > 1 and messages[-1]["role"] == "assistant" and (messages[-1]["content"] or "").strip():
            tools = tuple(tool_definitions(record) or ())
            rows.append(EvalRow(record["id"], tuple(messages[:-1]), messages[-1]["content"], label, tools))
        elif texts and (record.get("text") or "").strip():
            rows.append(EvalRow(record["id"], (), record["text"], label))
    return rows


def sample_rows(rows: Sequence[EvalRow], num_rows: int | None, seed: int) -> list[EvalRow]:
    """At most `num_rows` rows by keyed hash of id: the same ones on every run, near the same ones in grown data."""
    ordered = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.id}".encode()).digest())
    return ordered if num_rows is None else ordered[:num_rows]


def choose_examples(rows: Sequence[EvalRow], num_examples: int, seed: int) -> list[EvalRow]:
    """Examples for the baseline: of the shorter half, drawn by hash, with different labels or answers where there are.

    Long examples would be dear (they are in every prompt) without showing the format any better.
    """
    by_length = sorted(rows, key=lambda row: (_num_chars(row), row.id))
    drawn = sample_rows(by_length[: max(num_examples, (len(by_length) + 1) // 2)], None, seed)
    chosen: list[EvalRow] = []
    seen: set[str] = set()
    for row in drawn:
        if len(chosen) < num_examples and (row.label or row.reference) not in seen:
            seen.add(row.label or row.reference)
            chosen.append(row)
    rest = [row for row in drawn if row not in chosen]
    return chosen + rest[: num_examples - len(chosen)]


def _num_chars(row: EvalRow) -> int:
    return sum(len(said(message)) for message in row.question) + len(row.reference)


def baseline_question(row: EvalRow, examples: Sequence[EvalRow], config: BaselineConfig) -> list[Message]:
    """The baseline's prompt: system (the row's own and the instruction), examples as turns, then the question."""
    if not row.question:
        return []
    own = [message["content"] for message in row.question if message["role"] in INSTRUCTING]
    system = "\n\n".join([*own, config.instruction] if config.instruction else own)
    asked: list[Message] = [{"role": "system", "content": system}] if system else []
    for example in examples:
        asked += [message for message in example.question if message["role"] not in INSTRUCTING]
        asked.append({"role": "assistant", "content": example.reference})
    return asked + [message for message in row.question if message["role"] not in INSTRUCTING]


def task_of(config: EvaluateConfig, kind: str) -> TaskConfig | None:
    """The task of a kind, None when it is not asked for."""
    return next((task for task in config.tasks if task.kind == kind), None)


def measured_metrics(config: EvaluateConfig) -> list[str]:
    """Names of the metrics that this configuration measures."""
    names = []
    if answer := task_of(config, "answer"):
        names.append("exact_match")
        if answer.pattern is not None:
            names += ["format_compliance", *(f"f1_{name}" for name in _group_names(answer.pattern))]
    if task_of(config, "perplexity"):
        names.append("perplexity")
    if config.baseline.enabled:
        names += [f"baseline_{name}" for name in names] + [f"{name}_gain" for name in names]
    return names


def _group_names(pattern: str) -> list[str]:
    import re

    return list(re.compile(pattern).groupindex)


def compute_metrics(
    config: EvaluateConfig, rows: Sequence[EvalRow], answers: Mapping[str, Sequence[Answer]]
) -> dict[str, Metric]:
    """Every metric of `measured_metrics` that the rows allow.

    Args:
        config: names the tasks; `seed` draws the resamples.
        rows: the rows, in the order of the answers.
        answers: answers of `candidate` and, if it ran, `baseline`.

    A gain is positive when the candidate is better: candidate − baseline, for perplexity baseline − candidate.
    """
    metrics: dict[str, Metric] = {}
    candidate, baseline = answers[CANDIDATE], answers.get(BASELINE)
    if answer := task_of(config, "answer"):
        metrics |= _answer_metrics(answer, rows, candidate, baseline, config.seed)
    if task_of(config, "perplexity"):
        metrics |= _perplexity_metrics(candidate, baseline, config.seed)
    return metrics


def _answer_metrics(
    task: TaskConfig, rows: Sequence[EvalRow], candidate: Sequence[Answer], baseline: Sequence[Answer] | None, seed: int
) -> dict[str, Metric]:
    references = [row.reference for row in rows]
    resampler = Resampler(len(rows), seed)
    systems = {"": [answer.text for answer in candidate]}
    if baseline is not None:
        systems["baseline_"] = [answer.text for answer in baseline]
    shares: dict[str, dict[str, Floats]] = {"exact_match": {p: exact_match(t, references) for p, t in systems.items()}}
    if task.pattern is not None:
        pattern = task.pattern
        shares["format_compliance"] = {prefix: format_compliance(texts, pattern) for prefix, texts in systems.items()}
    metrics: dict[str, Metric] = {}
    for name, scores in shares.items():
        metrics |= {prefix + name: share_metric(values) for prefix, values in scores.items()}
        if baseline is not None:
            metrics[f"{name}_gain"] = resampler.difference(
                mean_statistic(scores[""]), mean_statistic(scores["baseline_"])
            )
    if task.pattern is not None:
        metrics |= _field_metrics(task.pattern, references, systems, seed)
    return metrics


def _field_metrics(
    pattern: str, references: Sequence[str], systems: Mapping[str, Sequence[str]], seed: int
) -> dict[str, Metric]:
    """Macro-F1 of each named group, over the rows whose reference is well-formed itself."""
    expected = extract_fields(references, pattern)
    usable = [index for index, fields in enumerate(expected) if fields is not None]
    found = {prefix: extract_fields([texts[index] for index in usable], pattern) for prefix, texts in systems.items()}
    resampler = Resampler(len(usable), seed)
    metrics = {}
    for name in _group_names(pattern):
        truth = [(expected[index] or {})[name] for index in usable]
        if not truth or len(set(truth)) > _MAX_CLASSES:
            continue
        guesses = {
            prefix: [None if fields is None else fields[name] for fields in parsed] for prefix, parsed in found.items()
        }
        statistics = {prefix: macro_f1_statistic(guess, truth) for prefix, guess in guesses.items()}
        for prefix, statistic in statistics.items():
            metrics[f"{prefix}f1_{name}"] = resampler.metric(statistic, classes=class_scores(guesses[prefix], truth))
        if "baseline_" in statistics:
            metrics[f"f1_{name}_gain"] = resampler.difference(statistics[""], statistics["baseline_"])
    return metrics


def _perplexity_metrics(candidate: Sequence[Answer], baseline: Sequence[Answer] | None, seed: int) -> dict[str, Metric]:
    """Over the rows that every system could score."""
    systems = {"": candidate} if baseline is None else {"": candidate, "baseline_": baseline}
    usable = [
        index
        for index in range(len(candidate))
        if all(system[index].log_prob is not None for system in systems.values())
    ]
    if not usable:
        return {}
    statistics = {
        prefix: perplexity_statistic(
            np.array([system[index].log_prob for index in usable], dtype=np.float64),
            np.array([system[index].num_tokens for index in usable], dtype=np.float64),
        )
        for prefix, system in systems.items()
    }
    resampler = Resampler(len(usable), seed)
    metrics = {f"{prefix}perplexity": resampler.metric(statistic) for prefix, statistic in statistics.items()}
    if "baseline_" in statistics:
        metrics["perplexity_gain"] = resampler.difference(statistics["baseline_"], statistics[""])
    return metrics


def prompt_hash(prompt: Sequence[int]) -> str:
    """Identity of a prompt's tokens."""
    return fingerprint(list(prompt))


def require_rows(rows: Sequence[EvalRow], path: str, split: str) -> None:
    """Raise UserError when there is nothing to evaluate on."""
    if not rows:
        raise UserError(
            f"{path}/{split}: no row ends in an assistant's answer, so there is nothing to evaluate on; plain text is "
            "scored by tasks=[perplexity] alone"
        )
