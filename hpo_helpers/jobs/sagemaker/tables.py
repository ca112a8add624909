"""A table of training jobs: once from their logs, once by SageMaker's own search."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hpo_helpers.jobs.sagemaker.clients import connect
from hpo_helpers.jobs.sagemaker.errors import explained
from hpo_helpers.jobs.sagemaker.logs import read_all
from hpo_helpers.jobs.lines import parse_line

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = {"name", "seconds", "billable_seconds", "status"}  #: a hyperparameter of such a name is left out


def jobs_from_logs(name: str, metric: str = "valid_error") -> pd.DataFrame:
    """Return a table of training jobs, the metric being the last one that each has printed.

    Parameters
    ----------
    name
        How the names of the jobs begin.
    metric
        The name of the metric.

    Returns
    -------
    DataFrame
        One row a job, in the order of their names: ``name``, a column for each hyperparameter, the metric (NaN if
        the job has printed none), ``seconds`` of training, ``billable_seconds``, and SageMaker's ``status``.
    """
    clients = connect()
    with explained():
        pages = clients.sagemaker.get_paginator("list_training_jobs").paginate(NameContains=name)
        names = [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]]
        names = [job for job in names if job.startswith(name)]
        jobs = [clients.sagemaker.describe_training_job(TrainingJobName=job) for job in names]
        values = [_last(read_all(clients.logs, job), metric) for job in names]
    return _table(zip(jobs, values, strict=True), metric)


def jobs_from_search(name: str, metric: str = "valid_error") -> pd.DataFrame:
    """Return the same table as `jobs_from_logs`, in a call a hundred jobs, from what SageMaker keeps of each job.

    SageMaker found the metric in the lines of the job itself, by the job's metric definition.
    """
    clients = connect()
    condition = {"Name": "TrainingJobName", "Operator": "Contains", "Value": name}
    with explained():
        pages = clients.sagemaker.get_paginator("search").paginate(
            Resource="TrainingJob", SearchExpression={"Filters": [condition]}
        )
        found = [result["TrainingJob"] for page in pages for result in page["Results"]]
    jobs = [job for job in found if job["TrainingJobName"].startswith(name)]
    return _table(((job, _final(job, metric)) for job in jobs), metric)


def _last(lines: Iterable[Any], metric: str) -> float:
    values = [parse_line(line.text).get(metric) for line in sorted(lines, key=lambda line: line.timestamp)]
    return ([float("nan")] + [value for value in values if isinstance(value, (int, float))])[-1]


def _final(job: dict[str, Any], metric: str) -> float:
    values = {data["MetricName"]: data["Value"] for data in job.get("FinalMetricDataList", [])}
    return values.get(metric, float("nan"))


def _table(jobs: Iterable[tuple[dict[str, Any], float]], metric: str) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "name": job["TrainingJobName"],
            **{name: value for name, value in _hyperparameters(job).items() if name not in COLUMNS},
            metric: _single(value),
            "seconds": job.get("TrainingTimeInSeconds"),
            "billable_seconds": job.get("BillableTimeInSeconds"),
            "status": job["TrainingJobStatus"],
        }
        for job, value in jobs
    ]
    return pd.DataFrame(sorted(rows, key=lambda row: row["name"]))


def _single(value: float) -> float:
    """Return the shortest number that is the same in single precision, in which SageMaker keeps metrics."""
    import numpy as np

    return float(str(np.float32(value)))


def _hyperparameters(job: dict[str, Any]) -> dict[str, Any]:
    """Return what the script was given, less what the container was."""
    given = sorted(job.get("HyperParameters", {}).items())
    return {name: _decode(text) for name, text in given if not name.startswith(("sagemaker_", "_tuning_"))}


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a built-in tuner writes its categories as they are
        return text
