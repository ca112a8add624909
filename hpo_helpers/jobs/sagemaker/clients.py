"""The clients of boto3 that a launcher needs, and who and where it is."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

from hpo_helpers.jobs.sagemaker.errors import SageMakerError, explained

NEEDS_BOTO3 = 'Amazon SageMaker needs boto3: run `pip install "hpo_helpers[aws]"`, or `pip install boto3`'

#: Throttling, faults of the service and a lost network are tried again, with waits that double.
PATIENT = {"mode": "standard", "total_max_attempts": 8}
#: Where a loop asks again anyway, it keeps to its own pace.
ONCE = {"mode": "standard", "total_max_attempts": 1}


class Clients:
    """What talks to AWS, each part made when it is first used.

    Parameters
    ----------
    session
        A session of boto3, which has found a region.
    config
        botocore's class for a client's settings.
    """

    def __init__(self, session: Any, config: Any) -> None:
        self.region: str = session.region_name
        self._session = session
        self._patient, self._once = config(retries=PATIENT), config(retries=ONCE)

    @cached_property
    def sagemaker(self) -> Any:
        """SageMaker."""
        return self._session.client("sagemaker", config=self._patient)

    @cached_property
    def logs(self) -> Any:
        """CloudWatch Logs."""
        return self._session.client("logs", config=self._patient)

    @cached_property
    def s3(self) -> Any:
        """S3."""
        return self._session.client("s3", config=self._patient)

    @cached_property
    def polled_sagemaker(self) -> Any:
        """SageMaker, for calls that a loop repeats and the client need not."""
        return self._session.client("sagemaker", config=self._once)

    @cached_property
    def polled_logs(self) -> Any:
        """CloudWatch Logs, for calls that a loop repeats and the client need not."""
        return self._session.client("logs", config=self._once)

    @property
    def account(self) -> str:
        """The number of the account."""
        return self._identity["Account"]

    @cached_property
    def skew(self) -> float:
        """Seconds by which the clock of AWS is ahead of this machine's; the date of an answer has whole ones."""
        asked = time.time()
        date = self._identity["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        answered = time.time()
        told = parsedate_to_datetime(date).timestamp() if date else answered
        return 0.0 if asked - 2 <= told <= answered + 2 else told - answered

    @cached_property
    def _identity(self) -> dict[str, Any]:
        with explained():
            return self._session.client("sts", config=self._patient).get_caller_identity()


def connect() -> Clients:
    """Make the clients, from whatever credentials and endpoint boto3 finds.

    Raises
    ------
    ImportError
        If boto3 is not installed.
    SageMakerError
        If boto3 knows no region.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ImportError(NEEDS_BOTO3) from error
    with explained():
        session = boto3.session.Session()
    if session.region_name is None:
        raise SageMakerError(
            "boto3 knows no region: set AWS_DEFAULT_REGION, for instance to eu-west-1, or run `aws configure`"
        )
    return Clients(session, Config)
