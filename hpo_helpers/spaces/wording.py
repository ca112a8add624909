"""What the dialects share: each parameter is said or read, or refused, on its own."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Space = Mapping[str, BaseDistribution]


def say_each(space: Space, dialect: str, say: Callable[[BaseDistribution], Any]) -> dict[str, Any]:
    """Say each distribution of a search space that is no function of a trial."""
    if callable(space):
        name = getattr(space, "__name__", type(space).__name__)
        advice = "write one space for each of its branches, and tune each of them"
        raise ValueError(f"{dialect} has no conditional search space, got the function {name!r}: {advice}")
    said = {}
    for name, distribution in items(space):
        if not isinstance(distribution, BaseDistribution):
            raise ValueError(f"{name!r} must be a distribution of Optuna's, got {distribution!r}")
        with refusing(f"{dialect} cannot say {name!r}, {distribution!r}"):
            if not isinstance(distribution, CategoricalDistribution):
                number(distribution.low), number(distribution.high)
            said[name] = say(distribution)
    return said


def read_each(said: Any, dialect: str, read: Callable[[Any], Any]) -> dict[str, BaseDistribution]:
    """Read each parameter of what a dialect says."""
    space = {}
    for name, expression in items(said):
        with refusing(f"Optuna cannot say {name!r}, {expression!r} of {dialect}"):
            space[name] = read(expression)
    return space


def items(space: Any) -> list[tuple[str, Any]]:
    """Return the names of a search space, each with what stands for it."""
    if not isinstance(space, Mapping) or not all(isinstance(name, str) for name in space):
        raise ValueError(f"a search space must be a dict of names, each with its range, got {space!r}")
    return list(space.items())


@contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Turn what input of another form may raise into ValueErrors that begin with a sentence."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{sentence}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{sentence}: it has another form ({error!r})") from None


def number(value: Any) -> Any:
    """Return a finite number; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value


def span(kind: type, low: Any, high: Any, *, log: bool = False) -> FloatDistribution | IntDistribution:
    """Return a range of Optuna's which has these very bounds."""
    found = kind(number(low), number(high), log=log)
    if (found.low, found.high) != (low, high):
        raise ValueError("its bounds must be whole numbers")
    return found


def stepped(kind: type, low: Any, high: Any, size: int) -> FloatDistribution | IntDistribution:
    """Return the range of Optuna's with so many values at equal distances."""
    exact = (number(high) - number(low)) / max(1, number(size) - 1) or 1.0
    # Optuna leaves the upper bound out where rounded steps overshoot it.
    for step in (tidy(exact), *(exact * (1 - slack) for slack in (0, 1e-15, 1e-12, 1e-9))):
        with warnings.catch_warnings(action="ignore"):
            found = kind(low, high, step=step)
        bounds_kept = found.low == low and math.isclose(found.high, high, rel_tol=1e-12, abs_tol=1e-9 * step)
        if bounds_kept and round((found.high - low) / found.step) == size - 1:
            return found
    raise ValueError("Optuna has no such steps: list the values as a choice")


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


def tidy(number: float) -> float:
    """Take the rounding of an exp or a sum off a bound: keep 12 digits."""
    return float(f"{number:.12g}")
