"""What the dialects share: reading a search space, and refusing what cannot be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Space = Mapping[str, BaseDistribution]


def say_each(space: Space, dialect: str, say: Callable[[str, BaseDistribution], Any]) -> dict[str, Any]:
    """Say each distribution of a search space that is no function of a trial."""
    if callable(space):
        name = getattr(space, "__name__", type(space).__name__)
        advice = "write one space for each of its branches, and tune each of them"
        raise ValueError(f"{dialect} has no conditional search space, got the function {name!r}: {advice}")
    for name, distribution in space.items():
        if not isinstance(distribution, BaseDistribution):
            raise ValueError(f"{name!r} must be a distribution of Optuna's, got {distribution!r}")
    return {name: say(name, distribution) for name, distribution in space.items()}


def refusal(name: str, distribution: BaseDistribution, dialect: str, advice: str) -> ValueError:
    """Return the error for what a dialect cannot say."""
    return ValueError(f"{dialect} cannot say {name!r}, {distribution!r}: {advice}")


def refusal_back(name: str, expression: Any, dialect: str, advice: str) -> ValueError:
    """Return the error for what Optuna cannot say."""
    return ValueError(f"Optuna cannot say {name!r}, {expression!r} of {dialect}: {advice}")


def categories(
    name: str, choice: CategoricalDistribution, dialect: str, rule: Callable, advice: str
) -> list[Any]:
    """Return the categories of a choice, if each of them keeps a rule of the dialect."""
    if not all(map(rule, choice.choices)):
        raise refusal(name, choice, dialect, advice)
    return list(choice.choices)


def has_step(distribution: FloatDistribution | IntDistribution) -> bool:
    """Say whether a range leaves out numbers of its type."""
    if isinstance(distribution, FloatDistribution):
        return distribution.step is not None
    return distribution.step > 1


def tidy(number: float) -> float:
    """Take the rounding of an exp or a sum off a bound, by keeping its first 12 digits."""
    return float(f"{number:.12g}")
