"""What AWS refuses, said in a sentence that tells what to grant or to set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

THROTTLED = {
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "SlowDown",
}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "Forbidden", "403"}
NOT_FOUND = {"ResourceNotFound", "ResourceNotFoundException", "NoSuchBucket", "NoSuchKey", "404"}
BAD_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}

#: The permission that a call needs, where it is not called as the call is.
ACTIONS = {
    "CreateBucket": "s3:CreateBucket",
    "DeleteBucket": "s3:DeleteBucket",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject",
    "DeleteLogStream": "logs:DeleteLogStream",
    "DescribeLogStreams": "logs:DescribeLogStreams",
    "GetLogEvents": "logs:GetLogEvents",
}

#: What AWS says of a job that cannot be, as a pattern, and what helps.
ADVICE = {
    r"iam:PassRole": "grant yourself iam:PassRole on that role, as notebooks/sagemaker_policy.json does",
    r"(?i)assume (the )?role|role.*not exist|roleArn": (
        "set role= to the ARN of an execution role that exists and that sagemaker.amazonaws.com may assume"
    ),
    r"(?i)\becr\b|repository|registry|trainingImage|pull.*image|image.*pull": (
        "set image_uri= to an image of ECR in the same region that the execution role may pull"
    ),
    r"(?i)instance.?type": "set instance_type= to one that SageMaker has in this region",
    r"(?i)(s3|bucket).*(denied|403|not authorized)|(denied|403|not authorized).*(s3|bucket)": (
        "grant the execution role s3:GetObject, s3:PutObject and s3:ListBucket on the bucket"
    ),
}

NO_QUOTA = re.compile(r"\bis 0 Instances")


class SageMakerError(RuntimeError):
    """AWS refused, and trying again would change nothing; the message says what to grant or to set."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn what AWS refuses in the block into a `SageMakerError`; other exceptions are left as they are."""
    from botocore import exceptions as boto

    credentials = boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError
    tokens = boto.TokenRetrievalError, boto.SSOError, boto.ProfileNotFound
    try:
        yield
    except boto.ClientError as error:
        raise SageMakerError(explain(error)) from error
    except (*credentials, *tokens) as error:
        advice = "run `aws configure` or `aws sso login`"
        raise SageMakerError(f"boto3 finds no credentials that it can use: {advice} ({error})") from error


def code_of(error: Exception) -> str:
    """Return AWS's code of an error, such as ``"ThrottlingException"``; of another exception, ``""``."""
    return getattr(error, "response", {}).get("Error", {}).get("Code", "")


def message_of(error: Exception) -> str:
    """Return AWS's own words."""
    return getattr(error, "response", {}).get("Error", {}).get("Message") or str(error)


def was_retried(error: Exception) -> bool:
    """Whether the call had been sent before, and the first answer was lost."""
    return getattr(error, "response", {}).get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0


def is_passing(error: Exception) -> bool:
    """Whether it may help to try again later: too many calls, a fault of the service, or no network."""
    from botocore.exceptions import ConnectionError, HTTPClientError

    if isinstance(error, (ConnectionError, HTTPClientError)):
        return True
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return code_of(error) in THROTTLED or status == 429 or status >= 500


def explain(error: Exception) -> str:
    """Say what AWS refused and what helps."""
    code, said = code_of(error), message_of(error)
    operation = getattr(error, "operation_name", "")
    action = ACTIONS.get(operation, f"sagemaker:{operation}")
    if code in BAD_CREDENTIALS:
        return (
            f"AWS does not accept the credentials ({code}): renew them, by `aws sso login` or new access keys"
        )
    if code in DENIED and "iam:PassRole" not in said:
        return f"AWS denies {action}: grant it as notebooks/sagemaker_policy.json does. AWS said: {said}"
    if code == "ResourceLimitExceeded":
        return f"the quota is 0: ask for more under Service Quotas, or set instance_type=. AWS said: {said}"
    return f"{operation} was refused: {with_advice(said)}"


def with_advice(said: str) -> str:
    """Return what AWS said of a job, and what helps if that is known."""
    for pattern, advice in ADVICE.items():
        if re.search(pattern, said):
            return f"{said} ({advice})"
    return said


def explain_failure(reason: str) -> str:
    """Return why a job failed, and what helps where it was not the script's own failure."""
    return reason if reason.startswith("AlgorithmError") else with_advice(reason)
