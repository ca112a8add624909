"""The sweep expressions of Azure Machine Learning."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space, keeping, refusing, say_each

DIALECT = "Azure"
TEXTS = "its categories are strings and numbers: write 'true' or 'none', and convert in the training script"


def to_azure(space: Space) -> dict[str, dict[str, Any]]:
    """Say a search space as the ``search_space`` of an Azure sweep job.

    Whole numbers become q-expressions, whose two end values Azure draws half as often as the others.

    Returns
    -------
    dict
        For each name an expression as in the job's YAML. ``loguniform`` and ``qloguniform`` have
        *exponents* of e as their bounds.

    Raises
    ------
    ValueError
        On a range that does not begin at a multiple of its step, and on categories of other types.
    """
    return say_each(space, DIALECT, _say)


def from_azure(search_space: Mapping[str, Mapping[str, Any]]) -> Space:
    """Read the ``search_space`` of an Azure sweep job.

    The bounds of logarithmic ranges are kept to 12 digits, since exponents lose the last ones.

    Raises
    ------
    ValueError
        On normal distributions, choices within choices, and q-expressions without a counterpart in Optuna.
    """
    space = {}
    for name, expression in search_space.items():
        with refusing(f"Optuna cannot say {name!r}, {expression!r} of {DIALECT}"):
            space[name] = _read(expression)
    return space


def _say(distribution):
    if isinstance(distribution, CategoricalDistribution):
        return {"type": "choice", "values": keeping(distribution.choices, _is_category, TEXTS)}
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        bounds = {"min_value": math.log(low), "max_value": math.log(high)}
        if step is None:
            return {"type": "loguniform", **bounds}
        return {"type": "qloguniform", **bounds, "q": 1}
    if step is None:
        return {"type": "uniform", "min_value": low, "max_value": high}
    if not _is_multiple(low, step):
        raise ValueError("its q-steps are multiples of q: begin at a multiple of the step, or list values")
    return {"type": "quniform", "min_value": low, "max_value": high, "q": step}


def _is_category(choice):
    is_number = isinstance(choice, (int, float)) and not isinstance(choice, bool) and math.isfinite(choice)
    return isinstance(choice, str) or is_number


def _is_multiple(bound, q):
    return math.isclose(bound / q, round(bound / q), abs_tol=1e-9)


def _read(expression):
    fields = dict(expression)
    kind = fields.pop("type")
    if kind not in READERS:
        raise ValueError(f"it has no normal distributions, only {', '.join(READERS)}: give it bounds")
    return READERS[kind](**fields)


def _choice(values):
    if any(isinstance(value, Mapping) for value in values):
        raise ValueError("a choice within a choice is a condition: write one space for each, and tune each")
    return CategoricalDistribution(keeping(values, _is_category, TEXTS))


def _quniform(min_value, max_value, q):
    if not (_is_multiple(min_value, q) and _is_multiple(max_value, q)):
        raise ValueError("its q-steps leave the bounds: make both multiples of q")
    is_whole = all(isinstance(field, int) for field in (min_value, max_value, q))
    return (IntDistribution if is_whole else FloatDistribution)(min_value, max_value, step=q)


def _loguniform(min_value, max_value):
    return FloatDistribution(_power(min_value), _power(max_value), log=True)


def _qloguniform(min_value, max_value, q):
    low, high = _power(min_value), _power(max_value)
    if q != 1 or not (low.is_integer() and high.is_integer() and low >= 1):
        raise ValueError("on a logarithmic range it steps by 1 alone, between whole numbers: choose them so")
    return IntDistribution(int(low), int(high), log=True)


def _power(exponent):
    return float(f"{math.exp(exponent):.12g}")  # without the rounding of log and exp


READERS = {
    "choice": _choice,
    "randint": lambda upper: IntDistribution(0, upper - 1),
    "uniform": lambda min_value, max_value: FloatDistribution(min_value, max_value),
    "quniform": _quniform,
    "loguniform": _loguniform,
    "qloguniform": _qloguniform,
}
