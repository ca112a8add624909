"""Amazon SageMaker's parameter ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hpo_helpers.spaces.wording import Space, distributions, has_step, refusal, refusal_back

DIALECT = "Amazon SageMaker"
LOG_OF_SCALE = {"Linear": False, "Logarithmic": True}
SCALE_OF_LOG = {log: scale for scale, log in LOG_OF_SCALE.items()}
TYPES = {
    "ContinuousParameterRanges": (float, FloatDistribution),
    "IntegerParameterRanges": (int, IntDistribution),
}
MOST_RANGES, MOST_CATEGORIES = 30, 30  # limits of the service's model


def to_sagemaker(space: Space) -> dict[str, list[dict[str, Any]]]:
    """Say a search space as the ``ParameterRanges`` of a SageMaker tuning job.

    Parameters
    ----------
    space
        Distributions of Optuna's.

    Returns
    -------
    dict
        What boto3's ``create_hyper_parameter_tuning_job`` takes as
        ``HyperParameterTuningJobConfig["ParameterRanges"]``: bounds are strings, the scale is never left to the
        service.

    Raises
    ------
    ValueError
        On a step, on categories that are no strings, and on more than 30 ranges of a kind or categories of a
        hyperparameter, which the service refuses.
    """
    ranges: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (*TYPES, "CategoricalParameterRanges")}
    for name, distribution in distributions(space, DIALECT):
        kind, said = _say(name, distribution)
        ranges[kind].append({"Name": name, **said})
    for kind, entries in ranges.items():
        if len(entries) > MOST_RANGES:
            raise ValueError(f"{DIALECT} takes at most {MOST_RANGES} {kind}, got {len(entries)}: fix some of them")
    return ranges


def from_sagemaker(ranges: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Read the ``ParameterRanges`` of a SageMaker tuning job as a search space.

    Raises
    ------
    ValueError
        On a scale that is reverse logarithmic, or is left to the service (``Auto``, or none given); and on
        ``AutoParameters``, which have no bounds.
    """
    space: dict[str, BaseDistribution] = {}
    for kind, entries in ranges.items():
        for entry in entries:
            space[entry["Name"]] = _read(kind, entry)
    return space


def _say(name: str, distribution: BaseDistribution) -> tuple[str, dict[str, Any]]:
    if isinstance(distribution, CategoricalDistribution):
        return "CategoricalParameterRanges", {"Values": _categories(name, distribution)}
    if has_step(distribution):
        advice = "it has no steps: leave the step out and round in the training script, or list the values as strings"
        raise refusal(name, distribution, DIALECT, advice)
    kind = "IntegerParameterRanges" if isinstance(distribution, IntDistribution) else "ContinuousParameterRanges"
    return kind, {
        "MinValue": repr(distribution.low),
        "MaxValue": repr(distribution.high),
        "ScalingType": SCALE_OF_LOG[distribution.log],
    }


def _categories(name: str, distribution: CategoricalDistribution) -> list[str]:
    choices = list(distribution.choices)
    if not all(isinstance(choice, str) for choice in choices):
        advice = "its categories are strings: write them as strings, and convert them in the training script"
        raise refusal(name, distribution, DIALECT, advice)
    if len(choices) > MOST_CATEGORIES:
        raise refusal(name, distribution, DIALECT, f"it takes at most {MOST_CATEGORIES} categories: leave some out")
    return choices


def _read(kind: str, entry: Mapping[str, Any]) -> BaseDistribution:
    if kind == "CategoricalParameterRanges":
        return CategoricalDistribution(list(entry["Values"]))
    if kind not in TYPES:
        raise refusal_back(entry["Name"], entry, DIALECT, f"{kind} have no bounds: give it a range")
    scale = entry.get("ScalingType", "Auto")
    if scale not in LOG_OF_SCALE:
        advice = f"the scaling type {scale!r} is the service's own: choose 'Linear' or 'Logarithmic'"
        raise refusal_back(entry["Name"], dict(entry), DIALECT, advice)
    number, distribution = TYPES[kind]
    return distribution(number(entry["MinValue"]), number(entry["MaxValue"]), log=LOG_OF_SCALE[scale])
