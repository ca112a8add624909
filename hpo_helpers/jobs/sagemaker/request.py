"""What `create_training_job` is told: SageMaker's names and encodings."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from hpo_helpers.jobs.log_metrics import expression

#: The account whose registry holds AWS's images, and where it is another one, from
#: `image_uri_config/mxnet.json` of the SageMaker Python SDK 2.232.2.
REGISTRIES = {
    "us-east-1": "763104351884",  # and wherever none is named
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

#: What texts must look like, and the words for it.
FORMS = {
    "role": (r"arn:\S+:iam::\d{12}:role/\S+", "an ARN, arn:aws:iam::ACCOUNT:role/NAME"),
    # With the run and the number of a job, it has 63 characters at most.
    "name": (r"(?!-|.{41})(-*[a-zA-Z0-9])+", "1 to 40 letters, digits, inner hyphens"),
    "script": (r"\w[\w.+-]*\.py", "a .py, named by letters, digits and ._+- only"),
}

GRACE = 120  #: seconds that SageMaker gives a job that is to end, and bills


def checked(kind: str, value: Any) -> str:
    """Return a value that has the form of its kind, or raise ValueError."""
    pattern, words = FORMS[kind]
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        raise ValueError(f"{kind} must be {words}, got {value!r}")
    return value


def image_uri(region: str, instance_type: str = "ml.m5.large") -> str:
    """Return the address of AWS's last image with MXNet (1.9.0, Python 3.8)."""
    account = REGISTRIES.get(region, REGISTRIES["us-east-1"])
    host = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    processor = "gpu" if re.match(r"ml\.[gp]\d", instance_type) else "cpu"
    return f"{account}.dkr.ecr.{region}.{host}/mxnet-training:1.9.0-{processor}-py38"


def algorithm(image: str, metric: str) -> dict[str, Any]:
    """Say what runs, and how to find the metric in lines: ``valid_error=0.0520``."""
    return {
        "TrainingImage": image,
        "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": metric, "Regex": expression(metric)}],
    }


def script_mode(program: str, code: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Write all hyperparameters in JSON, and tell the container what to run."""
    own = {"sagemaker_program": program, "sagemaker_submit_directory": code}
    return {name: _encode(name, value) for name, value in {**given, **own}.items()}


def _encode(name, value):
    try:
        text = json.dumps(value, default=lambda scalar: scalar.item())  # NumPy's
    except (AttributeError, TypeError, ValueError):
        wanted = "a number, a string, a list or a dict"
        raise TypeError(f"{name} must be {wanted}, got {value!r}") from None
    if not re.fullmatch(r"-[\d.]+e\S+", text):
        return text
    # Argparse would take a -1e-05 for an option. -.00001 is no JSON, and stays.
    return format(Decimal(text), "f").replace("-0.", "-.")


def channel(data: str) -> list[dict[str, Any]]:
    """Say where the data lie; ``SM_CHANNEL_TRAINING`` will tell the script."""
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": data}}
    return [{"ChannelName": "training", "DataSource": source}]


def ceiling(max_jobs: int, max_run: int, price_per_hour: float | None) -> str:
    """Say how much can be spent at most."""
    hours = max_jobs * (max_run + GRACE) / 3600
    jobs = f"at most {max_jobs} jobs x ({max_run} + {GRACE}) s"
    if price_per_hour is None:
        return f"{jobs} = {hours:.2f} instance-hours"
    return f"{jobs} x {price_per_hour:g} an hour = {hours * price_per_hour:.2f}"
