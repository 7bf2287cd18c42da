"""`report.html` of a run: losses and what else was measured over the steps, counts of the data, settings.

Made from `metrics.jsonl` and what the driver knows, so it can be written for a run that diverged or failed too. One
page with no outside part and no text of records.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from ftlib.core.logging import format_duration, get_logger
from ftlib.core.page import Mark, Plot, Point, Tick, format_number, make_axes, render_page, thin_out
from ftlib.core.storage import write_text
from ftlib.train.layout import REPORT
from ftlib.train.metrics import read_metrics
from ftlib.train.track import flat_settings

logger = get_logger(__name__)

Record = dict[str, Any]

_SMOOTHED_FROM = 20
"""Steps from which the noise of single steps is worth a running mean."""
_TITLES = {
    "lr": "Learning rate",
    "grad_norm": "Gradient norm, before clipping",
    "tokens_per_s": "Tokens per second",
    "memory_gb": "Peak memory of rank 0, GB",
}
_NOT_PLOTTED = {"kind", "step", "loss", "tokens", "supervised_weight", "seconds", "epoch"}


@dataclass(frozen=True)
class RunFacts:
    """What the page says of a run besides its metrics."""

    run_id: str
    status: str
    """As in the loop's outcome, or `failed`."""
    config: dict[str, Any]
    """Resolved."""
    counts: dict[str, Any]
    """Of the packed training split, with `num_steps`."""
    base_fingerprint: str
    best: str | None = None
    """Name of the best checkpoint."""
    last: dict[str, float] | None = None
    """Of a diverged run, the step that diverged."""


def write_report(run_dir: Path, facts: RunFacts) -> None:
    """Write the page into the run's folder; a mistake in it is logged and costs no run its result."""
    try:
        write_text(str(run_dir / REPORT), render(facts, read_metrics(run_dir)))
    except Exception:
        logger.exception("%s could not be written", REPORT)


def render(facts: RunFacts, records: Sequence[Record]) -> str:
    """The page; `records` as in metrics.jsonl."""
    steps = [record for record in records if record["kind"] == "train"]
    validations = [record for record in records if record["kind"] == "val"]
    resumes = [int(record["step"]) for record in records if record["kind"] == "resume"]
    return render_page(
        "ftlib.train",
        "report.html.j2",
        run=facts,
        state=_state(facts, steps),
        figures=_figures(facts, steps, validations, resumes),
        plots=_plots(steps, validations, _rules(facts, resumes)) if steps else [],
        smoothed=len(steps) >= _SMOOTHED_FROM,
        validations=_validations(validations, facts.best),
        counts=_counts(facts),
        origin=_origin(facts),
        settings=flat_settings(facts.config),
    )


def _state(facts: RunFacts, steps: Sequence[Record]) -> dict[str, Any]:
    done, planned = (steps[-1]["step"] if steps else 0), facts.counts["num_steps"]
    if facts.status == "diverged":
        last = facts.last or {}
        values = ", ".join(f"{name} {value}" for name, value in last.items() if name != "step")
        text = f"diverged at step {last.get('step', done + 1):g} of {planned} ({values}); no result"
    else:
        text = {
            "finished": f"finished after {done:,} steps",
            "early_stopped": f"stopped after {done:,} of {planned:,} steps, since the validation loss fell no more",
            "stopped": f"stopped early after {done:,} of {planned:,} steps",
        }.get(
            facts.status, f"failed after {done:,} of {planned:,} steps; run it again to go on from its last checkpoint"
        )
    return {"text": text, "failed": facts.status not in {"finished", "stopped", "early_stopped"}}


def _figures(
    facts: RunFacts, steps: Sequence[Record], validations: Sequence[Record], resumes: Sequence[int]
) -> list[tuple[str, str]]:
    """Value and name of each tile."""
    figures = []
    if measured := [record for record in validations if _step_name(record) == facts.best and "val_loss" in record]:
        figures.append((format_number(measured[-1]["val_loss"]), "validation loss of the best checkpoint"))
    if steps:
        seconds = sum(record["seconds"] for record in [*steps, *validations])
        figures += [
            (format_number(steps[-1]["loss"]), "training loss of the last step"),
            (f"{steps[-1]['step']:,}", f"steps of {facts.counts['num_steps']:,}"),
            (_compact(sum(record["tokens"] for record in steps)), "tokens read"),
            (f"{median(record['tokens_per_s'] for record in steps):,.0f}", "tokens per second, median"),
            (f"{max(record['memory_gb'] for record in steps):.2f} GB", "peak memory of rank 0"),
            (format_duration(seconds), "in steps and validations"),
        ]
    if resumes:
        figures.append((str(len(resumes)), f"resumed at step {', '.join(map(str, resumes))}"))
    return figures


def _rules(facts: RunFacts, resumes: Sequence[int]) -> list[tuple[int, str]]:
    """Steps at which something happened."""
    found = [(step, f"resumed at step {step}") for step in resumes]
    if facts.best:
        step = int(facts.best.rpartition("-")[2])
        found.append((step, f"best checkpoint at step {step}"))
    return found


def _plots(steps: Sequence[Record], validations: Sequence[Record], rules: Sequence[tuple[int, str]]) -> list[Plot]:
    """The losses, then a plot for each other figure of the steps."""
    names = [name for name in _TITLES if name in steps[0]]
    names += [name for name in steps[0] if name not in {*_TITLES, *_NOT_PLOTTED} and _is_number(steps[0][name])]
    found = [_loss_plot(steps, validations, rules)]
    found += [_plot(_TITLES.get(name, name), {"": _curve(steps, name)}, rules) for name in names]
    return [plot for plot in found if plot]


def _loss_plot(steps: Sequence[Record], validations: Sequence[Record], rules: Sequence[tuple[int, str]]) -> Plot | None:
    curve = _curve(steps, "loss")
    curves = {"raw": curve, "smooth": smooth(curve)} if len(curve) >= _SMOOTHED_FROM else {"": curve}
    return _plot("Loss", curves | {"best": _curve(validations, "val_loss")}, rules)


def smooth(points: Sequence[Point]) -> list[Point]:
    """Mean over a thirtieth of the curve around each point, over less towards its ends."""
    half = max(2, len(points) // 60)
    sums = [0.0, *accumulate(y for _, y in points)]
    found = []
    for index, (x, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        found.append((x, (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)))
    return found


def _curve(records: Sequence[Record], name: str) -> list[Point]:
    points = [(float(record["step"]), float(record[name])) for record in records if _is_number(record.get(name))]
    return [point for point in points if math.isfinite(point[1])]


def _plot(title: str, curves: dict[str, list[Point]], rules: Sequence[tuple[int, str]]) -> Plot | None:
    """A plot of curves by the kind of their line; `best` has a dot at every point."""
    every = [point for curve in curves.values() for point in curve]
    if not every:
        return None
    x, y = make_axes([step for step, _ in every], [value for _, value in every])
    marks = []
    for kind, curve in curves.items():
        placed = [(x(step), y(value)) for step, value in thin_out(curve)]
        last = f"{title}, last {format_number(curve[-1][1])}" if curve else title
        if placed:
            marks.append(Mark(kind, placed, last, dots=placed if kind == "best" or len(placed) == 1 else []))
    low, high = min(step for step, _ in every), max(step for step, _ in every)
    lines = [Tick(x(step), label) for step, label in rules if low <= step <= high]
    return Plot(title, "optimiser steps", title, _whole(x.ticks()), y.ticks(), marks, lines)


def _whole(ticks: list[Tick]) -> list[Tick]:
    """Ticks at whole steps: there is no step 2.5."""
    return [tick for tick in ticks if float(tick.label).is_integer()]


def _validations(records: Sequence[Record], best: str | None) -> list[dict[str, Any]]:
    names = [name for name in (records[0] if records else {}) if name not in {"kind", "step", "seconds"}]
    return [
        {
            "step": record["step"],
            "measured": {name: record.get(name) for name in names},
            "best": _step_name(record) == best,
        }
        for record in records
    ]


def _counts(facts: RunFacts) -> list[tuple[str, str]]:
    """Counts of the training split in words; those without a word here keep their name."""
    counts = dict(facts.counts)
    length = facts.config["train"]["max_seq_len"]
    tokens, packs = counts["num_tokens"], counts["num_packs"]
    words = {
        "num_rows": "rows",
        "num_unsupervised": "rows that supervise nothing, left out",
        "num_truncated": f"rows longer than {length:,} tokens",
        "num_too_long": "of them left out",
        "num_turns_unlearnt": "turns that the template renders otherwise as history, not learnt",
        "num_reasoning_left_out": "turns whose reasoning the template leaves out",
        "num_tools_left_out": "rows whose tools the template leaves out",
        "num_sequences": "sequences",
        "num_tokens": "tokens",
        "num_packs": f"packs of up to {length:,} tokens",
        "longest_pack": "tokens of the longest pack",
        "num_steps": "steps planned",
    }
    supervised = counts.pop("num_supervised", None)
    found = [(words.get(name, name), f"{value:,}") for name, value in counts.items() if _is_number(value)]
    if supervised is not None:
        found.append(("supervised tokens", f"{supervised:,} ({supervised / tokens:.1%})"))
    return [*found, ("fill of the packs", f"{tokens / (packs * length):.1%}")]


def _origin(facts: RunFacts) -> list[tuple[str, str]]:
    config = facts.config
    method, scaling, parallel = config["method"], config["scaling"], config["parallel"]
    kind = method["kind"] if method["kind"] == "full" else f"{method['kind']}, rank {method['rank']}"
    spread = f"{scaling['num_workers']} × {'GPU' if scaling['use_gpu'] else 'CPU'}, {parallel['strategy']}"
    if parallel["strategy"] == "deepspeed":
        spread += f" ZeRO-{parallel['zero_stage']}"
    return [
        ("base", config["model"]["source"]),
        ("fingerprint of the base", facts.base_fingerprint),
        ("data", config["data"]["path"]),
        ("method", kind),
        ("workers", spread),
        ("best checkpoint", facts.best or "none"),
    ]


def _compact(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def _step_name(record: Record) -> str:
    return f"step-{record['step']}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
