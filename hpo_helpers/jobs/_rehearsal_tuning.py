"""Tuning jobs, as the operations of SageMaker's API on them. Their training jobs really run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from hpo_helpers.jobs._rehearsal_model import ServiceError, check_request, check_supported, only_members, refusal
from hpo_helpers.jobs._rehearsal_pages import Pages, ordered_by, within
from hpo_helpers.jobs._rehearsal_ranges import check_ranges, grid_size
from hpo_helpers.jobs._rehearsal_training import SUPPORTED, TrainingJobs, check_training
from hpo_helpers.jobs._rehearsal_tuning_job import TuningJob, child_request

RANGE = {"Name": None, "MinValue": None, "MaxValue": None, "ScalingType": None}
OF_THE_TUNER = ("TrainingJobName", "HyperParameters", "Tags")
#: What of a request for a tuning job the rehearsal carries out.
TUNING_SUPPORTED = {
    "HyperParameterTuningJobName": None,
    "HyperParameterTuningJobConfig": {
        "Strategy": None,
        "HyperParameterTuningJobObjective": None,
        "ResourceLimits": None,
        "ParameterRanges": {
            "IntegerParameterRanges": RANGE,
            "ContinuousParameterRanges": RANGE,
            "CategoricalParameterRanges": {"Name": None, "Values": None},
        },
        "TrainingJobEarlyStoppingType": None,
        "TuningJobCompletionCriteria": {"TargetObjectiveMetricValue": None},
        "RandomSeed": None,
    },
    "TrainingJobDefinition": {
        "DefinitionName": None,
        "StaticHyperParameters": None,
        **{name: rule for name, rule in SUPPORTED.items() if name not in OF_THE_TUNER},
    },
    "WarmStartConfig": None,
    "Tags": None,
}
NOT_FOUND = "Requested resource not found."


class TuningJobs:
    """All tuning jobs of one rehearsal.

    Parameters
    ----------
    training
        The training jobs, theirs among them.
    arn_prefix
        What every ARN begins with, up to the account.
    """

    def __init__(self, training: TrainingJobs, arn_prefix: str) -> None:
        self._training = training
        self._arn_prefix = arn_prefix
        self._jobs: dict[str, TuningJob] = {}
        self._lock = threading.RLock()
        self._pages = Pages()

    def find(self, name: str) -> TuningJob:
        """Return the job of a name, or raise ServiceError."""
        with self._lock:
            if name not in self._jobs:
                raise ServiceError("ValidationException", NOT_FOUND)
            return self._jobs[name]

    def all(self) -> list[TuningJob]:
        """Return every job, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    # Operations

    def create(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Check a request and start its job."""
        _check_tuning(request)
        name = request["HyperParameterTuningJobName"]
        arn = f"{self._arn_prefix}:hyper-parameter-tuning-job/{name}"
        with self._lock:
            if name in self._jobs:
                raise ServiceError(
                    "ResourceInUse",
                    f"A tuning job with this name already exists ({arn}): names must be unique in an account and region",
                )
            self._jobs[name] = TuningJob(request, arn, self._training, self._parents(request))
            self._jobs[name].start()
        return {"HyperParameterTuningJobArn": arn}

    def describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a job's record."""
        record = self.find(request["HyperParameterTuningJobName"]).record()
        return only_members("DescribeHyperParameterTuningJobResponse", record)

    def stop(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Stop a job and its training jobs."""
        job = self.find(request["HyperParameterTuningJobName"])
        if job.ended:
            raise ServiceError(
                "ValidationException", f"The request was rejected because the tuning job is in status {job.status}."
            )
        job.stop()
        return {}

    def delete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Forget a job that has ended. Its training jobs stay."""
        job = self.find(request["HyperParameterTuningJobName"])
        if not job.ended:
            raise ServiceError("ResourceInUse", f"The tuning job is in status {job.status}: stop it before it is deleted")
        with self._lock:
            del self._jobs[request["HyperParameterTuningJobName"]]
        return {}

    def list(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of summaries."""
        name, status = "HyperParameterTuningJobName", "HyperParameterTuningJobStatus"
        records = within([job.record() for job in self.all()], request, name, status)
        for record in records:
            config = record["HyperParameterTuningJobConfig"]
            record |= {"Strategy": config["Strategy"], "ResourceLimits": config["ResourceLimits"]}
        by = {"Name": name, "Status": status, "CreationTime": "CreationTime"}
        ordered = ordered_by(records, by[request.get("SortBy", "Name")], request.get("SortOrder", "Ascending"))
        summaries = [only_members("HyperParameterTuningJobSummary", record) for record in ordered]
        return self._pages.answer("HyperParameterTuningJobSummaries", summaries, request, default_size=10)

    def list_training_jobs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of summaries of a tuning job's training jobs."""
        job = self.find(request["HyperParameterTuningJobName"])
        found = within(job.summaries(), request, "TrainingJobName", "TrainingJobStatus")
        by = {"Name": "TrainingJobName", "Status": "TrainingJobStatus", "CreationTime": "CreationTime"}
        field = by.get(request.get("SortBy", "Name"), "FinalObjective")
        for summary in found:
            summary["FinalObjective"] = summary.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value")
        ordered = ordered_by(found, field, request.get("SortOrder", "Ascending"))
        summaries = [only_members("HyperParameterTrainingJobSummary", summary) for summary in ordered]
        return self._pages.answer("TrainingJobSummaries", summaries, request, default_size=10)

    def _parents(self, request: Mapping[str, Any]) -> list[TuningJob]:
        names = [
            parent["HyperParameterTuningJobName"]
            for parent in request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
        ]
        parents = [self.find(name) for name in names]
        for parent in parents:
            if not parent.ended:
                raise ServiceError("ValidationException", f"The parent {parent.name!r} is in status {parent.status}")
        return parents


def _check_tuning(request: Mapping[str, Any]) -> None:
    strategy = request["HyperParameterTuningJobConfig"]["Strategy"]
    if strategy not in ("Random", "Grid"):
        raise refusal(f"the tuning strategy {strategy!r}: it needs AWS. 'Random' and 'Grid' run here")
    check_supported("CreateHyperParameterTuningJob", request, TUNING_SUPPORTED)
    if "TrainingJobDefinition" not in request:
        raise ServiceError("ValidationException", "A tuning job needs a TrainingJobDefinition")
    config = request["HyperParameterTuningJobConfig"]
    check_ranges(config.get("ParameterRanges", {}), strategy)
    _check_limits(config)
    if strategy == "Grid" and "WarmStartConfig" in request:
        raise refusal("WarmStartConfig with the strategy 'Grid'")
    _check_objective(config, request["TrainingJobDefinition"])
    names = {entry["Name"]: "1" for entries in config["ParameterRanges"].values() for entry in entries}
    doubles = sorted(set(names) & set(request["TrainingJobDefinition"].get("StaticHyperParameters", {})))
    if doubles:
        raise ServiceError("ValidationException", f"{doubles} are both static hyperparameters and ranges")
    example = child_request(request, "example", names)
    check_request("CreateTrainingJob", example)
    check_supported("CreateTrainingJob", example, SUPPORTED)
    check_training(example)


def _check_limits(config: Mapping[str, Any]) -> None:
    limit = config["ResourceLimits"].get("MaxNumberOfTrainingJobs")
    if config["Strategy"] == "Random":
        if limit is None:
            raise ServiceError("ValidationException", "Random search needs ResourceLimits.MaxNumberOfTrainingJobs")
        return
    size = grid_size(config["ParameterRanges"])
    if limit not in (None, size):
        raise ServiceError(
            "ValidationException", f"MaxNumberOfTrainingJobs must be the size of the grid, {size}, got {limit!r}"
        )


def _check_objective(config: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
    if "HyperParameterTuningJobObjective" not in config:
        raise ServiceError("ValidationException", "A tuning job needs a HyperParameterTuningJobObjective")
    metric = config["HyperParameterTuningJobObjective"]["MetricName"]
    names = [entry["Name"] for entry in definition["AlgorithmSpecification"].get("MetricDefinitions", [])]
    if metric not in names:
        raise ServiceError(
            "ValidationException", f"The objective metric {metric!r} must be among the metric definitions, got {names}"
        )
