"""The expressions of a sweep's search space, and values for them."""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
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

EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def require(holds: bool, rule: str, value: Any) -> None:
    """Raise ValueError, with the value, unless a rule holds."""
    if not holds:
        raise ValueError(f"{rule}, got {value!r}")


def as_numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with numbers for numbers in text, as `azure-ai-ml` reads them."""
    read = dict(settings)
    for field, value in settings.items():
        for kind in (float, int):
            with suppress(ValueError):
                read[field] = kind(value) if isinstance(value, str) else value
    return read


def read_expression(name: str, expression: Any) -> dict[str, Any]:
    """Return an expression, its numbers as numbers; ValueError if it is none of Azure's."""
    kind = str(expression.get("type") if isinstance(expression, Mapping) else None).lower()
    require(kind in FIELDS, f"{name!r} must have a type among {sorted(FIELDS)}", expression)
    read = {**as_numbers(expression), "type": kind}
    fields = {field: read[field] for field in read if field != "type"}
    needed = f"{name!r} needs {sorted(FIELDS[kind])} for {kind!r}"
    require(set(fields) == FIELDS[kind], needed, fields)
    if kind == "choice":
        return read | {"values": [_number_of(value) for value in from_azure({name: read})[name].choices]}
    _check_numbers(name, fields)
    return read


def _number_of(value):
    """Return the number that a text like 1e-5 is: to PyYAML it is none."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _check_numbers(name, fields):
    numbers = [n for n in fields.values() if isinstance(n, Real) and not isinstance(n, bool)]
    finite = len(numbers) == len(fields) and all(abs(n) < math.inf for n in numbers)
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
    suggest = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    return suggest(name, **vars(distribution))


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
