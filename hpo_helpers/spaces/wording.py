"""What the dialects share: each parameter is said, or refused, on its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

Space = Mapping[str, BaseDistribution]


def say_each(space: Space, dialect: str, say: Callable[[BaseDistribution], Any]) -> dict[str, Any]:
    """Say each distribution of a search space that is no function of a trial."""
    if callable(space):
        name = getattr(space, "__name__", type(space).__name__)
        advice = "write one space for each of its branches, and tune each of them"
        raise ValueError(f"{dialect} has no conditional search space, got the function {name!r}: {advice}")
    said = {}
    for name, distribution in space.items():
        if not isinstance(distribution, BaseDistribution):
            raise ValueError(f"{name!r} must be a distribution of Optuna's, got {distribution!r}")
        with refusing(f"{dialect} cannot say {name!r}, {distribution!r}"):
            said[name] = say(distribution)
    return said


@contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Let a ValueError begin with a sentence."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{sentence}: {error}") from None


def keeping(values: Any, rule: Callable[[Any], bool], advice: str) -> list[Any]:
    """Return the categories of a list if each of them keeps a rule of the dialect."""
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"its categories must be a list, got {values!r}")
    if not all(map(rule, values)):
        raise ValueError(advice)
    return list(values)


def has_step(distribution: FloatDistribution | IntDistribution) -> bool:
    """Say whether a range leaves out numbers of its type."""
    if isinstance(distribution, FloatDistribution):
        return distribution.step is not None
    return distribution.step > 1
