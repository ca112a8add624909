"""Values for the search space expressions of an Azure sweep job."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from statistics import NormalDist
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import Trial

from hpo_helpers.spaces import from_azure

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

SearchSpace = Mapping[str, Mapping[str, Any]]

#: A quantile of 0 or 1 of a normal distribution is infinite: the nearest that a float has serve instead.
LOWEST, HIGHEST = 2.0**-53, 1 - 2.0**-53


def check_expression(name: str, expression: Any) -> None:
    """Raise ValueError if an expression is none of Azure's, or has a field that cannot be."""
    if not isinstance(expression, Mapping) or expression.get("type") not in FIELDS:
        raise ValueError(f"{name!r} must be an expression of a type among {sorted(FIELDS)}, got {expression!r}")
    wanted, got = FIELDS[expression["type"]], set(expression) - {"type"}
    if wanted != got:
        raise ValueError(f"{name!r} needs {sorted(wanted)} for {expression['type']!r}, got {sorted(got)}")
    problem = _problem(expression)
    if problem:
        raise ValueError(f"{name!r}: {problem}, got {dict(expression)!r}")


def _problem(expression: Mapping[str, Any]) -> str | None:
    if expression["type"] == "choice":
        return _problem_of_values(expression["values"])
    numbers = {field: expression[field] for field in expression if field != "type"}
    if not all(isinstance(number, Real) and math.isfinite(number) for number in numbers.values()):
        return "every field must be a finite number"
    if "upper" in numbers and not (isinstance(numbers["upper"], Integral) and numbers["upper"] >= 1):
        return "upper must be a whole number of at least 1"
    if "min_value" in numbers and not numbers["min_value"] < numbers["max_value"]:
        return "min_value must be below max_value"
    if not all(numbers.get(field, 1) > 0 for field in ("sigma", "q")):
        return "sigma and q must be positive"
    return None


def _problem_of_values(values: Any) -> str | None:
    if not isinstance(values, list) or not values:
        return "values must be a list with something in it"
    if not all(isinstance(value, (str, int, float)) for value in values):
        return "values must be strings and numbers: write one sweep for each branch of a nested space"
    return None


def space_of(search_space: SearchSpace) -> Callable[[Trial], dict[str, Any]]:
    """Return a function of a trial that draws a value for each expression, as `tune` takes one for its space.

    The values stand in the trial's user attribute ``parameters``: where Optuna has no distribution of the kind,
    its own parameter is the quantile, or the number before it was rounded.
    """

    def draw(trial: Trial) -> dict[str, Any]:
        parameters = {name: _draw(trial, name, dict(expression)) for name, expression in search_space.items()}
        trial.set_user_attr("parameters", parameters)
        return parameters

    return draw


def _draw(trial: Trial, name: str, expression: dict[str, Any]) -> Any:
    try:
        distribution = from_azure({name: expression})[name]
    except ValueError:  # Optuna has none for it
        return _draw_by_definition(trial, name, expression)
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def _draw_by_definition(trial: Trial, name: str, expression: dict[str, Any]) -> float:
    """Draw as Azure's documentation defines the expression: a number, its exponential for log, rounded to q."""
    kind = expression["type"]
    if "mu" in expression:
        quantile = trial.suggest_float(f"{name} (quantile)", LOWEST, HIGHEST)
        number = NormalDist(expression["mu"], expression["sigma"]).inv_cdf(quantile)
    else:
        number = trial.suggest_float(
            f"{name} (not rounded)", float(expression["min_value"]), float(expression["max_value"])
        )
    number = math.exp(number) if "log" in kind else number
    return _round_to(number, expression["q"]) if "q" in expression else number


def _round_to(number: float, q: float) -> float:
    return round(number / q) * q  # whole where q is: the training script may demand a whole number
