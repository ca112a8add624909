"""Syne Tune's domains, in the form in which Syne Tune writes them to JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space, has_step, refusal_back, say_each, tidy

DIALECT = "Syne Tune"
DOMAINS = {FloatDistribution: "Float", IntDistribution: "Integer"}
UNIFORM = {"sampler_cls": "Uniform", "sampler_kwargs": {}}
LOG_UNIFORM = {"sampler_cls": "LogUniform", "sampler_kwargs": {"base": math.e}}


def to_syne_tune(space: Space) -> dict[str, dict[str, Any]]:
    """Say a search space as domains of Syne Tune; steps become a ``FiniteRange``.

    Parameters
    ----------
    space
        Distributions of Optuna's.

    Returns
    -------
    dict
        What ``syne_tune.config_space.config_space_from_json_dict`` makes into domains. Syne Tune takes
        categories of one type alone.
    """
    return say_each(space, DIALECT, _say)


def from_syne_tune(config_space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Read what ``syne_tune.config_space.config_space_to_json_dict`` gives.

    Raises
    ------
    ValueError
        On a constant, and on a domain or sampler that Optuna lacks.
    """
    return {name: _read(name, domain) for name, domain in config_space.items()}


def _say(name, distribution):
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


def _read(name, domain):
    if not isinstance(domain, Mapping):
        raise refusal_back(name, domain, DIALECT, "a constant is not searched: give it to the training")
    kind, arguments = domain["domain_cls"], domain["domain_kwargs"]
    sampler = domain.get("sampler_cls", "Uniform")
    if kind == "Categorical" and sampler == "Uniform":
        return CategoricalDistribution(list(arguments["categories"]))
    if kind == "FiniteRange" and not arguments["log_scale"]:
        return _read_steps(arguments)
    if kind in DOMAINS.values() and sampler in ("Uniform", "LogUniform"):
        distribution = FloatDistribution if kind == "Float" else IntDistribution
        return distribution(arguments["lower"], arguments["upper"], log=sampler == "LogUniform")
    advice = "it has no such domain: choose uniform, loguniform, randint, lograndint, finrange or choice"
    raise refusal_back(name, dict(domain), DIALECT, advice)


def _read_steps(arguments):
    low, high = arguments["lower"], arguments["upper"]
    step = tidy((high - low) / max(1, arguments["size"] - 1)) or 1.0
    if arguments["cast_int"]:
        return IntDistribution(low, high, step=int(step))
    return FloatDistribution(low, high, step=step)
