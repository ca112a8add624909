"""Each hyperparameter's range as the interval from 0 to 1, and the way back."""

import math
from collections.abc import Mapping

from optuna.distributions import FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space


def to_unit_cube(space: Space, params: Mapping[str, float]) -> dict[str, float]:
    """Say where each value lies in its range: 0 at the lower bound, 1 at the upper one.

    A logarithmic range is measured on its logarithm.

    ValueError if a value lies outside its range, or a range is not of numbers.
    """
    return {name: _to_unit(name, distribution, params) for name, distribution in space.items()}


def from_unit_cube(space: Space, places: Mapping[str, float]) -> dict[str, float]:
    """Say which value lies at each place, 0 to 1, of its range; whole numbers and steps are rounded to.

    ValueError if a place lies outside [0, 1], or a range is not of numbers.
    """
    return {name: _from_unit(name, distribution, places) for name, distribution in space.items()}


def _to_unit(name, distribution, params):
    low, high = _scaled_bounds(name, distribution)
    value = params[name]
    if not distribution.low <= value <= distribution.high:
        raise ValueError(f"{name!r} must lie in [{distribution.low}, {distribution.high}], got {value!r}")
    if low == high:
        return 0.5
    return ((math.log(value) if distribution.log else value) - low) / (high - low)


def _from_unit(name, distribution, places):
    low, high = _scaled_bounds(name, distribution)
    place = places[name]
    if not 0 <= place <= 1:
        raise ValueError(f"the place of {name!r} must lie in [0, 1], got {place!r}")
    if place in (0, 1):  # exp(log(x)) need not be x
        return distribution.high if place else distribution.low
    value = low + place * (high - low)
    if distribution.log:
        value = math.exp(value)
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        value = distribution.low + distribution.step * steps
    return min(max(value, distribution.low), distribution.high)


def _scaled_bounds(name, distribution):
    if not isinstance(distribution, (FloatDistribution, IntDistribution)):
        raise ValueError(f"{name!r} has no lower and upper bound, got {distribution!r}")
    scale = math.log if distribution.log else float
    return scale(distribution.low), scale(distribution.high)
