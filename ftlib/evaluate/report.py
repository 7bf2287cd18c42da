"""`report.html` of an evaluation: one page with no outside parts; figures, gates, classes, examples side by side."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftlib.data.records import said
from ftlib.evaluate.tasks import BASELINE, CANDIDATE, Answer, EvalRow
from ftlib.text.metrics import Metric, normalise_answer

_MAX_CHARS = 600
_NUM_EXAMPLES = 8
_PERCENT = ("exact_match", "format_compliance", "f1_")


def build_report(
    title: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    gates: Sequence[Mapping[str, Any]],
    rows: Sequence[EvalRow],
    answers: Mapping[str, Sequence[Answer]],
) -> str:
    """The page as HTML.

    Args:
        title: facts for the head of the page, shown as name and value.
        metrics: by name, as `compute_metrics` gives them.
        gates: verdicts of `ftlib.evaluate.gates.judge`.
        rows: the rows, in the order of the answers; their text is redacted already.
        answers: by system.
    """
    names = [name for name in metrics if not name.startswith("baseline_") and not name.endswith("_gain")]
    figures = [
        {
            "name": name,
            "percent": name.startswith(_PERCENT),
            "candidate": metrics[name],
            "baseline": metrics.get(f"baseline_{name}"),
            "gain": metrics.get(f"{name}_gain"),
        }
        for name in names
    ]
    fields = [
        {
            "name": name.removeprefix("f1_"),
            "classes": metrics[name].details.get("classes", {}),
            "baseline": metrics[f"baseline_{name}"].details.get("classes", {})
            if f"baseline_{name}" in metrics
            else None,
        }
        for name in names
        if name.startswith("f1_")
    ]
    page: str = _template().render(
        title=title, figures=figures, gates=gates, fields=fields, examples=_examples(rows, answers)
    )
    return page


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, select_autoescape

    from ftlib.core.page import visible

    source = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    escaping = select_autoescape(default=True, default_for_string=True)
    environment = Environment(autoescape=escaping, trim_blocks=True, finalize=visible)
    environment.filters["figure"] = lambda value, percent: f"{value:.1%}" if percent else f"{value:.3f}"
    return environment.from_string(source)


def _examples(rows: Sequence[EvalRow], answers: Mapping[str, Sequence[Answer]]) -> list[dict[str, Any]]:
    """A few rows side by side: mistakes of the candidate first, since they say more, then hits, in the order of ids."""
    baseline = answers.get(BASELINE)
    shown = []
    for index, (row, answer) in enumerate(zip(rows, answers[CANDIDATE], strict=True)):
        right = normalise_answer(answer.text) == normalise_answer(row.reference)
        shown.append(
            {
                "id": row.id,
                "question": _cut(said(row.question[-1]) if row.question else "(plain text)"),
                "reference": _cut(row.reference),
                "candidate": _cut(answer.text),
                "baseline": _cut(baseline[index].text) if baseline is not None else None,
                "right": right,
                "baseline_right": baseline is not None
                and normalise_answer(baseline[index].text) == normalise_answer(row.reference),
            }
        )
    wrong = [example for example in shown if not example["right"]][: _NUM_EXAMPLES // 2]
    hits = [example for example in shown if example["right"]][: _NUM_EXAMPLES - len(wrong)]
    return wrong + hits


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + " …"
