"""Report pages: one HTML file with inline SVG, no script and no outside resource, readable on a phone and on paper.

Coordinates are computed here; templates only place them. A report's template extends `page.html.j2` and draws a `Plot`
with the macro of `plot.html.j2`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ftlib.core.logging import format_duration

WIDTH, HEIGHT = 560, 260  # of a plot, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 10, 44  # margins for the axes' labels

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A curve (several points) or a dot (one), of a kind that the page has a style for."""

    kind: str
    points: list[Point]
    title: str
    dots: list[Point] | None = None
    """Where dots are drawn; default: at the last point."""

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
    rules: list[Tick] = field(default_factory=list)
    """Upright lines, for moments."""


class Axis:
    """Maps values onto a stretch of the page, linearly or by logarithm."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False) -> None:
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
        return [Tick(self(i * step), _label(i * step)) for i in range(first, last + 1)]

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


def make_axes(xs: Sequence[float], ys: Sequence[float], *, log_x: bool = False) -> tuple[Axis, Axis]:
    """The axes of a plot that shows all these values."""
    return Axis(xs, LEFT, WIDTH - RIGHT, log_x), Axis(ys, HEIGHT - BOTTOM, TOP)


def thin_out(points: Sequence[Point], limit: int = 600) -> list[Point]:
    """At most about `limit` points of a curve: lowest and highest of each stretch, so that spikes stay visible."""
    if len(points) <= limit:
        return list(points)
    stretch = math.ceil(len(points) / (limit // 2))
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = range(start, min(start + stretch, len(points)))
        ends = {min(part, key=lambda index: points[index][1]), max(part, key=lambda index: points[index][1])}
        kept += [points[index] for index in sorted(ends)]
    return kept


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(value: Any) -> Any:
    """Text of strangers as a page shows it: what would direct the text beside it (bidirectional marks) is escaped.

    The `finalize` of every template's environment; markup that a macro made passes.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", value)


def render_page(package: str, template: str, **values: Any) -> str:
    """Render a package's template, which may extend and import those of this package.

    Filters: `number` (four figures), `n` (thousands), `pct`, `duration` (of seconds); all give "" for None.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("ftlib.core", ".")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, finalize=visible)
    environment.globals.update(width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM)
    environment.filters.update(
        number=format_number,
        n=_unless_none(lambda value: f"{value:,.0f}"),
        pct=_unless_none(lambda value: f"{100 * value:.1f} %"),
        duration=_unless_none(format_duration),
    )
    return environment.get_template(template).render(**values)


def format_number(value: Any) -> str:
    """Floats to four figures, other values as they are, None as nothing."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _label(value: float) -> str:
    """At most six figures; small ones as 1.5e-4, which leaves room for the plot."""
    if 0 < abs(value) < 1e-3:
        return re.sub(r"(\.0)?e-0*", "e-", f"{value:.1e}")
    return f"{value:.6g}"


def _unless_none(show: Any) -> Any:
    return lambda value: "" if value is None else show(value)


def _round_step(raw: float) -> float:
    """The next of 1, 2, 5 × a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9)))
