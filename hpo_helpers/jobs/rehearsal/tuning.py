"""Tuning jobs, as the operations of SageMaker's API on them. Their training jobs really run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo_helpers.jobs.rehearsal.model import (
    check_request,
    check_supported,
    invalid,
    only_members,
    refusal,
)
from hpo_helpers.jobs.rehearsal.pages import Pages, ordered_by, within
from hpo_helpers.jobs.rehearsal.ranges import check_ranges, grid_size
from hpo_helpers.jobs.rehearsal.register import Register
from hpo_helpers.jobs.rehearsal.training import SUPPORTED, TrainingJobs, check_training
from hpo_helpers.jobs.rehearsal.tuning_job import TuningJob, child_request

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
        self.register = Register("hyper-parameter-tuning-job", arn_prefix)
        self._training = training
        self._pages = Pages()

    # Operations

    def create(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Check a request and start its job."""
        _check_tuning(request)
        name, parents = request["HyperParameterTuningJobName"], self._parents(request)
        arn = self.register.add(name, lambda arn: TuningJob(request, arn, self._training, parents))
        self.register.find(name).start()
        return {"HyperParameterTuningJobArn": arn}

    def describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a job's record."""
        record = self.register.find(request["HyperParameterTuningJobName"]).record()
        return only_members("DescribeHyperParameterTuningJobResponse", record)

    def stop(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Stop a job and its training jobs."""
        self.register.find_running(request["HyperParameterTuningJobName"]).stop()
        return {}

    def delete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Forget a job that has ended. Its training jobs stay."""
        self.register.remove(request["HyperParameterTuningJobName"])
        return {}

    def list(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of summaries."""
        name, status = "HyperParameterTuningJobName", "HyperParameterTuningJobStatus"
        records = within([job.record() for job in self.register.all()], request, name, status)
        for record in records:
            config = record["HyperParameterTuningJobConfig"]
            record |= {"Strategy": config["Strategy"], "ResourceLimits": config["ResourceLimits"]}
        by = {"Name": name, "Status": status, "CreationTime": "CreationTime"}
        ordered = ordered_by(
            records, by[request.get("SortBy", "Name")], request.get("SortOrder", "Ascending")
        )
        summaries = [only_members("HyperParameterTuningJobSummary", record) for record in ordered]
        return self._pages.answer("HyperParameterTuningJobSummaries", summaries, request, default_size=10)

    def list_training_jobs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of summaries of a tuning job's training jobs."""
        job = self.register.find(request["HyperParameterTuningJobName"])
        found = within(job.summaries(), request, "TrainingJobName", "TrainingJobStatus")
        for summary in found:
            objective = summary.get("FinalHyperParameterTuningJobObjectiveMetric", {})
            summary["FinalObjectiveMetricValue"] = objective.get("Value")
        sort_by = request.get("SortBy", "Name")
        field = {"Name": "TrainingJobName", "Status": "TrainingJobStatus"}.get(sort_by, sort_by)
        having = [
            summary for summary in found if summary[field] is not None
        ]  # documented: others are left out
        ordered = ordered_by(having, field, request.get("SortOrder", "Ascending"))
        summaries = [only_members("HyperParameterTrainingJobSummary", summary) for summary in ordered]
        return self._pages.answer("TrainingJobSummaries", summaries, request, default_size=10)

    def _parents(self, request: Mapping[str, Any]) -> list[TuningJob]:
        names = [
            parent["HyperParameterTuningJobName"]
            for parent in request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
        ]
        parents = [self.register.find(name) for name in names]
        for parent in parents:
            if not parent.ended:
                raise invalid(f"The parent {parent.name!r} is in status {parent.status}")
        return parents


def _check_tuning(request: Mapping[str, Any]) -> None:
    strategy = request["HyperParameterTuningJobConfig"]["Strategy"]
    if strategy not in ("Random", "Grid"):
        raise refusal(f"the tuning strategy {strategy!r}: it needs AWS. 'Random' and 'Grid' run here")
    check_supported("CreateHyperParameterTuningJob", request, TUNING_SUPPORTED)
    if "TrainingJobDefinition" not in request:
        raise invalid("A tuning job needs a TrainingJobDefinition")
    config = request["HyperParameterTuningJobConfig"]
    check_ranges(config.get("ParameterRanges", {}), strategy)
    _check_limits(config)
    if strategy == "Grid" and "WarmStartConfig" in request:
        raise refusal("WarmStartConfig with the strategy 'Grid'")
    _check_objective(config, request["TrainingJobDefinition"])
    names = {entry["Name"]: "1" for entries in config["ParameterRanges"].values() for entry in entries}
    doubles = sorted(set(names) & set(request["TrainingJobDefinition"].get("StaticHyperParameters", {})))
    if doubles:
        raise invalid(f"{doubles} are both static hyperparameters and ranges")
    example = child_request(request, "example", names)
    check_request("CreateTrainingJob", example)
    check_supported("CreateTrainingJob", example, SUPPORTED)
    check_training(example)


def _check_limits(config: Mapping[str, Any]) -> None:
    limit = config["ResourceLimits"].get("MaxNumberOfTrainingJobs")
    if config["Strategy"] == "Random":
        if limit is None:
            raise invalid("Random search needs ResourceLimits.MaxNumberOfTrainingJobs")
        return
    size = grid_size(config["ParameterRanges"])
    if limit not in (None, size):
        raise invalid(
            f"MaxNumberOfTrainingJobs must be the size of the grid, {size}, got {limit!r}",
        )


def _check_objective(config: Mapping[str, Any], definition: Mapping[str, Any]) -> None:
    if "HyperParameterTuningJobObjective" not in config:
        raise invalid("A tuning job needs a HyperParameterTuningJobObjective")
    metric = config["HyperParameterTuningJobObjective"]["MetricName"]
    names = [entry["Name"] for entry in definition["AlgorithmSpecification"].get("MetricDefinitions", [])]
    if metric not in names:
        raise invalid(
            f"The objective metric {metric!r} must be among the metric definitions, got {names}",
        )
