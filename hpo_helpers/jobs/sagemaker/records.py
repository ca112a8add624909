"""What training jobs leave on AWS: as a table, as a list, and nothing any more."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from hpo_helpers.jobs.log_metrics import parse_line
from hpo_helpers.jobs.sagemaker import orphans
from hpo_helpers.jobs.sagemaker.setup import SageMakerError, connect, explained
from hpo_helpers.jobs.sagemaker.watch import GROUP, STREAMS, listed, read_lines, search

if TYPE_CHECKING:
    import pandas as pd

OBJECTS = "list_objects_v2", "Contents[]"
TRAINING_JOBS = "list_training_jobs", "TrainingJobSummaries[].TrainingJobName"
#: How Search calls them. In this order they are deleted, after the rest.
JOBS = {"tuning job": "HyperParameterTuningJob", "training job": "TrainingJob"}


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
        ``start`` and ``end`` (seconds since 1970) and ``billable_seconds``, NaN where it
        never got a machine, and ``status``; sorted by name.
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
def list_created(name: str, run: str | None = None, bucket: str | None = None) -> pd.DataFrame:
    """List what this owner's jobs and tuning jobs have left: records, lines, objects in S3.

    A printed line says how much there is of others, which is left alone.

    Parameters
    ----------
    name
        The `name` of the launcher, which stands in all tags and keys.
    run
        How a run's names begin: list that run instead, whoever its owner is. It is for
        those who have lost their cache folder, which keeps the owner.
    bucket
        The launcher's bucket. It stays: empty, it costs nothing, and others use it.

    Returns
    -------
    DataFrame
        One row each: ``kind``, ``name``, a job's ``status``, an object's ``bytes``.
    """
    import pandas as pd

    if run and f"{name}-".startswith(f"{run}-"):
        raise ValueError(f"run must be one run's, longer than the name {name!r}, got {run!r}")
    clients = connect()
    place, rows = bucket or clients.bucket, []
    for entry in listed(clients.s3, *OBJECTS, Bucket=place, Prefix=f"{name}/"):
        owner_and_run = (entry["Key"].split("/") + ["", ""])[1:3]
        rows.append(("S3 object", f"s3://{place}/{entry['Key']}", None, entry["Size"], *owner_and_run))
    for kind, resource in JOBS.items():
        for job in search(clients.sagemaker, "Equals", resource, **{f"Tags.{orphans.NAME}": name}):
            owner_and_run = [orphans.read_tags(job).get(key) for key in (orphans.OWNER, orphans.RUN)]
            rows.append((kind, job[f"{resource}Name"], job[f"{resource}Status"], None, *owner_and_run))
    mine = [f"{row[5]}-".startswith(f"{run}-") if run else row[4] == orphans.owner() for row in rows]
    print(f"{len(rows) - sum(mine)} objects and jobs of others are left alone.")
    rows = [row[:4] for row, is_mine in zip(rows, mine, strict=True) if is_mine]
    for job in [row[1] for row in rows if row[0] == "training job"]:
        streams = listed(clients.logs, *STREAMS, logGroupName=GROUP, logStreamNamePrefix=f"{job}/")
        rows = [("log stream", stream, None, None) for stream in streams] + rows
    return pd.DataFrame(rows, columns=["kind", "name", "status", "bytes"])


@explained()
def delete_created(created: pd.DataFrame) -> None:
    """Delete what `list_created` has listed, and nothing else.

    SageMakerError if AWS refuses, or a job still runs: stop it, and list again.
    """
    running = created.loc[created["status"].isin(["InProgress", "Stopping"]), "name"]
    if len(running):
        raise SageMakerError(f"stop first what still runs, and list again: {', '.join(running)}")
    clients = connect()
    for kind, name in zip(created["kind"], created["name"], strict=True):
        try:
            _delete(clients, kind, name)
        except clients.s3.exceptions.ClientError as error:
            if not re.search("(?i)not ?found", str(error)):  # deleted before, and Search is late
                raise


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


def _last(lines, metric):
    values = [parse_line(text).get(metric) for _, text in lines]
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
            **{each.lower(): _time(job.get(f"Training{each}Time")) for each in ("Start", "End")},
            "billable_seconds": job.get("BillableTimeInSeconds", float("nan")),
            "status": job["TrainingJobStatus"],
        }
        for job, value in jobs
    ]
    return pd.DataFrame(sorted(rows, key=lambda row: row["name"]))


def _time(moment):
    return moment.timestamp() if moment else float("nan")


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
