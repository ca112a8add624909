"""Training jobs, as the operations of SageMaker's API on them."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo_helpers.jobs.rehearsal.job import TrainingJob
from hpo_helpers.jobs.rehearsal.model import (
    ServiceError,
    check_supported,
    invalid,
    only_members,
    refusal,
)
from hpo_helpers.jobs.rehearsal.pages import Pages, ordered_by, within
from hpo_helpers.jobs.rehearsal.register import Register

CHANNEL = {
    "ChannelName": None,
    "ContentType": None,
    "CompressionType": ("None",),
    "RecordWrapperType": ("None",),
    "InputMode": ("File",),
    "DataSource": {
        "S3DataSource": {
            "S3DataType": ("S3Prefix",),
            "S3Uri": None,
            "S3DataDistributionType": ("FullyReplicated",),
        }
    },
}
#: What of a request for a training job the rehearsal carries out, or may leave alone without anyone noticing.
SUPPORTED = {
    "TrainingJobName": None,
    "HyperParameters": None,
    "AlgorithmSpecification": {
        "TrainingImage": None,
        "TrainingInputMode": ("File",),
        "MetricDefinitions": {"Name": None, "Regex": None},
    },
    "RoleArn": None,
    "InputDataConfig": CHANNEL,
    "OutputDataConfig": {"S3OutputPath": None, "CompressionType": ("GZIP",)},
    "ResourceConfig": {"InstanceType": None, "InstanceCount": (1,), "VolumeSizeInGB": None},
    "StoppingCondition": {"MaxRuntimeInSeconds": None, "MaxWaitTimeInSeconds": None},
    "EnableManagedSpotTraining": (True, False),
    "CheckpointConfig": {"S3Uri": None, "LocalPath": None},
    "Environment": None,
    "Tags": {"Key": None, "Value": None},
}
DISTRIBUTED = ("sagemaker_mpi_enabled", "sagemaker_parameter_server_enabled")
DEFAULT_MAX_RUNTIME = 86400


class TrainingJobs:
    """All training jobs of one rehearsal.

    Parameters
    ----------
    folder
        Where each job gets a folder of its own.
    arn_prefix
        What every ARN begins with, up to the account.
    clients
        ``"s3"`` and ``"logs"``, clients of the rehearsal itself.
    switches
        The rehearsal, whose switches tell when to refuse, to delay or to fail a job.
    """

    def __init__(self, folder: Path, arn_prefix: str, clients: Mapping[str, Any], switches: Any) -> None:
        self.failures: deque[str] = deque()  # FailureReasons of the next jobs
        self.register = Register("training-job", arn_prefix)
        self._folder = folder
        self._clients = clients
        self._switches = switches
        self._creating = threading.Lock()
        self._closed = False
        self._pages = Pages()

    def close(self) -> None:
        """End every job, and start no other."""
        with self._creating:
            self._closed = True
        for job in self.register.all():
            job.kill()
        for job in self.register.all():
            job.join()

    # Operations

    def create(
        self, request: Mapping[str, Any], when_ended: Callable[[], None] = lambda: None, **record: Any
    ) -> dict[str, str]:
        """Check a request and start its job. `record` is added to what `DescribeTrainingJob` shows."""
        check_supported("CreateTrainingJob", request, SUPPORTED)
        check_training(request)
        whole = {**request, "StoppingCondition": _stopping_condition(request), **record}
        with self._creating:
            self._check_room(request)
            arn = self.register.add(
                request["TrainingJobName"], lambda arn: self._make_job(whole, arn, when_ended)
            )
            self.register.find(request["TrainingJobName"]).start()
        return {"TrainingJobArn": arn}

    def describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a job's record."""
        record = self.register.find(request["TrainingJobName"]).record()
        return only_members("DescribeTrainingJobResponse", record)

    def stop(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Stop a job that has not ended."""
        self.register.find_running(request["TrainingJobName"]).stop()
        return {}

    def delete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Forget a job that has ended."""
        self.register.remove(request["TrainingJobName"])
        shutil.rmtree(self._folder / request["TrainingJobName"], ignore_errors=True)
        return {}

    def list(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of summaries."""
        for name in ("WarmPoolStatusEquals", "TrainingPlanArnEquals"):
            if name in request:
                raise refusal(f"ListTrainingJobs.{name}")
        records = [job.record() for job in self.register.all()]
        found = within(records, request, "TrainingJobName", "TrainingJobStatus")
        by = {"Name": "TrainingJobName", "Status": "TrainingJobStatus", "CreationTime": "CreationTime"}
        field = by[request.get("SortBy", "CreationTime")]
        ordered = ordered_by(found, field, request.get("SortOrder", "Ascending"))
        summaries = [only_members("TrainingJobSummary", record) for record in ordered]
        return self._pages.answer("TrainingJobSummaries", summaries, request, default_size=10)

    def _make_job(self, request: Mapping[str, Any], arn: str, when_ended: Callable[[], None]) -> TrainingJob:
        failure = self.failures.popleft() if self.failures else None
        folder = self._folder / request["TrainingJobName"]
        return TrainingJob(request, arn, folder, self._clients, self._switches, failure, when_ended)

    def _check_room(self, request: Mapping[str, Any]) -> None:
        if self._closed:
            raise invalid("the rehearsal has been closed")
        limit = self._switches.max_running_jobs
        n_running = sum(not job.ended for job in self.register.all())
        if limit is not None and n_running >= limit:
            instance = request["ResourceConfig"]["InstanceType"]
            raise ServiceError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{instance} for training job usage' is {limit} Instances, "
                f"with current utilization of {n_running} Instances and a request delta of 1 Instances. "
                "Please use AWS Service Quotas to request an increase for this quota.",
            )


def check_training(request: Mapping[str, Any]) -> None:
    """Raise ServiceError at what the model of the API leaves to the service."""
    _check_script_mode(request.get("HyperParameters", {}))
    for needed in ("InstanceType", "InstanceCount", "VolumeSizeInGB"):
        if needed not in request.get("ResourceConfig", {}):
            raise invalid(f"ResourceConfig.{needed} is required")
    if "TrainingImage" not in request["AlgorithmSpecification"]:
        raise refusal("AlgorithmSpecification without a TrainingImage")
    _check_names("channel", [channel["ChannelName"] for channel in request.get("InputDataConfig", [])])
    _check_metrics(request["AlgorithmSpecification"].get("MetricDefinitions", []))
    _check_uris(request)
    _check_checkpoints(request.get("CheckpointConfig", {}).get("LocalPath", "/opt/ml/checkpoints"))
    _check_waiting(request)


def _check_script_mode(hyperparameters: Mapping[str, str]) -> None:
    for name in ("sagemaker_program", "sagemaker_submit_directory"):
        if name not in hyperparameters:
            raise refusal(f"a container: the hyperparameter {name!r} must name the script (script mode)")
    for name in DISTRIBUTED:
        if hyperparameters.get(name, "false") not in ("false", '"false"'):
            raise refusal(f"distributed training (hyperparameter {name!r})")


def _check_metrics(definitions: Sequence[Mapping[str, str]]) -> None:
    _check_names("metric", [metric["Name"] for metric in definitions])
    for metric in definitions:
        try:
            n_groups = re.compile(metric["Regex"]).groups
        except re.error as error:
            raise invalid(f"Metric {metric['Name']!r} has no valid regular expression: {error}") from error
        if n_groups != 1:
            raise invalid(
                f"The Regex of metric {metric['Name']!r} must have one group, got {metric['Regex']!r}",
            )


def _check_names(kind: str, names: Sequence[str]) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise invalid(f"The {kind} names must be unique, got {doubles} more than once")
    if kind == "channel" and {".", ".."} & set(names):
        raise invalid("A channel name must not be '.' or '..'")


def _check_uris(request: Mapping[str, Any]) -> None:
    for channel in request.get("InputDataConfig", []):
        if "S3DataSource" not in channel["DataSource"]:
            raise invalid(f"the channel {channel['ChannelName']!r} needs an S3DataSource")
    code = _decoded(request["HyperParameters"]["sagemaker_submit_directory"])
    uris = [code, request["OutputDataConfig"]["S3OutputPath"]]
    uris += [channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in request.get("InputDataConfig", [])]
    uris += [request["CheckpointConfig"]["S3Uri"]] if "CheckpointConfig" in request else []
    for uri in uris:
        if not str(uri).startswith("s3://"):
            raise refusal(f"a place other than s3://bucket/key (got {uri!r})")


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_checkpoints(folder: str) -> None:
    if not folder.startswith("/opt/ml/") or ".." in folder.split("/"):
        raise refusal(f"a CheckpointConfig.LocalPath outside /opt/ml (got {folder!r})")


def _check_waiting(request: Mapping[str, Any]) -> None:
    condition = _stopping_condition(request)
    wait = condition.get("MaxWaitTimeInSeconds")
    if not request.get("EnableManagedSpotTraining"):
        if wait is not None:
            raise invalid("MaxWaitTimeInSeconds can only be specified with managed spot training")
    elif wait is None or wait < condition["MaxRuntimeInSeconds"]:
        raise invalid(
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
            "MaxRuntimeInSeconds",
        )


def _stopping_condition(request: Mapping[str, Any]) -> dict[str, int]:
    return {"MaxRuntimeInSeconds": DEFAULT_MAX_RUNTIME, **(request.get("StoppingCondition") or {})}
