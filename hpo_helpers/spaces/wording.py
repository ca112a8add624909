"""What the dialects share: reading a search space, and refusing what cannot be said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Space = Mapping[str, BaseDistribution]


def distributions(space: Space, dialect: str) -> Iterator[tuple[str, BaseDistribution]]:
    """Yield the names and distributions of a search space.

    Raises
    ------
    ValueError
        If the space is a function of a trial, or a distribution is none of Optuna's.
    """
    if callable(space):
        name = getattr(space, "__name__", type(space).__name__)
        advice = "write one space for each of its branches, and tune each of them"
        raise ValueError(f"{dialect} has no conditional search space, got the function {name!r}: {advice}")
    for name, distribution in space.items():
        if not isinstance(distribution, (FloatDistribution, IntDistribution, CategoricalDistribution)):
            raise ValueError(f"{name!r} must be a distribution of Optuna's, got {distribution!r}")
        yield name, distribution


def refusal(name: str, distribution: BaseDistribution, dialect: str, advice: str) -> ValueError:
    """Return the error for what a dialect cannot say."""
    return ValueError(f"{dialect} cannot say {name!r}, {distribution!r}: {advice}")


def refusal_back(name: str, expression: Any, dialect: str, advice: str) -> ValueError:
    """Return the error for what Optuna cannot say."""
    return ValueError(f"Optuna cannot say {name!r}, {expression!r} of {dialect}: {advice}")


def has_step(distribution: FloatDistribution | IntDistribution) -> bool:
    """Say whether a range leaves out numbers of its type."""
    return distribution.step is not None if isinstance(distribution, FloatDistribution) else distribution.step > 1


def tidy(number: float) -> float:
    """Take the rounding of an exp or a sum off a bound, by keeping its first 12 digits."""
    return float(f"{number:.12g}")
