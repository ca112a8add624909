"""The clients of boto3, and what AWS refuses, said so that one knows what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

NEEDS_BOTO3 = 'Amazon SageMaker needs boto3: run `pip install "hpo_helpers[aws]"`'

#: Throttling, faults of the service and of the network are tried again.
RETRIES = {"mode": "adaptive", "total_max_attempts": 8}
LIKE_POLICY = "as notebooks/sagemaker_policy.json does"
#: A pattern of what boto3 says, and what helps. The first one found counts.
ADVICE = {
    r"credentials|[Tt]oken|AccessKey|Signature": "run `aws configure` or `aws sso login`",
    r"specify a region": "set AWS_DEFAULT_REGION, such as to eu-west-1",
    r"PassRole": f"grant yourself iam:PassRole, {LIKE_POLICY}",
    r"404.*HeadBucket": "there is no such bucket: make it, or leave bucket= out",
    r"403.*HeadBucket": "another account's, or no s3:ListBucket: set bucket=",
    r"AccessDenied|403": f"grant it, {LIKE_POLICY}",
    r"LimitExceeded": "ask for more under Service Quotas, or set instance_type=",
    r"assume role": "set role= to one that SageMaker may assume",
}


class SageMakerError(RuntimeError):
    """AWS refuses; the message says what to grant or to set."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn what boto3 raises into a `SageMakerError`."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("boto3", "botocore"):
            raise
        said = str(error)
        found = [ADVICE[pattern] for pattern in ADVICE if re.search(pattern, said)]
        raise SageMakerError(f"{said} ({found[0]})" if found else said) from error


@explained()
def connect() -> SimpleNamespace:
    """Return clients of boto3, region, account, and the usual bucket."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ImportError(NEEDS_BOTO3) from error
    session, config = boto3.session.Session(), Config(retries=RETRIES)
    names = "sagemaker", "logs", "s3", "sts"
    clients = {name: session.client(name, config=config) for name in names}
    region = session.region_name
    account = clients["sts"].get_caller_identity()["Account"]
    # AWS's usual role may use a bucket with this word in its name.
    bucket = f"sagemaker-hpo-{region}-{account}"
    return SimpleNamespace(**clients, region=region, account=account, bucket=bucket)
