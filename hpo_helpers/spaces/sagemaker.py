"""Amazon SageMaker's parameter ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space, categories, has_step, refusal, refusal_back, say_each

DIALECT = "Amazon SageMaker"
LOG_OF_SCALE = {"Linear": False, "Logarithmic": True}
SCALE_OF_LOG = {log: scale for scale, log in LOG_OF_SCALE.items()}
TYPES = {
    "ContinuousParameterRanges": (float, FloatDistribution),
    "IntegerParameterRanges": (int, IntDistribution),
}
NO_STEPS = (
    "it has no steps: leave the step out and round in the training script, or list the values as strings"
)
STRINGS = "its categories are strings: write them as strings, and convert them in the training script"


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
        ``HyperParameterTuningJobConfig["ParameterRanges"]``: bounds are strings.

    Raises
    ------
    ValueError
        On a step, and on categories that are no strings.
    """
    ranges: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (*TYPES, "CategoricalParameterRanges")}
    for name, (kind, said) in say_each(space, DIALECT, _say).items():
        ranges[kind].append({"Name": name, **said})
    return ranges


def from_sagemaker(ranges: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Read the ``ParameterRanges`` of a SageMaker tuning job as a search space.

    Raises
    ------
    ValueError
        On a scale that is reverse logarithmic, or is left to the service; and on ``AutoParameters``.
    """
    entries = [(kind, entry) for kind, entries in ranges.items() for entry in entries]
    return {entry["Name"]: _read(kind, entry) for kind, entry in entries}


def _say(name, distribution):
    if isinstance(distribution, CategoricalDistribution):
        values = categories(name, distribution, DIALECT, lambda choice: isinstance(choice, str), STRINGS)
        return "CategoricalParameterRanges", {"Values": values}
    if has_step(distribution):
        raise refusal(name, distribution, DIALECT, NO_STEPS)
    (kind,) = [kind for kind, (_, its_type) in TYPES.items() if isinstance(distribution, its_type)]
    return kind, {
        "MinValue": repr(distribution.low),
        "MaxValue": repr(distribution.high),
        "ScalingType": SCALE_OF_LOG[distribution.log],
    }


def _read(kind, entry):
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
