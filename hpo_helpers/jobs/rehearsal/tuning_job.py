"""The life of one tuning job: it starts training jobs and waits for them."""

from __future__ import annotations

import itertools
import time
import uuid
from typing import Any

from hpo_helpers.jobs.rehearsal.job import Job, now
from hpo_helpers.jobs.rehearsal.ranges import check_ranges, grid, random_draws
from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError, check_request
from hpo_helpers.jobs.rehearsal.training_job import TrainingJob

LOOK_SECONDS = 0.05
#: How the counters name what training jobs end as.
ENDINGS = {"Completed": "Completed", "Stopped": "Stopped", "Failed": "NonRetryableError"}
COUNTED = ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped")
NO_OBJECTIVE = "No objective metrics found. Please look at the logs of the training jobs."


class TuningJob(Job):
    """One tuning job. The operations create its training jobs."""

    kind = "HyperParameterTuningJob"

    def __init__(self, request: Fields, arn: str, operations: Any) -> None:
        super().__init__(request, arn)
        self._operations = operations
        self._config = request["HyperParameterTuningJobConfig"]
        self._objective = self._config["HyperParameterTuningJobObjective"]
        self._children: list[tuple[TrainingJob, dict[str, str]]] = []
        shown = {name: self._config[name] for name in ("Strategy", "ResourceLimits")}
        self.move_to("InProgress", **shown)

    @staticmethod
    def check(request: Fields) -> None:
        """Raise ServiceError unless a request is for a search that can be run."""
        config = request["HyperParameterTuningJobConfig"]
        for name in ("TrainingJobDefinition", "HyperParameterTuningJobObjective", "ParameterRanges"):
            if not (request | config).get(name):
                raise ServiceError(f"A tuning job needs {name}")
        limits, is_grid = config["ResourceLimits"], config["Strategy"] == "Grid"
        if not is_grid and "MaxNumberOfTrainingJobs" not in limits:
            raise ServiceError("Random search needs ResourceLimits.MaxNumberOfTrainingJobs")
        check_ranges(config["ParameterRanges"], is_grid)
        example = _child_request(request, "example", {})
        check_request("CreateTrainingJob", example)
        TrainingJob.check(example)
        objective = config["HyperParameterTuningJobObjective"]["MetricName"]
        metrics = example["AlgorithmSpecification"].get("MetricDefinitions", [])
        if objective not in [metric["Name"] for metric in metrics]:
            raise ServiceError(f"{objective!r} must be among the metric definitions, got {metrics}")

    def live(self) -> None:
        """Go through its life, in its thread."""
        failure = None
        try:
            self._search()
        except Exception as error:  # a job always ends, and says why
            failure = f"InternalServerError: {error!r}"
        for job in self._running():
            job.stop()
        while self._running():
            time.sleep(LOOK_SECONDS)
        if not self._told(self.summaries()):
            failure = failure or NO_OBJECTIVE
        ending = "Failed" if failure else "Completed"
        ending = "Stopped" if self.stopping.is_set() else ending
        self.move_to(ending, FailureReason=failure, HyperParameterTuningEndTime=now())

    def record(self) -> Fields:
        """Return what is shown now."""
        found = self.summaries()
        ends = [ENDINGS.get(each["TrainingJobStatus"], "InProgress") for each in found]
        objectives = [each["ObjectiveStatus"] for each in found]
        told = ("Succeeded", "Pending", "Failed")
        sign = 1 if self._objective["Type"] == "Minimize" else -1
        return super().record() | {
            "TrainingJobStatusCounters": {name: ends.count(name) for name in COUNTED},
            "ObjectiveStatusCounters": {name: objectives.count(name) for name in told},
            "BestTrainingJob": min(
                self._told(found), key=lambda each: sign * _final_value(each), default=None
            ),
        }

    def summaries(self) -> list[Fields]:
        """Return what is shown of its training jobs, oldest first."""
        return [self._summary(job, tuned) for job, tuned in list(self._children)]

    def _search(self) -> None:
        limits, ranges = self._config["ResourceLimits"], self._config["ParameterRanges"]
        proposals = random_draws(ranges, self._config.get("RandomSeed"))
        if self._config["Strategy"] == "Grid":
            proposals = grid(ranges)
        for tuned in itertools.islice(proposals, limits.get("MaxNumberOfTrainingJobs")):
            while not self._start(tuned, limits["MaxParallelTrainingJobs"]):
                if self.stopping.wait(LOOK_SECONDS):
                    return
        while self._running() and not self.stopping.wait(LOOK_SECONDS):
            pass

    def _start(self, tuned: dict[str, str], most: int) -> bool:
        """Start a training job, or return False if there is no room for it now."""
        if len(self._running()) >= most:
            return False
        name = f"{self.name}-{len(self._children) + 1:03d}-{uuid.uuid4().hex[:8]}"
        request = _child_request(self.fields, name, tuned) | {"TuningJobArn": self.arn}
        try:
            self._children.append((self._operations.create(TrainingJob, request), tuned))
        except ServiceError as error:
            if error.code == "ResourceLimitExceeded":
                return False
            raise
        return True

    def _running(self) -> list[TrainingJob]:
        return [job for job, _ in self._children if not job.ended]

    def _summary(self, job: TrainingJob, tuned: dict[str, str]) -> Fields:
        summary = job.record() | {"TunedHyperParameters": tuned, "ObjectiveStatus": "Pending"}
        printed = job.log.values.get(self._objective["MetricName"])
        if not job.ended:
            return summary
        if not printed or job.status == "Failed":
            return summary | {"ObjectiveStatus": "Failed"}
        final = {**self._objective, "Value": printed[-1]}
        summary["FinalHyperParameterTuningJobObjectiveMetric"] = final
        return summary | {"ObjectiveStatus": "Succeeded"}

    def _told(self, summaries: list[Fields]) -> list[Fields]:
        return [each for each in summaries if each["ObjectiveStatus"] == "Succeeded"]


def _final_value(summary: Fields) -> float:
    return summary["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]


def _child_request(request: Fields, name: str, tuned: dict[str, str]) -> Fields:
    """Return the request for a training job of a tuning job, which passes its tags on."""
    config, child = request["HyperParameterTuningJobConfig"], dict(request["TrainingJobDefinition"])
    child.pop("DefinitionName", None)
    static = child.pop("StaticHyperParameters", {})
    metric = config["HyperParameterTuningJobObjective"]["MetricName"]
    values = {**static, **tuned, "_tuning_objective_metric": metric}
    tags = request.get("Tags", [])
    return child | {"TrainingJobName": name, "HyperParameters": values, "Tags": tags}
