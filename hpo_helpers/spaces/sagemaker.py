"""Amazon SageMaker's parameter ranges."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space, has_step, items, keeping, read_each, refusing, say_each, span

DIALECT = "Amazon SageMaker"
SCALES = ("Linear", "Logarithmic")
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


def from_sagemaker(ranges: Mapping[str, Any]) -> Space:
    """Read the ``ParameterRanges`` of a SageMaker tuning job as a search space.

    Raises
    ------
    ValueError
        On a scale that is reverse logarithmic, or is left to the service; and on ``AutoParameters``.
    """
    named: dict[str, Any] = {}
    for kind, entries in items(ranges):
        with refusing(f"Optuna cannot say {kind!r}, {entries!r} of {DIALECT}"):
            for entry in entries:
                if entry["Name"] in named:
                    raise ValueError(f"{entry['Name']!r} has two ranges: keep one")
                named[entry["Name"]] = (kind, entry)
    return read_each(named, DIALECT, _read)


def _say(distribution):
    if isinstance(distribution, CategoricalDistribution):
        return "CategoricalParameterRanges", {"Values": keeping(distribution.choices, _is_text, STRINGS)}
    if has_step(distribution):
        raise ValueError(NO_STEPS)
    (kind,) = [kind for kind, (_, its_type) in TYPES.items() if isinstance(distribution, its_type)]
    return kind, {
        "MinValue": repr(distribution.low),
        "MaxValue": repr(distribution.high),
        "ScalingType": SCALES[distribution.log],
    }


def _is_text(value):
    return isinstance(value, str)


def _read(kind_and_entry):
    kind, entry = kind_and_entry
    if kind == "CategoricalParameterRanges":
        return CategoricalDistribution(keeping(entry["Values"], _is_text, STRINGS))
    if kind not in TYPES:
        raise ValueError(f"{kind} have no bounds: give it a range")
    scale = entry.get("ScalingType", "Auto")
    if scale not in SCALES:
        raise ValueError(f"the scaling type {scale!r} is the service's own: choose 'Linear' or 'Logarithmic'")
    number, distribution = TYPES[kind]
    low, high = keeping([entry["MinValue"], entry["MaxValue"]], _is_text, "its bounds are strings")
    return span(distribution, number(low), number(high), log=scale == "Logarithmic")
