"""What `create_training_job` is told: SageMaker's names, limits and encodings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

#: Accounts whose registry holds AWS's deep learning images, where it is not the first one. From the list
#: `image_uri_config/mxnet.json` of the SageMaker Python SDK 2.232.2.
REGISTRY = "763104351884"
REGISTRIES = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}

# Limits of the service's model.
MOST_HYPERPARAMETERS, LONGEST_KEY, LONGEST_VALUE = 100, 256, 2500
LONGEST_NAME = 40  # of a launcher: with the run and the number of the job it stays under SageMaker's 63

ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
NUMBER = r"([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)"

CHECKPOINTS = "/opt/ml/checkpoints"  #: the folder of the container that SageMaker keeps equal to one in S3
CHANNEL = "training"  #: the script finds the data in the folder that SM_CHANNEL_TRAINING names


def image_uri(region: str, instance_type: str = "ml.m5.large") -> str:
    """Return the address of AWS's last image with MXNet (1.9.0, Python 3.8) for training in a region.

    Examples
    --------
    >>> image_uri("eu-west-1")
    '763104351884.dkr.ecr.eu-west-1.amazonaws.com/mxnet-training:1.9.0-cpu-py38'
    """
    account = REGISTRIES.get(region, REGISTRY)
    host = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    processor = "gpu" if re.match(r"ml\.[gp]\d", instance_type) else "cpu"
    return f"{account}.dkr.ecr.{region}.{host}/mxnet-training:1.9.0-{processor}-py38"


def check_name(name: str) -> str:
    """Return the name, or raise ValueError if no job could be called so."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"name must be 1 to {LONGEST_NAME} letters, digits and hyphens inside, such as 'hpo-helpers', got {name!r}"
        )
    return name


def check_role(role: Any) -> str:
    """Return the role, or raise ValueError if it is not the ARN of one."""
    if not isinstance(role, str) or not ROLE.fullmatch(role):
        raise ValueError(
            "role must be the ARN of the role that the jobs run as, such as "
            f"'arn:aws:iam::123456789012:role/NAME' (IAM console, Roles), got {role!r}"
        )
    return role


def encode_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """Write each value in JSON, as script mode reads it.

    Raises
    ------
    TypeError
        If JSON has no such value.
    ValueError
        If SageMaker takes no such name, so long a value, or so many.
    """
    if len(hyperparameters) > MOST_HYPERPARAMETERS:
        raise ValueError(
            f"SageMaker takes at most {MOST_HYPERPARAMETERS} hyperparameters, got {len(hyperparameters)}"
        )
    return {_checked_key(name): _encode(name, value) for name, value in hyperparameters.items()}


def _checked_key(name: str) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_KEY:
        raise ValueError(
            f"the name of a hyperparameter must have 1 to {LONGEST_KEY} characters, got {name!r}"
        )
    return name


def _encode(name: str, value: Any) -> str:
    try:
        text = json.dumps(
            value.item() if hasattr(value, "item") else value
        )  # a scalar of NumPy's is not JSON's
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the hyperparameter {name!r} must be a number, a string, a list or a dict: {error}"
        ) from None
    if len(text) > LONGEST_VALUE:
        raise ValueError(
            f"the hyperparameter {name!r} must have at most {LONGEST_VALUE} characters in JSON, got {len(text)}"
        )
    return text


def metric_definition(metric: str) -> dict[str, str]:
    """Return the pattern by which SageMaker finds a metric in lines such as ``epoch=3 valid_error=0.0520``."""
    return {"Name": metric, "Regex": rf"\b{re.escape(metric)}={NUMBER}"}


def training_job(
    *,
    name: str,
    role: str,
    image: str,
    program: str,
    code: str,
    data: str | None,
    prefix: str,
    region: str,
    hyperparameters: Mapping[str, Any],
    metric: str,
    instance_type: str,
    max_run: int,
    spot: bool,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """Return the arguments of boto3's ``create_training_job``.

    Parameters
    ----------
    program, code
        The script's name, and the archive in S3 that holds it.
    data, prefix
        The prefix in S3 of the data, if there are any, and of what the job will write.
    """
    script_mode = {
        "sagemaker_program": program,
        "sagemaker_submit_directory": code,
        "sagemaker_region": region,
    }
    checkpoint = {"checkpoint": CHECKPOINTS} if spot else {}
    request = {
        "TrainingJobName": name,
        "RoleArn": role,
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [metric_definition(metric)],
        },
        "HyperParameters": encode_hyperparameters({**hyperparameters, **checkpoint, **script_mode}),
        "OutputDataConfig": {"S3OutputPath": f"{prefix}/output"},
        "ResourceConfig": {"InstanceType": instance_type, "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": max_run},
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    return request | _channel(data) | (_spot(name, prefix, max_run) if spot else {})


def _channel(data: str | None) -> dict[str, Any]:
    if data is None:
        return {}
    source = {"S3DataType": "S3Prefix", "S3Uri": data, "S3DataDistributionType": "FullyReplicated"}
    return {"InputDataConfig": [{"ChannelName": CHANNEL, "DataSource": {"S3DataSource": source}}]}


def _spot(name: str, prefix: str, max_run: int) -> dict[str, Any]:
    """Ask for a spot instance, and wait for one for an hour at most."""
    return {
        "EnableManagedSpotTraining": True,
        "CheckpointConfig": {"S3Uri": f"{prefix}/checkpoints/{name}", "LocalPath": CHECKPOINTS},
        "StoppingCondition": {
            "MaxRuntimeInSeconds": max_run,
            "MaxWaitTimeInSeconds": max_run + 3600,
        },
    }
