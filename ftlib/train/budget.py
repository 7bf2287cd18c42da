"""The privacy budget: noise from a target epsilon, and the epsilon that a number of steps has spent.

A step samples every unit with probability q, clips the gradient of each to norm C, sums them and adds Gaussian noise of
standard deviation σ·C: the Poisson-subsampled Gaussian mechanism (Abadi et al. 2016, "Deep Learning with Differential
Privacy"). Its T-fold composition is counted by Opacus, by default with privacy random variables (Gopi, Lee and
Wutschitz 2021, "Numerical Composition of Differential Privacy"). Neighbouring data sets differ in one unit more or
less; the number of units is taken to be public.

All values are upper bounds: the PRV accountant's numerical error, at most `TOLERANCE` of the target epsilon, is added
to what it reports. Needs Opacus, imported on use.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from ftlib.core.errors import UserError

TOLERANCE = 0.005
"""Of the target epsilon: error of the accountant, and the share of the budget that may stay unspent."""
_POINTS = 50
_INSTALL = "privacy needs Opacus: pip install 'ftlib[private]'"


@dataclass(frozen=True)
class PrivacySettings:
    """What a private run promises and the mechanism that keeps it; plain values, for the loop."""

    epsilon: float
    """Target for the whole run."""
    delta: float
    noise_multiplier: float
    """Standard deviation of the noise on a sum of clipped gradients, in units of `max_grad_norm`."""
    sample_rate: float
    """Probability with which a unit is part of a step's batch."""
    num_units: int
    total_steps: int
    max_grad_norm: float = 1.0
    unit: str = "record"
    """`record` or `subject`."""
    max_records: int | None = None
    """Records of a subject that are trained on."""
    accountant: str = "prv"
    seed: int | None = None
    """Of sampling and noise; None: a secret key."""

    def spent(self, step: int) -> float:
        """Upper bound of the epsilon spent by the first `step` steps.

        Exact at the end and at 50 points on the way, rounded up to the next of them in between: an evaluation takes
        about 0.2 s, and log lines ask for one at every step.
        """
        if step <= 0:
            return 0.0
        stride = math.ceil(self.total_steps / _POINTS)
        counted = max(step, min(self.total_steps, math.ceil(step / stride) * stride))
        return epsilon(
            self.noise_multiplier, self.sample_rate, counted, self.delta,
            accountant=self.accountant, error=TOLERANCE * self.epsilon,
        )  # fmt: skip

    def report(self, step: int) -> dict[str, Any]:
        """The `privacy` part of a manifest after `step` steps."""
        exact = PrivacySettings(**self.__dict__ | {"total_steps": step})
        return {
            "epsilon": exact.spent(step),
            "target_epsilon": self.epsilon,
            "delta": self.delta,
            "unit": self.unit,
            "num_units": self.num_units,
            "max_records_per_subject": self.max_records,
            "max_grad_norm": self.max_grad_norm,
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
            "steps": step,
            "accountant": f"{self.accountant} (opacus {version('opacus')})",
            "sampling": "poisson",
            "neighbours": "add or remove one unit",
            "secret_noise": self.seed is None,
        }


def check_installed() -> None:
    """Raise UserError, with the command that mends it, unless Opacus can be imported."""
    try:
        import opacus  # noqa: F401
    except ImportError:
        raise UserError(_INSTALL) from None


def plan_privacy(
    target: float,
    delta: float | None,
    *,
    num_units: int,
    batch_size: int,
    steps: int,
    accountant: str = "prv",
    **settings: Any,
) -> PrivacySettings:
    """Choose the noise with which `steps` steps of `batch_size` expected units spend at most epsilon `target`.

    Args:
        target: epsilon of the whole run.
        delta: None: 1 / (10 × `num_units`).
        num_units: records or subjects in the training split.
        batch_size: expected units of a step.
        steps: optimiser steps of the run.
        accountant: `prv` or `rdp`.
        **settings: the other fields of `PrivacySettings`.

    Raises:
        UserError: fewer units than a batch expects, a delta that promises nothing, a budget that no noise can keep, or
            Opacus is not installed.
    """
    check_installed()
    if batch_size > num_units:
        raise UserError(
            f"train.global_batch_size {batch_size} is above the {num_units} privacy units of the training split: "
            "each is sampled with probability batch / units"
        )
    delta = 1 / (10 * num_units) if delta is None else delta
    if delta >= 1 / num_units:
        raise UserError(
            f"privacy.delta {delta:g} is not below 1 / {num_units} units: publishing one of them whole would satisfy it"
        )
    rate = batch_size / num_units
    sigma = _noise_multiplier(target, delta, rate, steps, accountant)
    return PrivacySettings(
        epsilon=target,
        delta=delta,
        noise_multiplier=sigma,
        sample_rate=rate,
        num_units=num_units,
        total_steps=steps,
        accountant=accountant,
        **settings,
    )


@lru_cache(maxsize=1024)
def epsilon(
    sigma: float, rate: float, steps: int, delta: float, *, accountant: str = "prv", error: float = 0.01
) -> float:
    """Epsilon of `steps` Poisson-subsampled Gaussian mechanisms, an upper bound; `error`: of the PRV accountant."""
    from opacus.accountants import create_accountant

    counter = create_accountant(mechanism=accountant)
    counter.history = [(sigma, rate, steps)]
    with _quiet():
        return float(counter.get_epsilon(delta, **_options(accountant, error)))


def _noise_multiplier(target: float, delta: float, rate: float, steps: int, accountant: str) -> float:
    from opacus.accountants.utils import get_noise_multiplier

    tolerance = TOLERANCE * target
    try:
        with _quiet():
            sigma = get_noise_multiplier(
                target_epsilon=target,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                accountant=accountant,
                epsilon_tolerance=tolerance,
                **_options(accountant, tolerance),
            )
    except ValueError as error:
        raise UserError(
            f"privacy.epsilon {target:g} with delta {delta:g} cannot be kept over {steps} steps at sampling rate "
            f"{rate:.3g} ({error}): raise it, or lower train.max_steps or train.global_batch_size"
        ) from error
    return float(sigma)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings about bounds that only set the width of the PRV accountant's grid, and logarithms of 0 in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _options(accountant: str, error: float) -> dict[str, float]:
    return {"eps_error": error} if accountant == "prv" else {}
