"""Which requests are refused: what botocore's model rules out, and what is not carried out here."""

import contextlib
import functools
import re
from typing import Any

Fields = dict[str, Any]
#: The fields that are carried out.
FIELDS = set(
    """
    TrainingJobName RoleArn HyperParameters Environment Tags Key Value AlgorithmSpecification
    TrainingImage TrainingInputMode MetricDefinitions Name Regex InputDataConfig ChannelName ContentType
    DataSource S3DataSource S3DataType S3Uri S3DataDistributionType OutputDataConfig S3OutputPath
    ResourceConfig InstanceType InstanceCount VolumeSizeInGB StoppingCondition MaxRuntimeInSeconds
    HyperParameterTuningJobName HyperParameterTuningJobConfig HyperParameterTuningJobObjective Type
    MetricName Strategy RandomSeed TrainingJobEarlyStoppingType ResourceLimits MaxNumberOfTrainingJobs
    MaxParallelTrainingJobs ParameterRanges IntegerParameterRanges ContinuousParameterRanges
    CategoricalParameterRanges MinValue MaxValue ScalingType Values TrainingJobDefinition DefinitionName
    StaticHyperParameters Resource SearchExpression Filters Operator NameContains MaxResults NextToken
    """.split()
)
#: Fields of which some values only are carried out.
ONLY = {
    "InstanceCount": (1,),
    "Operator": ("Equals", "Contains", "And"),
    "Resource": ("TrainingJob", "HyperParameterTuningJob"),
    **{"S3DataDistributionType": ("FullyReplicated",), "S3DataType": ("S3Prefix",)},
    **{"ScalingType": ("Linear", "Logarithmic"), "TrainingInputMode": ("File",)},
    "Strategy": ("Random", "Grid"),
    "TrainingJobEarlyStoppingType": ("Off",),
}


class ServiceError(Exception):
    """An answer that boto3 raises as `ClientError`, with this code."""

    def __init__(self, message: str, code: str = "ValidationException") -> None:
        super().__init__(message)
        self.code = code


def refusal(what: str, code: str = "ValidationException") -> ServiceError:
    """Return the answer to what AWS does and the rehearsal does not."""
    return ServiceError(f"the rehearsal on this machine does not support {what}: it needs AWS", code)


@functools.cache
def service_model() -> Any:
    """Return botocore's model of SageMaker."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")


def check_request(operation: str, request: Fields) -> None:
    """Raise ServiceError at what is not carried out, or breaks what boto3 does not check."""
    _check(request, service_model().operation_model(operation).input_shape, operation)


def check_property(kind: str, name: str) -> None:
    """Raise ServiceError unless Search knows a property of jobs of a kind."""
    if name not in service_model().shape_for("SearchRecord").members[kind].members:
        raise ServiceError(f"Unknown property name: {name}")


def check_training(request: Fields) -> None:
    """Raise ServiceError unless a request is for a script, with metrics that can be found."""
    for name in ("sagemaker_program", "sagemaker_submit_directory"):
        if name not in request.get("HyperParameters", {}):
            raise refusal(f"a container without the hyperparameter {name!r} (script mode)")
    for metric in request["AlgorithmSpecification"].get("MetricDefinitions", []):
        n_groups = 0
        with contextlib.suppress(re.error):
            n_groups = re.compile(metric["Regex"]).groups
        if n_groups != 1:
            raise ServiceError(f"The Regex of a metric must be valid and have one group, got {metric}")


def _check(value, shape, place):
    _check_limits(value, shape.metadata, place)
    for member in value if isinstance(value, list) else ():
        _check(member, shape.member, place)
    for name, member in value.items() if isinstance(value, dict) else ():
        inner = f"{place}.{name}"
        if shape.type_name == "map":  # its names are the reader's
            _check(member, shape.value, inner)
            continue
        if name not in FIELDS and member not in (False, [], {}):
            raise refusal(f"{inner} (got {member!r})")
        _check(member, shape.members[name], inner)
        if member not in ONLY.get(name, [member]):
            raise refusal(f"{inner}={member!r}, only {', '.join(map(str, ONLY[name]))}")


def _check_limits(value, limits, place):
    size = len(value) if hasattr(value, "__len__") else value
    is_right = limits.get("min", size) <= size <= limits.get("max", size)
    is_right = is_right and value in limits.get("enum", [value])
    with contextlib.suppress(re.error):  # nine of the patterns are Java's: \p{L}
        is_right = is_right and re.fullmatch(limits.get("pattern", "(?s).*"), str(value))
    if not is_right:
        raise ServiceError(f"{place}={value!r} failed to satisfy constraint: {limits}")
