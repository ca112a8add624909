"""The distributions of scipy.stats, as scikit-learn's RandomizedSearchCV takes them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space, has_step, keeping, read_each, say_each, span, stepped, tidy

DIALECT = "scipy.stats"


def to_scipy(space: Space) -> dict[str, Any]:
    """Say a search space as distributions of scipy.stats.

    Steps, and whole numbers on a logarithmic scale, become discrete distributions with a table of values,
    which are drawn as often as Optuna draws them.

    Returns
    -------
    dict
        The ``param_distributions`` of scikit-learn's ``RandomizedSearchCV``: for each name a distribution
        with ``rvs``, or a list of categories.
    """
    return say_each(space, DIALECT, _say)


def from_scipy(space: Mapping[str, Any]) -> Space:
    """Read distributions of scipy.stats, and lists, as a search space.

    The upper bound of a uniform distribution, which scipy holds as a sum, is kept to 12 digits.

    Raises
    ------
    ValueError
        On a distribution that `to_scipy` does not make.
    """
    return read_each(space, DIALECT, _read)


def _say(distribution):
    from scipy import stats

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, FloatDistribution) and not has_step(distribution):
        if low == high:
            return [low]
        return stats.loguniform(low, high) if distribution.log else stats.uniform(low, high - low)
    if not distribution.log and not has_step(distribution):
        return stats.randint(low, high + 1)
    return stats.rv_discrete(values=_table(distribution))


def _table(distribution):
    """Return the values of a range, and the probability of each."""
    low, high, step = distribution.low, distribution.high, distribution.step
    values = low + step * np.arange(round((high - low) / step) + 1)
    if not distribution.log:
        return values, np.full(len(values), 1 / len(values))
    # Optuna draws a logarithm from low - ½ to high + ½, and rounds.
    weights = np.log((values + 0.5) / (values - 0.5))
    return values, weights / weights.sum()


def _read(distribution):
    if hasattr(distribution, "xk"):
        return _read_table(distribution)
    if not hasattr(distribution, "rvs"):
        values = distribution.tolist() if isinstance(distribution, np.ndarray) else distribution
        return CategoricalDistribution(keeping(values, lambda _: True, ""))
    kind = distribution.dist.name
    low, high = distribution.support()
    if kind == "randint":
        return span(IntDistribution, int(low), int(high))
    if kind == "uniform":
        return span(FloatDistribution, float(low), tidy(high))
    # Its median is the geometric mean of its bounds, unless it was shifted.
    if kind in ("loguniform", "reciprocal") and math.isclose(distribution.median() ** 2, low * high):
        return span(FloatDistribution, float(low), float(high), log=True)
    raise ValueError(f"it has no {kind}{distribution.args}: choose uniform, loguniform or randint")


def _read_table(discrete):
    values, probabilities = discrete.xk, discrete.pk
    low, high = values[0].item(), values[-1].item()
    if np.allclose(probabilities, probabilities[0]):
        kind = FloatDistribution if isinstance(low, float) else IntDistribution
        found = stepped(kind, low, high, len(values))
    else:
        found = span(IntDistribution, low, high, log=True)
    table = _table(found)
    if len(table[0]) == len(values) and np.allclose(table, [values, probabilities]):
        return found
    raise ValueError("a table must hold equal steps, equally likely, or whole numbers on a logarithmic scale")
