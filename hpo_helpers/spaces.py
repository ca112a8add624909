"""What is searched: named search spaces, each a dict of Optuna distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

#: The convolutional network of `train_mnist`, trained with stochastic gradient descent.
MNIST_CNN = {
    "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.95),
    "batch_size": IntDistribution(16, 128, log=True),
    "n_channels": IntDistribution(4, 16, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
}


def to_unit_cube(space: Mapping[str, BaseDistribution], params: Mapping[str, float]) -> dict[str, float]:
    """Say where each value lies in its range: 0 at the lower bound, 1 at the upper one.

    Parameters
    ----------
    space
        Numerical distributions. A logarithmic range is measured on its logarithm, so 0.5 is the middle of what is
        searched.
    params
        A value for each name in `space`.

    Raises
    ------
    ValueError
        If a value lies outside its range, or a range is not of numbers.
    """
    return {name: _to_unit(name, distribution, params[name]) for name, distribution in space.items()}


def _to_unit(name: str, distribution: BaseDistribution, value: float) -> float:
    if not isinstance(distribution, (FloatDistribution, IntDistribution)):
        raise ValueError(f"{name!r} has no lower and upper bound, got {distribution!r}")
    if not distribution.low <= value <= distribution.high:
        raise ValueError(f"{name!r} must lie in [{distribution.low}, {distribution.high}], got {value!r}")
    if distribution.low == distribution.high:
        return 0.5
    scale = math.log if distribution.log else float
    low, high = scale(distribution.low), scale(distribution.high)
    return (scale(value) - low) / (high - low)
