"""The distributions of scipy.stats, as scikit-learn's RandomizedSearchCV takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo_helpers.spaces.wording import Space, distributions, has_step, refusal, refusal_back, tidy

DIALECT = "scipy.stats"
MOST_VALUES = 100_000  # of a discrete distribution, which holds each of them


def to_scipy(space: Space) -> dict[str, Any]:
    """Say a search space as distributions of scipy.stats.

    Steps, and whole numbers on a logarithmic scale, have no name in scipy.stats: they become discrete distributions
    with a table of values, which are drawn as often as Optuna draws them.

    Parameters
    ----------
    space
        Distributions of Optuna's.

    Returns
    -------
    dict
        For each name a distribution with ``rvs``, or a list of categories: the ``param_distributions`` of
        scikit-learn's ``RandomizedSearchCV``.

    Raises
    ------
    ValueError
        On a continuous range of a single value, and on more than 100,000 values that need a table.
    """
    return {name: _say(name, distribution) for name, distribution in distributions(space, DIALECT)}


def from_scipy(space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Read distributions of scipy.stats, and lists, as a search space.

    A list is read as categories. The upper bound of a uniform distribution is kept to 12 digits, since scipy holds
    it as a sum.

    Raises
    ------
    ValueError
        On a distribution other than ``uniform``, ``loguniform``, ``randint`` and what `to_scipy` makes.
    """
    return {name: _read(name, distribution) for name, distribution in space.items()}


def _say(name: str, distribution: BaseDistribution) -> Any:
    from scipy import stats

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, FloatDistribution) and not has_step(distribution):
        if low == high:
            raise refusal(name, distribution, DIALECT, "one value is no range: give it as a list of one")
        return stats.loguniform(low, high) if distribution.log else stats.uniform(low, high - low)
    if not distribution.log and not has_step(distribution):
        return stats.randint(low, high + 1)
    if (high - low) / distribution.step > MOST_VALUES:
        advice = f"it needs a table of more than {MOST_VALUES:,} values: search a float, and round in training"
        raise refusal(name, distribution, DIALECT, advice)
    return stats.rv_discrete(values=_table(distribution))


def _table(distribution: FloatDistribution | IntDistribution) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a stepped or a logarithmic range, and the probability of each."""
    low, high, step = distribution.low, distribution.high, distribution.step
    values = low + step * np.arange(round((high - low) / step) + 1)
    if not distribution.log:
        return values, np.full(len(values), 1 / len(values))
    weights = np.log((values + 0.5) / (values - 0.5))  # a logarithm is drawn from low - ½ to high + ½, and rounded
    return values, weights / weights.sum()


def _read(name: str, distribution: Any) -> BaseDistribution:
    if hasattr(distribution, "xk"):
        return _read_table(name, distribution)
    if not hasattr(distribution, "rvs"):
        return CategoricalDistribution(list(distribution))
    kind = distribution.dist.name
    low, high = distribution.support()
    if kind == "randint":
        return IntDistribution(int(low), int(high))
    if kind == "uniform":
        return FloatDistribution(float(low), tidy(high))
    # Its median is the geometric mean of its bounds, unless it was shifted.
    if kind in ("loguniform", "reciprocal") and math.isclose(distribution.median() ** 2, low * high):
        return FloatDistribution(float(low), float(high), log=True)
    advice = "it knows uniform, loguniform and randint: choose one of these"
    raise refusal_back(name, f"{kind}{distribution.args}", DIALECT, advice)


def _read_table(name: str, discrete: Any) -> BaseDistribution:
    for candidate in _candidates(discrete.xk):
        values, probabilities = _table(candidate)
        if len(values) == len(discrete.xk) and np.allclose([values, probabilities], [discrete.xk, discrete.pk]):
            return candidate
    expression = f"rv_discrete from {discrete.xk[0]} to {discrete.xk[-1]}"
    advice = "a table must hold equal steps, equally likely, or whole numbers on a logarithmic scale"
    raise refusal_back(name, expression, DIALECT, advice)


def _candidates(values: np.ndarray) -> Iterator[BaseDistribution]:
    """Yield the distributions whose table may have these values."""
    low, high, second = values[0].item(), values[-1].item(), values[min(1, len(values) - 1)].item()
    if isinstance(low, float):
        yield FloatDistribution(low, tidy(high), step=tidy(second - low) or 1.0)
        return
    yield IntDistribution(low, high, step=second - low or 1)
    if low >= 1:
        yield IntDistribution(low, high, log=True)
