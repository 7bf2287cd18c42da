"""The sweep's page: the winner, learning curves, value over each parameter, and the table of trials.

Self-contained HTML with inline SVG: no script, no outside resource. Coordinates are computed here, the template only
places them.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from ftlib.config.sweep import Choices, SweepConfig
from ftlib.core.logging import format_duration

WIDTH, HEIGHT = 560, 260  # of a plot, in SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 10, 44  # margins for the axes' labels
_ORDER = {"best": 2, "complete": 1}  # drawn last lies on top


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A curve (several points) or a dot (one) of a trial."""

    number: int
    kind: str
    points: list[tuple[float, float]]
    title: str

    @property
    def path(self) -> str:
        """The points as SVG wants them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Plot:
    """A plot in SVG coordinates."""

    title: str
    x_label: str  # may be empty
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark] = field(default_factory=list)


class Axis:
    """Maps values onto a stretch of the page, linearly or by logarithm."""

    def __init__(self, values: list[float], start: float, end: float, log: bool = False) -> None:
        self._log = log
        low, high = min(values), max(values)
        pad = 0.0 if log else 0.04 * (high - low) or abs(high) * 0.05 or 1.0
        self._low, self._high = (math.log(low), math.log(high)) if log else (low - pad, high + pad)
        if self._low == self._high:
            self._low, self._high = self._low - 0.5, self._high + 0.5
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = ((math.log(value) if self._log else value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self, num: int = 5) -> list[Tick]:
        """Round values within the axis, about `num` of them."""
        if self._log:
            return self._log_ticks(num)
        step = _round_step((self._high - self._low) / num)
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [Tick(self(i * step), f"{i * step:.6g}") for i in range(first, last + 1)]

    def _log_ticks(self, num: int) -> list[Tick]:
        """1, 2 and 5 × powers of ten; the powers alone where those are many; the ends where there are too few."""
        low, high = math.exp(self._low) * (1 - 1e-9), math.exp(self._high) * (1 + 1e-9)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1, 2, 5), (1,)):
            values = [factor * 10.0**power for power in powers for factor in factors]
            inside = [value for value in values if low <= value <= high]
            if len(inside) <= num + 1:
                break
        inside = inside if len(inside) > 1 else [low, high]
        return [Tick(self(value), f"{value:.3g}") for value in inside]


def render(rows: list[dict[str, Any]], best: dict[str, Any], config: SweepConfig) -> str:
    """The page. `rows` as in trials.parquet with params as mappings, `best` as in best.json."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("ftlib.sweep", "."), autoescape=True, trim_blocks=True)
    environment.filters.update(number=_number, duration=lambda value: "" if value is None else format_duration(value))
    shown = [row for row in rows if row["state"] != "DUPLICATE"]
    curves = learning_curves(shown, best["trial"], config.search.metric)
    plots = {key: value_over(key, shown, best["trial"], config) for key in config.space}
    ranked = sorted(shown, key=lambda row: (row["state"] != "COMPLETE", _last(row), row["number"]))
    return environment.get_template("report.html.j2").render(
        rows=ranked,
        best=best,
        keys=list(config.space),
        metric=config.search.metric,
        curves=curves,
        plots={key: plot for key, plot in plots.items() if plot},
        width=WIDTH,
        height=HEIGHT,
        num_pruned=sum(row["state"] == "PRUNED" for row in shown),
        num_failed=sum(row["state"] == "FAIL" for row in shown),
        total_s=sum(row["duration_s"] or 0 for row in shown),
    )


def learning_curves(rows: list[dict[str, Any]], best: int, metric: str) -> Plot | None:
    """Metric over optimiser steps, a line for each trial; None when no trial was validated on the way."""
    series = {
        row["number"]: (row, [(item["step"], item["value"]) for item in row["steps"] if math.isfinite(item["value"])])
        for row in rows
    }
    points = [point for _, curve in series.values() for point in curve]
    if not points:
        return None
    x, y = _axes([float(step) for step, _ in points], [value for _, value in points])
    marks = [
        Mark(number, _kind(row, best), [(x(step), y(value)) for step, value in curve], _title(row))
        for number, (row, curve) in series.items()
        if curve
    ]
    marks.sort(key=lambda mark: _ORDER.get(mark.kind, 0))
    return Plot(f"{metric} over steps", "optimiser steps", metric, x.ticks(), y.ticks(), marks)


def value_over(key: str, rows: list[dict[str, Any]], best: int, config: SweepConfig) -> Plot | None:
    """Metric over one parameter, a dot for each trial; categories stand side by side."""
    item = config.space[key]
    measured = [row for row in rows if key in row["params"] and math.isfinite(_last(row))]
    if not measured:
        return None
    if isinstance(item, Choices):
        places = {str(choice): float(index) for index, choice in enumerate(item.choices)}
        at = {row["number"]: places[str(row["params"][key])] for row in measured}
        x, y = _axes([*places.values()], [_last(row) for row in measured])
        x_ticks = [Tick(x(place), label) for label, place in places.items()]
    else:
        at = {row["number"]: float(row["params"][key]) for row in measured}
        x, y = _axes([item.low, item.high], [_last(row) for row in measured], item.log)
        x_ticks = x.ticks()
    marks = [
        Mark(row["number"], _kind(row, best), [(x(at[row["number"]]), y(_last(row)))], _title(row)) for row in measured
    ]
    marks.sort(key=lambda mark: _ORDER.get(mark.kind, 0))
    return Plot(f"{config.search.metric} over {key}", "", config.search.metric, x_ticks, y.ticks(), marks)


def _axes(xs: list[float], ys: list[float], log: bool = False) -> tuple[Axis, Axis]:
    return Axis(xs, _LEFT, WIDTH - _RIGHT, log), Axis(ys, HEIGHT - _BOTTOM, _TOP)


def _kind(row: dict[str, Any], best: int) -> str:
    return "best" if row["number"] == best else str(row["state"]).lower()


def _last(row: dict[str, Any]) -> float:
    return math.inf if row["value"] is None else float(row["value"])


def _title(row: dict[str, Any]) -> str:
    params = ", ".join(f"{key}={_number(value)}" for key, value in row["params"].items())
    return f"trial {row['number']} ({row['state'].lower()}): {_number(row['value'])}; {params}"


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _round_step(raw: float) -> float:
    """The next of 1, 2, 5 × a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9)))
