"""Gates: conditions on metrics, judged on the safe end of the 95 % interval. Pure: a table of cases tests it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ftlib.config.evaluate import EvaluateConfig, GateConfig
from ftlib.core.errors import UserError
from ftlib.text.metrics import Metric


def gates_of(config: EvaluateConfig, measured: Sequence[str]) -> list[GateConfig]:
    """The gates of a configuration.

    A default gate on something that is not measured (there is no baseline, say) is left out; one that the user wrote
    raises UserError, because it could never pass.
    """
    unknown = [gate.metric for gate in config.gates if gate.metric not in measured]
    if unknown and "gates" in config.model_fields_set:
        raise UserError(
            f"gates: {', '.join(unknown)} is not measured by this evaluation; measured: {', '.join(measured)}"
        )
    return [gate for gate in config.gates if gate.metric in measured]


def judge(gates: Sequence[GateConfig], metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """Each gate with what was measured and whether it passed; a metric that could not be measured fails its gate."""
    verdicts = []
    for gate in gates:
        metric = metrics.get(gate.metric)
        passed = metric is not None and metric.n > 0
        if metric is not None and gate.min is not None:
            # A tie with the baseline is no gain: `exact_match_gain` with `min: 0` asks for more than none.
            is_gain = gate.metric.endswith("_gain")
            passed = passed and (metric.low > gate.min if is_gain else metric.low >= gate.min)
        if metric is not None and gate.max is not None:
            passed = passed and metric.high <= gate.max
        measured = {"value": metric.value, "low": metric.low, "high": metric.high, "n": metric.n} if metric else {}
        verdicts.append({"metric": gate.metric, "min": gate.min, "max": gate.max, **measured, "passed": passed})
    return verdicts
