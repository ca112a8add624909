"""The expressions of a sweep's search space, and values for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from statistics import NormalDist
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import Trial

from hpo_helpers.spaces import from_azure

SearchSpace = Mapping[str, Mapping[str, Any]]

#: Each expression's fields, as in the job's YAML.
FIELDS = {
    "choice": {"values"},
    "randint": {"upper"},
    "uniform": {"min_value", "max_value"},
    "loguniform": {"min_value", "max_value"},
    "normal": {"mu", "sigma"},
    "lognormal": {"mu", "sigma"},
    "quniform": {"min_value", "max_value", "q"},
    "qloguniform": {"min_value", "max_value", "q"},
    "qnormal": {"mu", "sigma", "q"},
    "qlognormal": {"mu", "sigma", "q"},
}


def require(holds: bool, rule: str, value: Any) -> None:
    """Raise ValueError, with the value, unless a rule holds."""
    if not holds:
        raise ValueError(f"{rule}, got {value!r}")


def check_expression(name: str, expression: Any) -> None:
    """Raise ValueError if an expression is not one of Azure's."""
    kind = expression.get("type") if isinstance(expression, Mapping) else None
    require(kind in FIELDS, f"{name!r} must have a type among {sorted(FIELDS)}", expression)
    fields = {field: expression[field] for field in expression if field != "type"}
    needed = f"{name!r} needs {sorted(FIELDS[kind])} for {kind!r}"
    require(set(fields) == FIELDS[kind], needed, fields)
    if kind == "choice":
        _check_values(name, fields["values"])
    else:
        _check_numbers(name, fields)


def _check_values(name, values):
    listed = isinstance(values, list) and len(values) > 0
    require(listed, f"{name!r} needs a list of values", values)
    known = all(isinstance(value, (str, Real)) for value in values)
    require(known, f"{name!r} needs strings and numbers", values)


def _check_numbers(name, fields):
    finite = all(isinstance(n, Real) and math.isfinite(n) for n in fields.values())
    require(finite, f"{name!r} needs finite numbers", fields)
    in_order = fields.get("min_value", 0) < fields.get("max_value", 1)
    require(in_order, f"{name!r}: min_value must be below max_value", fields)
    positive = all(fields.get(field, 1) > 0 for field in ("sigma", "q"))
    require(positive, f"{name!r}: sigma and q must be positive", fields)
    upper = fields.get("upper", 1)
    whole = isinstance(upper, Integral) and upper > 0
    require(whole, f"{name!r}: upper must be a whole number over 0", upper)


def space_of(search_space: SearchSpace) -> Callable[[Trial], dict[str, Any]]:
    """Return a function of a trial that draws a value for each expression.

    The values stand in the trial's user attribute ``parameters``. Optuna has no normal
    distributions: there its own parameter is the quantile.

    Raises
    ------
    ValueError
        While drawing, for a q-expression that Optuna does not have.
    """

    def draw(trial: Trial) -> dict[str, Any]:
        values = {name: _draw(trial, name, search_space[name]) for name in search_space}
        trial.set_user_attr("parameters", values)
        return values

    return draw


def _draw(trial, name, expression):
    if "mu" in expression:
        return _draw_normal(trial, name, expression)
    distribution = from_azure({name: expression})[name]
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    is_whole = isinstance(distribution, IntDistribution)
    suggest = trial.suggest_int if is_whole else trial.suggest_float
    low, high = distribution.low, distribution.high
    return suggest(name, low, high, step=distribution.step, log=distribution.log)


def _draw_normal(trial, name, expression):
    """Draw as Azure defines it: its exponential for log, rounded to q."""
    # Not from 0 to 1, where the value would be infinite.
    quantile = trial.suggest_float(f"{name} (quantile)", 2.0**-53, 1 - 2.0**-53)
    number = NormalDist(expression["mu"], expression["sigma"]).inv_cdf(quantile)
    if "log" in expression["type"]:
        number = math.exp(number)
    if "q" not in expression:
        return number
    q = expression["q"]
    return round(number / q) * q  # whole where q is
