"""Amazon SageMaker's parameter ranges."""

from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces.wording import Space, has_step, keeping, say_each

DIALECT = "Amazon SageMaker"
TYPES = {
    FloatDistribution: "ContinuousParameterRanges",
    IntDistribution: "IntegerParameterRanges",
    CategoricalDistribution: "CategoricalParameterRanges",
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
    ranges: dict[str, list[dict[str, Any]]] = {kind: [] for kind in TYPES.values()}
    for name, said in say_each(space, DIALECT, _say).items():
        ranges[TYPES[type(space[name])]].append({"Name": name, **said})
    return ranges


def _say(distribution):
    if isinstance(distribution, CategoricalDistribution):
        return {"Values": keeping(distribution.choices, lambda choice: isinstance(choice, str), STRINGS)}
    if has_step(distribution):
        raise ValueError(NO_STEPS)
    return {
        "MinValue": repr(distribution.low),
        "MaxValue": repr(distribution.high),
        "ScalingType": "Logarithmic" if distribution.log else "Linear",
    }
