"""The rule of promotion: a tuned model gets an alias only with an evaluation of that very model whose gates all passed.

`refusals` is the rule itself, on manifests alone; `promote` reads the folders, applies it and registers the model.
"""

import time
from typing import Any

from ftlib.config.promote import PromoteConfig
from ftlib.core.errors import GateError
from ftlib.core.fingerprints import fingerprint
from ftlib.core.logging import get_logger
from ftlib.core.storage import join
from ftlib.registry.candidate import Run, load_candidate
from ftlib.registry.manifest import MANIFEST, build_manifest, work_key, write_manifest
from ftlib.registry.models import register

logger = get_logger(__name__)


def refusals(run: Run, evaluation: dict[str, Any], gates: list[dict[str, Any]]) -> list[str]:
    """Why a run may not be promoted; empty when it may.

    Args:
        run: the run.
        evaluation: the evaluation's manifest (`model`: what was scored, by content).
        gates: the evaluation's gates, each with `metric`, `passed`, its limits and its interval.
    """
    reasons = []
    scored = evaluation.get("model") or {}
    judged = scored.get("adapter_sha256") or scored.get("result_sha256")
    if not judged:
        reasons.append("the evaluation is of a base model, not of a tuned one")
    elif judged != run.sha256:
        reasons.append(
            f"the evaluation is of another model (sha256 {judged[:12]}…) than run {run.run_id} ({run.sha256[:12]}…)"
        )
    scored_base = scored.get("base_fingerprint")
    if scored.get("adapter_sha256") and scored_base != run.base_fingerprint:
        reasons.append(
            f"the adapter was scored on base {str(scored_base)[:12]}… but trained on {run.base_fingerprint[:12]}…"
        )
    if not gates:
        reasons.append("the evaluation has no gate: add one under `gates` and evaluate again")
    reasons += [describe_gate(gate) for gate in gates if gate.get("passed") is not True]
    return reasons


def describe_gate(gate: dict[str, Any]) -> str:
    """A failed gate in one line: metric, value with interval, limit."""
    limits = [
        f"{word} {gate[side]:g}" for side, word in (("min", "at least"), ("max", "at most")) if _is_number(gate, side)
    ]
    value = f"{gate['value']:.4g}" if _is_number(gate, "value") else "not measured"
    if _is_number(gate, "low") and _is_number(gate, "high"):
        value += f" (95 % interval {gate['low']:.4g} to {gate['high']:.4g})"
    return f"gate {gate.get('metric')}: {value}, needed {' and '.join(limits) or 'a limit'}"


def promote(config: PromoteConfig) -> dict[str, Any]:
    """Register the run and set the alias, or raise GateError with the reasons and register nothing.

    Writes a manifest of kind `promotion` below the evaluation, `promotions/<key>/`, whether allowed or refused: who
    asks later why a model is or is not in use finds the answer beside the figures.
    """
    started = time.time()
    candidate = load_candidate(config.run.path, config.evaluation.path)
    reasons = refusals(candidate.run, candidate.evaluation, candidate.gates)
    inputs = {
        "run_id": candidate.run.run_id,
        "result_sha256": candidate.run.sha256,
        "evaluation": candidate.evaluation["key"],
        "gates": candidate.gates,
    }
    resolved = config.resolved()
    registered: dict[str, Any] | None = None
    if not reasons:
        model = register(candidate.run.path, candidate.evaluation_path, config.registry, config.alias)
        registered = {"name": model.name, "version": model.version, "sha256": model.sha256, "alias": config.alias}
    manifest = build_manifest(
        "promotion",
        work_key("promotion", resolved, inputs),
        resolved,
        inputs=inputs,
        parents=[join(folder, MANIFEST) for folder in (candidate.run.path, candidate.evaluation_path)],
        started=started,
        allowed=not reasons,
        reasons=reasons,
        registered=registered,
    )
    # Without code versions in it: promoting again overwrites the record of the same decision.
    folder = join(candidate.evaluation_path, "promotions", fingerprint([inputs, resolved], 12))
    path = write_manifest(folder, manifest)
    if reasons:
        raise GateError(
            f"run {candidate.run.run_id} is not promoted:\n" + "\n".join(f"  {reason}" for reason in reasons),
            {"manifest": path, "reasons": reasons},
        )
    assert registered is not None
    logger.info("%s version %s is now %s", registered["name"], registered["version"], config.alias)
    return {"manifest": path, "run_id": candidate.run.run_id, **registered}


def _is_number(gate: dict[str, Any], name: str) -> bool:
    return isinstance(gate.get(name), int | float)
