"""The sweep expressions of Azure Machine Learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space, categories, refusal, refusal_back, say_each, tidy

DIALECT = "Azure"
MULTIPLES = "its q-steps are multiples of q: begin at a multiple of the step, or list the values"
TEXTS = "its categories are strings and numbers: write 'true' or 'none', and convert in the training script"


def to_azure(space: Space) -> dict[str, dict[str, Any]]:
    """Say a search space as the ``search_space`` of an Azure sweep job.

    Whole numbers become q-expressions, whose two end values Azure draws half as often as the others.

    Parameters
    ----------
    space
        Distributions of Optuna's.

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


def from_azure(search_space: Mapping[str, Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """Read the ``search_space`` of an Azure sweep job.

    The bounds of logarithmic ranges are kept to 12 digits, since exponents lose the last ones.

    Raises
    ------
    ValueError
        On the normal distributions, and on the q-expressions that Optuna has no counterpart of.
    """
    return {name: _read(name, dict(expression)) for name, expression in search_space.items()}


def _say(name, distribution):
    if isinstance(distribution, CategoricalDistribution):
        values = categories(name, distribution, DIALECT, _is_category, TEXTS)
        return {"type": "choice", "values": values}
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        bounds = {"min_value": math.log(low), "max_value": math.log(high)}
        if step is None:
            return {"type": "loguniform", **bounds}
        return {"type": "qloguniform", **bounds, "q": 1}
    if step is None:
        return {"type": "uniform", "min_value": low, "max_value": high}
    if not _is_multiple(low, step):
        raise refusal(name, distribution, DIALECT, MULTIPLES)
    return {"type": "quniform", "min_value": low, "max_value": high, "q": step}


def _is_category(choice):
    return isinstance(choice, (str, int, float)) and not isinstance(choice, bool)


def _is_multiple(bound, q):
    return math.isclose(bound / q, round(bound / q), abs_tol=1e-9)


def _read(name, expression):
    kind = expression["type"]
    if kind == "choice":
        return CategoricalDistribution(list(expression["values"]))
    if kind == "randint":
        return IntDistribution(0, expression["upper"] - 1)
    if kind in ("uniform", "quniform"):
        return _read_uniform(name, expression)
    if kind in ("loguniform", "qloguniform"):
        return _read_loguniform(name, expression)
    advice = "it has no normal distributions: give it bounds"
    raise refusal_back(name, expression, DIALECT, advice)


def _read_uniform(name, expression):
    low, high, q = expression["min_value"], expression["max_value"], expression.get("q")
    if q is None:
        return FloatDistribution(low, high)
    if not all(_is_multiple(bound, q) for bound in (low, high)):
        advice = "its q-steps leave the bounds: make both multiples of q"
        raise refusal_back(name, expression, DIALECT, advice)
    if all(isinstance(number, int) for number in (low, high, q)):
        return IntDistribution(low, high, step=q)
    return FloatDistribution(low, high, step=q)


def _read_loguniform(name, expression):
    low, high = (tidy(math.exp(expression[bound])) for bound in ("min_value", "max_value"))
    if "q" not in expression:
        return FloatDistribution(low, high, log=True)
    if expression["q"] != 1 or not (low.is_integer() and high.is_integer() and low >= 1):
        advice = "on a logarithmic range it steps by 1 alone, between whole numbers: choose them so"
        raise refusal_back(name, expression, DIALECT, advice)
    return IntDistribution(int(low), int(high), log=True)
