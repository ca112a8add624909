"""What training jobs leave on AWS: as a table, as a list, and nothing any more."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from hpo_helpers.jobs.log_metrics import parse_line
from hpo_helpers.jobs.sagemaker.request import checked
from hpo_helpers.jobs.sagemaker.setup import connect, explained
from hpo_helpers.jobs.sagemaker.watch import GROUP, STREAMS, listed, read_lines, search

if TYPE_CHECKING:
    import pandas as pd

OBJECTS = "list_objects_v2", "Contents[]"
TRAINING_JOBS = "list_training_jobs", "TrainingJobSummaries[].TrainingJobName"
TUNING_JOBS = (
    "list_hyper_parameter_tuning_jobs",
    "HyperParameterTuningJobSummaries[].HyperParameterTuningJobName",
)


@explained()
def jobs_from_logs(name: str, metric: str = "valid_error") -> pd.DataFrame:
    """Return a table of training jobs, with the last metric that each has printed.

    Parameters
    ----------
    name
        How the names of the jobs begin.
    metric
        The name of the metric.

    Returns
    -------
    DataFrame
        One row a job: ``name``, hyperparameters, the metric (NaN if there is none),
        ``seconds`` of training, ``billable_seconds``, ``status``; sorted by name.
    """
    clients = connect()
    describe = clients.sagemaker.describe_training_job
    names = listed(clients.sagemaker, *TRAINING_JOBS, NameContains=name, MaxResults=100)
    names = [job for job in names if job.startswith(name)]
    jobs = [describe(TrainingJobName=job) for job in names]
    values = [_last(read_lines(clients.logs, job, {}), metric) for job in names]
    return _table(zip(jobs, values, strict=True), metric)


@explained()
def jobs_from_search(name: str, metric: str = "valid_error") -> pd.DataFrame:
    """Return the table of `jobs_from_logs`, a hundred jobs a call, from SageMaker Search.

    SageMaker has found the metric itself, by the job's metric definition.
    """
    found = search(connect().sagemaker, "Contains", TrainingJobName=name)
    jobs = [job for job in found if job["TrainingJobName"].startswith(name)]
    return _table([(job, _final(job, metric)) for job in jobs], metric)


@explained()
def list_created(name: str, bucket: str | None = None) -> pd.DataFrame:
    """List what jobs and tuning jobs have left: records, lines, and objects in S3.

    Parameters
    ----------
    name
        The `name` of the launcher, with which all names begin.
    bucket
        Its bucket; the default one is listed itself if it will be empty.

    Returns
    -------
    DataFrame
        One row each: ``kind``, ``name``, and ``bytes`` where something is stored.
    """
    import pandas as pd

    prefix, clients = checked("name", name) + "-", connect()
    place = bucket or clients.bucket
    stored = listed(clients.s3, *OBJECTS, Bucket=place, Prefix=f"{name}/")
    rows = [("S3 object", f"s3://{place}/{each['Key']}", each["Size"]) for each in stored]
    group = {"logGroupName": GROUP, "logStreamNamePrefix": prefix}
    named = {"NameContains": prefix, "MaxResults": 100}
    names = {
        "log stream": listed(clients.logs, *STREAMS, **group),
        "tuning job": listed(clients.sagemaker, *TUNING_JOBS, **named),
        "training job": listed(clients.sagemaker, *TRAINING_JOBS, **named),
    }
    found = [(kind, name, None) for kind in names for name in names[kind]]
    rows += [row for row in found if row[1].startswith(prefix)]
    n_all = len(listed(clients.s3, *OBJECTS, Bucket=place))
    if bucket is None and 0 < len(stored) == n_all:
        rows.append(("bucket", place, None))
    return pd.DataFrame(rows, columns=["kind", "name", "bytes"])


@explained()
def delete_created(created: pd.DataFrame) -> None:
    """Delete what `list_created` has listed, and nothing else.

    SageMakerError if AWS refuses: a job that still runs must be stopped first.
    """
    clients = connect()
    for kind, name in zip(created["kind"], created["name"], strict=True):
        _delete(clients, kind, name)


def _delete(clients, kind, name):
    if kind == "S3 object":
        bucket, _, key = name.removeprefix("s3://").partition("/")
        clients.s3.delete_object(Bucket=bucket, Key=key)
    elif kind == "log stream":
        clients.logs.delete_log_stream(logGroupName=GROUP, logStreamName=name)
    elif kind == "tuning job":
        job = {"HyperParameterTuningJobName": name}
        clients.sagemaker.delete_hyper_parameter_tuning_job(**job)
    elif kind == "training job":
        clients.sagemaker.delete_training_job(TrainingJobName=name)
    elif kind == "bucket":
        clients.s3.delete_bucket(Bucket=name)


def _last(lines, metric):
    values = [parse_line(text).get(metric) for _, _, text in lines]
    numbers = [value for value in values if isinstance(value, (int, float))]
    return numbers[-1] if numbers else float("nan")


def _final(job, metric):
    final = job.get("FinalMetricDataList", [])
    values = [each["Value"] for each in final if each["MetricName"] == metric]
    return values[0] if values else float("nan")


def _table(jobs, metric):
    import numpy as np
    import pandas as pd

    rows = [
        {
            "name": job["TrainingJobName"],
            **_hyperparameters(job),
            # The shortest number that is the same in SageMaker's single precision.
            metric: float(str(np.float32(value))),
            "seconds": job.get("TrainingTimeInSeconds"),
            "billable_seconds": job.get("BillableTimeInSeconds"),
            "status": job["TrainingJobStatus"],
        }
        for job, value in jobs
    ]
    return pd.DataFrame(sorted(rows, key=lambda row: row["name"]))


def _hyperparameters(job):
    """Return what the script was given, less what the container was."""
    given = sorted(job.get("HyperParameters", {}).items())
    container = "sagemaker_", "_tuning_"
    return {name: _decode(text) for name, text in given if not name.startswith(container)}


def _decode(text):
    try:
        return json.loads(text)
    except ValueError:  # -.00001; or a category, which a built-in tuner writes as it is
        return float(text) if re.fullmatch(r"-\.\d+", text) else text
