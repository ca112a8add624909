"""A search space in ConfigSpace's terms, for SMAC and DEHB."""

from __future__ import annotations

from ConfigSpace import Float, Integer
from driving import Space
from optuna.distributions import IntDistribution


def to_configspace(space: Space) -> list:
    """Return one hyperparameter for each distribution, on the scale that it is searched on."""
    return [
        (Integer if isinstance(distribution, IntDistribution) else Float)(
            name, (distribution.low, distribution.high), log=distribution.log
        )
        for name, distribution in space.items()
    ]
