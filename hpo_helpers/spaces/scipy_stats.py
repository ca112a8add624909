"""The distributions of scipy.stats, as scikit-learn's RandomizedSearchCV takes them."""

from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution

from hpo_helpers.spaces.wording import Space, has_step, say_each

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
