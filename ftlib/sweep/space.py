"""The search space: ranges of the configuration ↔ Optuna's distributions, and parameters put into a training config.

A parameter's name is its key path in the training configuration (`method.rank`). Values that Optuna cannot store in a
categorical (lists) travel as JSON text and are decoded when they are applied.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftlib.config.loader import validate
from ftlib.config.sweep import Choices, FloatRange, IntRange
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import canonical_json

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = Mapping[str, FloatRange | IntRange | Choices]
Params = dict[str, Any]


def distributions(space: Space) -> dict[str, "BaseDistribution"]:
    """Optuna's distribution of every parameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, item in space.items():
        if isinstance(item, Choices):
            found[key] = CategoricalDistribution([_encode(choice) for choice in item.choices])
        elif isinstance(item, IntRange):
            found[key] = IntDistribution(item.low, item.high, log=item.log)
        else:
            found[key] = FloatDistribution(item.low, item.high, log=item.log)
    return found


def decode(space: Space, params: Mapping[str, Any]) -> Params:
    """Optuna's parameters as values of the configuration."""
    decoded = dict(params)
    for key, item in space.items():
        if isinstance(item, Choices) and key in decoded:
            decoded[key] = next(choice for choice in item.choices if _encode(choice) == decoded[key])
    return decoded


def encode(space: Space, params: Mapping[str, Any]) -> Params:
    """Values of the configuration as Optuna's parameters."""
    return {key: _encode(value) if isinstance(space[key], Choices) else value for key, value in params.items()}


def apply_params(train: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
    """The training configuration with parameters put in by key path, validated again.

    What the user left unset stays unset, so that derived defaults (alpha from the rank) follow the parameters.
    """
    values = train.model_dump(mode="json", exclude_unset=True)
    for key, value in params.items():
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    try:
        return validate(TrainConfig, values)
    except UserError as error:
        shown = ", ".join(f"{key}={value}" for key, value in params.items())
        raise UserError(f"the trial {shown} is not a valid training configuration: {error}") from None


def check_space(train: TrainConfig, space: Space, seed_trials: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError, before any work, for a bound or choice that training would refuse, or a seed trial outside."""
    for key, item in space.items():
        for value in item.choices if isinstance(item, Choices) else (item.low, item.high):
            apply_params(train, {key: value})
    for index, params in enumerate(seed_trials):
        name = f"search.seed_trials[{index}]"
        if unknown := sorted(set(params) - set(space)):
            raise UserError(f"{name}: {', '.join(unknown)} is not in the space ({', '.join(space)})")
        for key, value in params.items():
            if not _inside(space[key], value):
                raise UserError(f"{name}: {key}={value} is outside its range")
        apply_params(train, params)


def _inside(item: FloatRange | IntRange | Choices, value: Any) -> bool:
    if isinstance(item, Choices):
        return value in item.choices
    kinds = (int,) if isinstance(item, IntRange) else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and item.low <= value <= item.high


def _encode(choice: Any) -> Any:
    return choice if choice is None or isinstance(choice, bool | int | float | str) else canonical_json(choice)
