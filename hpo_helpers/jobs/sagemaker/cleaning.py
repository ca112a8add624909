"""Everything that a launcher's jobs leave on AWS: listed first, then deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hpo_helpers.jobs.sagemaker.clients import Clients, connect
from hpo_helpers.jobs.sagemaker.errors import NOT_FOUND, SageMakerError, code_of, explained
from hpo_helpers.jobs.sagemaker.logs import GROUP
from hpo_helpers.jobs.sagemaker.request import check_name
from hpo_helpers.jobs.sagemaker.upload import default_bucket

if TYPE_CHECKING:
    import pandas as pd

MOST_KEYS = 1000  # in one call of S3's


def list_created(name: str, bucket: str | None = None) -> pd.DataFrame:
    """List what jobs whose names begin with `name` have left: their records, their lines, and objects in S3.

    Jobs that were made by hand, and tuning jobs, are among them, as are all objects under ``name/`` in the bucket.

    Parameters
    ----------
    name
        The `name` of the launcher.
    bucket
        The bucket of the launcher; by default its default. The default one is listed itself if it will be empty.

    Returns
    -------
    DataFrame
        One row an object: ``kind``, ``name``, and ``bytes`` where something is stored.
    """
    import pandas as pd

    clients, prefix = connect(), check_name(name)
    with explained():
        rows = [
            *_objects(clients, bucket or default_bucket(clients), f"{prefix}/"),
            *_log_streams(clients, f"{prefix}-"),
            *_tuning_jobs(clients, f"{prefix}-"),
            *_training_jobs(clients, f"{prefix}-"),
            *_empty_buckets(clients, bucket or default_bucket(clients), f"{prefix}/"),
        ]
    return pd.DataFrame(rows, columns=["kind", "name", "bytes"])


def delete_created(created: pd.DataFrame) -> None:
    """Delete what `list_created` has listed, and nothing else.

    Raises
    ------
    SageMakerError
        If AWS refuses; a job that still runs must be stopped first.
    """
    clients = connect()
    with explained():
        _delete_objects(clients, list(created.loc[created["kind"] == "S3 object", "name"]))
        for name in created.loc[created["kind"] == "log stream", "name"]:
            clients.logs.delete_log_stream(logGroupName=GROUP, logStreamName=name)
        for name in created.loc[created["kind"] == "tuning job", "name"]:
            clients.sagemaker.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        for name in created.loc[created["kind"] == "training job", "name"]:
            clients.sagemaker.delete_training_job(TrainingJobName=name)
        for name in created.loc[created["kind"] == "bucket", "name"]:
            clients.s3.delete_bucket(Bucket=name, ExpectedBucketOwner=clients.account)


def _keys(clients: Clients, bucket: str, **place: Any) -> Iterator[dict[str, Any]]:
    pages = clients.s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, ExpectedBucketOwner=clients.account, **place
    )
    try:
        for page in pages:
            yield from page.get("Contents", [])
    except clients.s3.exceptions.ClientError as error:
        if code_of(error) not in NOT_FOUND:
            raise


def _objects(clients: Clients, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    for found in _keys(clients, bucket, Prefix=prefix):
        yield {"kind": "S3 object", "name": f"s3://{bucket}/{found['Key']}", "bytes": found["Size"]}


def _log_streams(clients: Clients, prefix: str) -> Iterator[dict[str, Any]]:
    pages = clients.logs.get_paginator("describe_log_streams").paginate(
        logGroupName=GROUP, logStreamNamePrefix=prefix
    )
    try:
        for page in pages:
            for stream in page["logStreams"]:
                yield {"kind": "log stream", "name": stream["logStreamName"], "bytes": None}
    except clients.logs.exceptions.ClientError as error:
        if code_of(error) not in NOT_FOUND:
            raise


def _tuning_jobs(clients: Clients, prefix: str) -> Iterator[dict[str, Any]]:
    pages = clients.sagemaker.get_paginator("list_hyper_parameter_tuning_jobs").paginate(NameContains=prefix)
    for page in pages:
        for job in page["HyperParameterTuningJobSummaries"]:
            if job["HyperParameterTuningJobName"].startswith(prefix):
                yield {"kind": "tuning job", "name": job["HyperParameterTuningJobName"], "bytes": None}


def _training_jobs(clients: Clients, prefix: str) -> Iterator[dict[str, Any]]:
    pages = clients.sagemaker.get_paginator("list_training_jobs").paginate(NameContains=prefix)
    for page in pages:
        for job in page["TrainingJobSummaries"]:
            if job["TrainingJobName"].startswith(prefix):
                yield {"kind": "training job", "name": job["TrainingJobName"], "bytes": None}


def _empty_buckets(clients: Clients, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    if bucket != default_bucket(clients):
        return
    keys = list(_keys(clients, bucket))
    if keys and all(found["Key"].startswith(prefix) for found in keys):
        yield {"kind": "bucket", "name": bucket, "bytes": None}


def _delete_objects(clients: Clients, addresses: list[str]) -> None:
    buckets: dict[str, list[str]] = {}
    for address in addresses:
        bucket, _, key = address.removeprefix("s3://").partition("/")
        buckets.setdefault(bucket, []).append(key)
    for bucket, keys in buckets.items():
        for start in range(0, len(keys), MOST_KEYS):
            batch = [{"Key": key} for key in keys[start : start + MOST_KEYS]]
            answer = clients.s3.delete_objects(
                Bucket=bucket, Delete={"Objects": batch, "Quiet": True}, ExpectedBucketOwner=clients.account
            )
            for error in answer.get("Errors", [])[:1]:
                raise SageMakerError(f"S3 did not delete {error['Key']!r}: {error['Message']}")
