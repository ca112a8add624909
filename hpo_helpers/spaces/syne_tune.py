"""Syne Tune's domains, in the form in which Syne Tune writes them to JSON."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space, has_step, keeping, read_each, say_each, span, stepped

DIALECT = "Syne Tune"
DOMAINS = {FloatDistribution: "Float", IntDistribution: "Integer"}
UNIFORM = {"sampler_cls": "Uniform", "sampler_kwargs": {}}
LOG_UNIFORM = {"sampler_cls": "LogUniform", "sampler_kwargs": {"base": math.e}}


def to_syne_tune(space: Space) -> dict[str, dict[str, Any]]:
    """Say a search space as domains of Syne Tune; steps become a ``FiniteRange``.

    Returns
    -------
    dict
        What ``syne_tune.config_space.config_space_from_json_dict`` makes into domains. Syne Tune takes
        categories of one type alone.
    """
    return say_each(space, DIALECT, _say)


def from_syne_tune(config_space: Mapping[str, Any]) -> Space:
    """Read what ``syne_tune.config_space.config_space_to_json_dict`` gives.

    Raises
    ------
    ValueError
        On a constant, and on a domain or sampler that Optuna lacks: also on finite ranges on a logarithm, and
        on those of whole numbers that rounding puts at unequal distances.
    """
    return read_each(config_space, DIALECT, _read)


def _say(distribution):
    if isinstance(distribution, CategoricalDistribution):
        arguments = {"categories": list(distribution.choices)}
        return {"domain_cls": "Categorical", "domain_kwargs": arguments, **UNIFORM}
    bounds = {"lower": distribution.low, "upper": distribution.high}
    if has_step(distribution):
        size = round((distribution.high - distribution.low) / distribution.step) + 1
        cast_int = isinstance(distribution, IntDistribution)
        arguments = {**bounds, "log_scale": False, "cast_int": cast_int, "size": size}
        return {"domain_cls": "FiniteRange", "domain_kwargs": arguments}
    sampler = LOG_UNIFORM if distribution.log else UNIFORM
    return {"domain_cls": DOMAINS[type(distribution)], "domain_kwargs": bounds, **sampler}


def _read(domain):
    if not isinstance(domain, Mapping):
        raise ValueError("a constant is not searched: give it to the training")
    kind, arguments = domain["domain_cls"], domain["domain_kwargs"]
    sampler = domain.get("sampler_cls", "Uniform")
    if kind == "Categorical" and sampler == "Uniform":
        return CategoricalDistribution(keeping(arguments["categories"], _is_category, "list plain values"))
    if kind == "FiniteRange":
        return _read_steps(**arguments)
    if kind in DOMAINS.values() and sampler in ("Uniform", "LogUniform"):
        distribution = FloatDistribution if kind == "Float" else IntDistribution
        return span(distribution, arguments["lower"], arguments["upper"], log=sampler == "LogUniform")
    raise ValueError("it has no such domain: choose uniform, loguniform, randint, lograndint or choice")


def _is_category(value):
    return value is None or isinstance(value, (bool, int, float, str))


def _read_steps(lower, upper, size, log_scale=False, cast_int=False):
    if log_scale:
        raise ValueError("it has no steps on a logarithm: choose loguniform or lograndint, or list values")
    return stepped(IntDistribution if cast_int else FloatDistribution, lower, upper, size)
