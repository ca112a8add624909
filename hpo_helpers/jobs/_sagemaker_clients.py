"""The clients of boto3 that a launcher needs, and who and where it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from hpo_helpers.jobs._sagemaker_errors import SageMakerError, explained

NEEDS_BOTO3 = 'Amazon SageMaker needs boto3: run `pip install "hpo_helpers[aws]"`, or `pip install boto3`'

#: Throttling, faults of the service and a lost network are tried again, with waits that double.
PATIENT = {"mode": "standard", "total_max_attempts": 8}
#: Where a loop asks again anyway, it keeps to its own pace.
ONCE = {"mode": "standard", "total_max_attempts": 1}


@dataclass(frozen=True)
class Clients:
    """What talks to AWS."""

    sagemaker: Any
    logs: Any
    s3: Any
    polled_sagemaker: Any  #: for calls that a loop repeats, which a client need not repeat
    polled_logs: Any
    region: str
    account: str
    skew: float  #: seconds by which the clock of AWS is ahead of this machine's


def connect() -> Clients:
    """Make the clients, from whatever credentials and endpoint boto3 finds.

    Raises
    ------
    ImportError
        If boto3 is not installed.
    SageMakerError
        If there is no region, or there are no valid credentials.
    """
    boto3, config = _import_boto3()
    with explained():
        session = boto3.session.Session()
        patient, once = config(retries=PATIENT), config(retries=ONCE)
        identity = session.client("sts", config=patient, region_name=_region(session)).get_caller_identity()
        return Clients(
            sagemaker=session.client("sagemaker", config=patient),
            logs=session.client("logs", config=patient),
            s3=session.client("s3", config=patient),
            polled_sagemaker=session.client("sagemaker", config=once),
            polled_logs=session.client("logs", config=once),
            region=session.region_name,
            account=identity["Account"],
            skew=_skew(identity),
        )


def _import_boto3() -> tuple[Any, Any]:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ImportError(NEEDS_BOTO3) from error
    return boto3, Config


def _region(session: Any) -> str:
    if session.region_name is None:
        raise SageMakerError(
            "boto3 knows no region: set AWS_DEFAULT_REGION, for instance to eu-west-1, or run `aws configure`"
        )
    return session.region_name


def _skew(response: dict[str, Any]) -> float:
    """Compare the clocks by the date of an answer, which has whole seconds."""
    date = response["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    skew = parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0
    return skew if abs(skew) > 2 else 0.0
