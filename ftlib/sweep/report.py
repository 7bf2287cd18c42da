"""The sweep's page: the winner, learning curves, value over each parameter, and the table of trials."""

import math
from typing import Any

from ftlib.config.sweep import Choices, SweepConfig
from ftlib.core.page import Mark, Plot, Tick, format_number, make_axes, render_page

_ORDER = {"best": 2, "complete": 1}  # drawn last lies on top


def render(rows: list[dict[str, Any]], best: dict[str, Any], config: SweepConfig) -> str:
    """The page. `rows` as in trials.parquet with params as mappings, `best` as in best.json."""
    shown = [row for row in rows if row["state"] != "DUPLICATE"]
    curves = learning_curves(shown, best["trial"], config.search.metric)
    plots = {key: value_over(key, shown, best["trial"], config) for key in config.space}
    ranked = sorted(shown, key=lambda row: (row["state"] != "COMPLETE", _last(row), row["number"]))
    return render_page(
        "ftlib.sweep",
        "report.html.j2",
        rows=ranked,
        best=best,
        keys=list(config.space),
        metric=config.search.metric,
        curves=curves,
        plots={key: plot for key, plot in plots.items() if plot},
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
    x, y = make_axes([float(step) for step, _ in points], [value for _, value in points])
    marks = [
        Mark(_kind(row, best), [(x(step), y(value)) for step, value in curve], _title(row))
        for row, curve in series.values()
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
        x, y = make_axes([*places.values()], [_last(row) for row in measured])
        x_ticks = [Tick(x(place), label) for label, place in places.items()]
    else:
        at = {row["number"]: float(row["params"][key]) for row in measured}
        x, y = make_axes([item.low, item.high], [_last(row) for row in measured], log_x=item.log)
        x_ticks = x.ticks()
    marks = [Mark(_kind(row, best), [(x(at[row["number"]]), y(_last(row)))], _title(row)) for row in measured]
    marks.sort(key=lambda mark: _ORDER.get(mark.kind, 0))
    return Plot(f"{config.search.metric} over {key}", "", config.search.metric, x_ticks, y.ticks(), marks)


def _kind(row: dict[str, Any], best: int) -> str:
    return "best" if row["number"] == best else str(row["state"]).lower()


def _last(row: dict[str, Any]) -> float:
    return math.inf if row["value"] is None else float(row["value"])


def _title(row: dict[str, Any]) -> str:
    params = ", ".join(f"{key}={format_number(value)}" for key, value in row["params"].items())
    return f"trial {row['number']} ({row['state'].lower()}): {format_number(row['value'])}; {params}"
