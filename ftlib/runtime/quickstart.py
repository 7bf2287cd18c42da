"""The guided tour of `make quickstart`: every step a job submitted to a local Ray head, with progress and an estimate.

It drives the jobs through their command-line contract alone: submits them as a user would and reads the JSON object
that each prints last. Finished steps are found again by the jobs themselves (equal inputs, configuration and code), so
that a second run passes through. Results lie in `.ftlib/quickstart/`: `corpus/ data/ runs/ sweep/ eval/ registry/
logs/`.
"""

import json
import re
import shlex
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ftlib.core.errors import FtlibError, UserError
from ftlib.core.logging import format_duration
from ftlib.core.storage import read_json
from ftlib.runtime import local
from ftlib.runtime.cluster import usable_cpus
from ftlib.runtime.envfile import apply_env
from ftlib.runtime.submit import submit

CONFIGS = Path("jobs/configs/quickstart")
FOLDER = Path(".ftlib/quickstart")
JOBS = ("prepare", "sweep", "evaluate", "promote", "deploy")
_OWN_LINE = re.compile(r"\d\d:\d\d:\d\d ([A-Z]) ftlib\.[\w.]+: (.*)")
_READY_TIMEOUT_S = 30.0
_REQUEST_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Question:
    """A ticket of the held-out test split, redacted, with the right answer."""

    messages: list[dict[str, str]]
    reference: str


@dataclass(frozen=True)
class Hooks:
    """What the tour needs from the planes above this one."""

    write_corpus: Callable[[Path], dict[str, Any]]
    """Write the sample corpus into a folder; returns its counts."""
    score_corpus: Callable[[Path, Path], dict[str, Any]]
    """Corpus and prepared dataset → shares of the planted PII found and of the planted duplicates dropped."""
    pick_question: Callable[[Path], Question]
    """A question of the prepared dataset's test split."""
    ask_base: Callable[[list[dict[str, str]]], str]
    """The answer of the untuned model, computed in this process."""


@dataclass
class Tour:
    """The state of one walk through the steps."""

    hooks: Hooks
    root: Path
    overrides: dict[str, list[str]] = field(default_factory=dict)
    show: Callable[[str], None] = lambda line: print(line, flush=True)
    started: float = field(default_factory=time.monotonic)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    head: local.Head | None = None
    question: Question | None = None

    @property
    def folder(self) -> Path:
        """Where the tour's results lie."""
        return self.root / FOLDER


@dataclass(frozen=True)
class Step:
    """A step: its title, what it took on two cores (for the estimate of what is left), and what it does."""

    title: str
    expected_s: float
    run: Callable[[Tour], None]


def run_tour(hooks: Hooks, root: Path, overrides: Sequence[str] = ()) -> None:
    """Walk through all steps; raises FtlibError when one fails, with the place of its log.

    An override is `JOB.key.path=value`, for example `sweep.search.num_trials=2`.
    """
    tour = Tour(hooks, root, group_overrides(overrides))
    steps = tour_steps()
    clock = Estimate([step.expected_s for step in steps])
    for number, step in enumerate(steps, 1):
        elapsed = format_duration(time.monotonic() - tour.started)
        left = format_duration(clock.left(number - 1))
        tour.show(f"\n[{number}/{len(steps)}] {step.title}   ({elapsed} so far, about {left} to go)")
        begun = time.monotonic()
        step.run(tour)
        clock.record(number - 1, time.monotonic() - begun)
    tour.show("\n" + summary(tour))


def group_overrides(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Overrides by the job that their first part names; raises UserError for another first part."""
    groups: dict[str, list[str]] = {job: [] for job in JOBS}
    for override in overrides:
        job, _, rest = override.partition(".")
        if job not in groups or "=" not in rest:
            raise UserError(f"{override!r} is not of the form JOB.key.path=value with a JOB of {', '.join(JOBS)}")
        groups[job].append(rest)
    return groups


class Estimate:
    """What is left, from what each step is expected to take and what the finished ones took."""

    def __init__(self, expected_s: list[float]) -> None:
        self._expected, self._took, self._planned = expected_s, 0.0, 0.0

    def record(self, index: int, took_s: float) -> None:
        """Count a finished step."""
        self._took += took_s
        self._planned += self._expected[index]

    def left(self, index: int) -> float:
        """Seconds for the steps from `index` on; this machine's speed is taken from a minute of evidence on."""
        ahead = sum(self._expected[index:])
        return ahead * (self._took + 60) / (self._planned + 60)


def tour_steps() -> list[Step]:
    """The steps in their order, with seconds measured on two cores."""
    return [
        Step("A Ray head of this checkout's own, with token authentication", 12, _start_head),
        Step(
            "A sample corpus: customer-support tickets with planted PII, duplicates and broken rows", 5, _write_corpus
        ),
        Step("Prepare: redact, deduplicate, filter, split, report", 70, _prepare),
        Step("The untuned model on a ticket that it has never seen", 12, _ask_base),
        Step("Sweep: LoRA rank and learning rate, two workers, DeepSpeed ZeRO-2", 400, _sweep),
        Step("Evaluate: base and winner on the held-out test", 100, _evaluate),
        Step("Promote: the winner becomes the champion if it beats the base", 8, _promote),
        Step("Deploy: the champion behind an OpenAI-compatible endpoint", 30, _deploy),
    ]


def _start_head(tour: Tour) -> None:
    # A logical CPU more than the machine has: the endpoint keeps one, and idles while the jobs use theirs.
    tour.head = local.start(tour.root / ".ftlib", cpus=usable_cpus() + 1)
    apply_env(tour.head.environment(), override=True)
    tour.show(_indent(local.login_text(tour.head)))


def _write_corpus(tour: Tour) -> None:
    counts = tour.hooks.write_corpus(tour.folder / "corpus")
    shown = ", ".join(
        f"{value} {key.removeprefix('num_').replace('_', ' ').replace('pii', 'PII')}" for key, value in counts.items()
    )
    tour.show(_indent(f"{tour.folder / 'corpus'}: {shown}"))


def _prepare(tour: Tour) -> None:
    _submit(tour, "prepare")
    scores = tour.hooks.score_corpus(tour.folder / "corpus", tour.folder / "data")
    tour.results["corpus"] = scores
    tour.show(_indent(f"planted PII found        {scores['pii_found']:7.2%}"))
    tour.show(_indent(f"planted duplicates gone  {scores['duplicates_dropped']:7.2%}"))
    tour.show(_indent(f"read the report          file://{tour.folder / 'data' / 'report.html'}"))


def _ask_base(tour: Tour) -> None:
    tour.question = tour.hooks.pick_question(tour.folder / "data")
    answer = tour.hooks.ask_base(tour.question.messages)
    tour.show(_indent(f"ticket    {_one_line(tour.question.messages[-1]['content'])}"))
    tour.show(_indent(f"expected  {_one_line(tour.question.reference)}"))
    tour.show(_indent(f"untuned   {_one_line(answer)}"))


def _sweep(tour: Tour) -> None:
    _submit(tour, "sweep")


def _evaluate(tour: Tour) -> None:
    _submit(tour, "evaluate")
    tour.show(_indent(f"read the report  file://{tour.folder / 'eval' / 'report.html'}"))


def _promote(tour: Tour) -> None:
    _submit(tour, "promote")


def _deploy(tour: Tour) -> None:
    assert tour.head is not None and tour.question is not None, "earlier steps set them"
    _submit(tour, "deploy", f"http.port={tour.head.endpoint_port}")
    wait_ready(endpoint_root(tour.head))
    question = tour.question
    tour.show(_indent(f"ticket    {_one_line(question.messages[-1]['content'])}"))
    tour.show(_indent(f"expected  {_one_line(question.reference)}"))
    served = read_mapping_of_names(tour.root / CONFIGS / "deploy.yaml")
    for label, model in (("tuned", served.tuned), ("untuned", served.base)):
        answer = ask_endpoint(tour.head, model, question.messages)
        tour.results[f"answer_{label}"] = {"text": answer}
        tour.show(_indent(f"{label:<9} {_one_line(answer)}"))


def _submit(tour: Tour, job: str, *own: str) -> None:
    logs = tour.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with open(logs / f"{job}.log", "w", encoding="utf-8") as file:
        echo = _Echo(tour, file)
        overrides = [*own, *tour.overrides.get(job, [])]
        outcome = submit(job, str(tour.root / CONFIGS / f"{job}.yaml"), overrides, echo=echo)
    tour.results[job] = outcome.result
    if outcome.exit_code:
        reason = outcome.result.get("message") or outcome.result["status"]
        error = FtlibError(f"jobs.{job} ended with exit code {outcome.exit_code}: {reason}\nits log: {logs / job}.log")
        error.exit_code = outcome.exit_code
        raise error
    found = " (was finished already)" if outcome.result.get("found") or outcome.result.get("reused") else ""
    tour.show(
        _indent(f"{job} done in {format_duration(time.monotonic() - begun)}{found}: {outcome.result['manifest']}")
    )


class _Echo:
    """Writes a job's whole log to a file and shows the lines that ftlib wrote."""

    def __init__(self, tour: Tour, file: TextIO) -> None:
        self._tour, self._file = tour, file

    def __call__(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()
        if match := _OWN_LINE.search(line):
            mark = "" if match[1] == "I" else "! "
            self._tour.show(_indent(f"· {mark}{match[2]}"))


@dataclass(frozen=True)
class ServedNames:
    """Public names of the base and of the tuned model."""

    base: str
    tuned: str


def read_mapping_of_names(path: Path) -> ServedNames:
    """The public names in a deploy configuration."""
    from ftlib.config.deploy import DeployConfig
    from ftlib.config.loader import load_config

    config = load_config(DeployConfig, str(path))
    base = config.model.name or re.split(r"[/:]", config.model.source)[-1]
    return ServedNames(base, config.adapters[0].name)


def endpoint_root(head: local.Head) -> str:
    """The endpoint's address without `/v1`."""
    return f"http://127.0.0.1:{head.endpoint_port}"


def wait_ready(root: str, timeout_s: float = _READY_TIMEOUT_S) -> None:
    """Wait until `/ready` answers; raises FtlibError."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(f"{root}/ready", timeout=5) as response:
                if response.status == 200:
                    return
        except OSError as error:
            reason = error
        if time.monotonic() > deadline:
            raise FtlibError(f"the endpoint at {root} is not ready after {timeout_s:.0f} s: {reason}")
        time.sleep(0.3)


def api_key(head: local.Head) -> str:
    """The first API key of the local cluster."""
    return (head.state / "api_keys").read_text(encoding="utf-8").split()[0]


def ask_endpoint(head: local.Head, model: str, messages: list[dict[str, str]]) -> str:
    """Ask with the official client, streaming; returns the whole answer."""
    from openai import OpenAI, OpenAIError

    client = OpenAI(base_url=f"{endpoint_root(head)}/v1", api_key=api_key(head), timeout=_REQUEST_TIMEOUT_S)
    request: Any = {"model": model, "messages": messages, "max_tokens": 48, "temperature": 0, "stream": True}
    try:
        stream = client.chat.completions.create(**request)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    except OpenAIError as error:
        raise FtlibError(f"the endpoint did not answer as {model}: {error}") from error


def summary(tour: Tour) -> str:
    """The table at the end and the next commands."""
    assert tour.head is not None, "the first step sets it"
    metrics = read_json(str(tour.folder / "eval" / "metrics.json"))
    names = read_mapping_of_names(tour.root / CONFIGS / "deploy.yaml")
    lines = [f"Done in {format_duration(time.monotonic() - tour.started)}.", "", *metrics_table(metrics), ""]
    corpus = tour.results["corpus"]
    lines += [
        f"planted PII found {corpus['pii_found']:.2%}, planted duplicates dropped {corpus['duplicates_dropped']:.2%}"
    ]
    assert tour.question is not None, "an earlier step sets it"
    return "\n".join([*lines, "", *next_commands(tour.head, names.tuned, tour.question, tour.folder)])


def metrics_table(metrics: dict[str, Any]) -> list[str]:
    """Base, tuned and the difference, each with its 95 % interval, one line a metric."""
    rows: list[tuple[str, ...]] = [("on the held-out test", "base, prompted", "tuned", "difference")]
    for name, tuned in metrics.items():
        if base := metrics.get(f"baseline_{name}"):
            rows.append((name.replace("_", " "), _cell(base), _cell(tuned), _cell(metrics.get(f"{name}_gain"))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    low, high = entry.get("interval") or (None, None)
    shown = f"{entry['value']:.3f}"
    return shown if low is None else f"{shown} [{low:.3f}, {high:.3f}]"


def next_commands(head: local.Head, model: str, question: Question, folder: Path) -> list[str]:
    """What to type next."""
    body = json.dumps({"model": model, "messages": question.messages}, ensure_ascii=False)
    return [
        "The endpoint is up. Next:",
        f"  ask it          curl -s {endpoint_root(head)}/v1/chat/completions \\",
        f'                    -H "Authorization: Bearer $(cat {head.state}/api_keys)" \\',
        f"                    -H 'Content-Type: application/json' -d {shlex.quote(body)}",
        f"  data report     file://{folder}/data/report.html",
        f"  sweep report    file://{folder}/sweep/report.html",
        f"  test report     file://{folder}/eval/report.html",
        f"  dashboard       {head.dashboard_url}   token: cat {head.token_file}",
        f"  registry        .venv/bin/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{folder}/registry/mlflow.db",
        "  own data        source .ftlib/env; .venv/bin/python -m jobs.submit prepare --config "
        "jobs/configs/quickstart/prepare.yaml input.paths='[YOUR.jsonl]' output.path=runs/data",
        "  stop            make stop",
    ]


def _indent(text: str) -> str:
    return "\n".join(f"      {line}" for line in text.splitlines())


def _one_line(text: str, width: int = 150) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
