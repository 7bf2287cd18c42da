"""How many replicas of the engine a load needs: a policy for Ray Serve's autoscaler."""

from typing import Any


class LoadPolicy:
    """As many replicas as bring their mean load to a target; Serve adds bounds and delays."""

    def __init__(self, target: float) -> None:
        """`target`: load of a replica that is aimed at, 1 being all of its rows or its cache in use."""
        self._target = target

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """From what replicas report (`EngineReplica.record_autoscaling_stats`) to their number."""
        loads = (context.aggregated_metrics or {}).get("load", {})
        if not loads:
            return context.target_num_replicas, context.policy_state
        return max(1.0, sum(loads.values()) / self._target), context.policy_state
