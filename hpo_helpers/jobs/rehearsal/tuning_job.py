"""The life of one tuning job: a thread that starts training jobs, and may stop the worse ones."""

from __future__ import annotations

import datetime
import itertools
import statistics
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo_helpers.jobs.rehearsal.job import TrainingJob
from hpo_helpers.jobs.rehearsal.model import ServiceError
from hpo_helpers.jobs.rehearsal.ranges import grid, random_draws
from hpo_helpers.jobs.rehearsal.record import ENDED, now
from hpo_helpers.jobs.rehearsal.tags import from_list
from hpo_helpers.jobs.rehearsal.training import TrainingJobs

CHECK_SECONDS = 0.05
#: A tuning job fails once so many of its training jobs have ended and none has told its objective.
MOST_FRUITLESS_JOBS = 5
NO_SUCCESS = (
    "No training job succeeded after {n} attempts. Please take a look at the training job failures to get "
    "more details."
)
NO_METRICS = (
    "No objective metrics found after running {n} training jobs. Please ensure that the custom algorithm is "
    "emitting the objective metric as defined by the regular expression provided."
)

#: What the best training job is described by.
SUMMARY_FIELDS = (
    "TrainingJobDefinitionName",
    "TrainingJobName",
    "TrainingJobArn",
    "CreationTime",
    "TrainingStartTime",
    "TrainingEndTime",
    "TrainingJobStatus",
    "TunedHyperParameters",
    "FailureReason",
    "FinalHyperParameterTuningJobObjectiveMetric",
    "ObjectiveStatus",
)


class TuningJob:
    """One tuning job.

    Parameters
    ----------
    request
        What `CreateHyperParameterTuningJob` was asked.
    arn
        The job's name among all of AWS.
    training
        Where its training jobs are created.
    parents
        Earlier tuning jobs. A random search learns nothing from them, but the best training job of all may
        be one of theirs.
    """

    def __init__(
        self, request: Mapping[str, Any], arn: str, training: TrainingJobs, parents: Sequence[TuningJob]
    ) -> None:
        self.name: str = request["HyperParameterTuningJobName"]
        self.tags = from_list(request.get("Tags", []))
        self.status = "InProgress"
        self._request = request
        self._config = request["HyperParameterTuningJobConfig"]
        self._objective = self._config["HyperParameterTuningJobObjective"]
        self._arn = arn
        self._training = training
        self._parents = parents
        self._children: list[tuple[TrainingJob, dict[str, str]]] = []
        self._created = self._modified = now()
        self._ended_at: datetime.datetime | None = None
        self._failure: str | None = None
        self._lock = threading.Lock()  # of the status
        self._stopping = threading.Event()
        self._child_ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"tuning job {self.name}", daemon=True)

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in ("Completed", "Failed", "Stopped")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Start no more training jobs, and stop those that run."""
        with self._lock:
            if not self.ended:
                self.status = "Stopping"
                self._stopping.set()
                self._child_ended.set()

    def join(self) -> None:
        """Return once it has ended."""
        self._thread.join()

    def record(self) -> dict[str, Any]:
        """Return what `DescribeHyperParameterTuningJob` shows, now."""
        summaries = self.summaries()
        fields = {name: value for name, value in self._request.items() if name != "Tags"}
        overall = itertools.chain(summaries, *(parent.summaries() for parent in self._parents))
        return {
            **fields,
            "HyperParameterTuningJobArn": self._arn,
            "HyperParameterTuningJobStatus": self.status,
            "CreationTime": self._created,
            "LastModifiedTime": self._modified,
            "HyperParameterTuningEndTime": self._ended_at,
            "FailureReason": self._failure,
            "TrainingJobStatusCounters": _count_statuses(summaries),
            "ObjectiveStatusCounters": _count_objectives(summaries),
            "BestTrainingJob": self._best(summaries),
            "OverallBestTrainingJob": self._best(overall) if self._parents else None,
        }

    def summaries(self) -> list[dict[str, Any]]:
        """Return what `ListTrainingJobsForHyperParameterTuningJob` shows, oldest first."""
        return [self._summary(job, values) for job, values in list(self._children)]

    # The thread

    def _live(self) -> None:
        try:
            self._search()
        except Exception as error:  # a job always ends, and says why
            self._failure = f"InternalServerError: {type(error).__name__}: {error}"
        for job in self._running():
            job.stop()
        while self._running():
            time.sleep(CHECK_SECONDS)
        with self._lock:
            self._ended_at = self._modified = now()
            self.status = "Failed" if self._failure else "Stopped" if self._stopping.is_set() else "Completed"

    def _search(self) -> None:
        limits = self._config["ResourceLimits"]
        deadline = time.monotonic() + limits.get("MaxRuntimeInSeconds", float("inf"))
        proposals = itertools.islice(self._proposals(), limits.get("MaxNumberOfTrainingJobs"))
        proposal = next(proposals, None)
        while not self._is_over(deadline) and (proposal or self._running()):
            has_room = len(self._running()) < limits["MaxParallelTrainingJobs"]
            if proposal and has_room and self._create_child(proposal):
                proposal = next(proposals, None)
            else:
                self._pause()

    def _proposals(self) -> Iterator[dict[str, str]]:
        ranges = self._config["ParameterRanges"]
        if self._config["Strategy"] == "Grid":
            return grid(ranges)
        return random_draws(ranges, self._config.get("RandomSeed"))

    def _create_child(self, values: dict[str, str]) -> bool:
        """Start a training job, or return False if there is no room for it now."""
        name = f"{self.name}-{len(self._children) + 1:03d}-{uuid.uuid4().hex[:8]}"
        try:
            self._training.create(
                child_request(self._request, name, values),
                when_ended=self._child_ended.set,
                TuningJobArn=self._arn,
            )
        except ServiceError as error:
            if error.code != "ResourceLimitExceeded":
                raise
            return False
        self._children.append((self._training.register.find(name), values))
        return True

    def _pause(self) -> None:
        self._child_ended.wait(CHECK_SECONDS)
        self._child_ended.clear()
        if self._config.get("TrainingJobEarlyStoppingType") == "Auto":
            self._stop_early()

    def _is_over(self, deadline: float) -> bool:
        summaries = self.summaries()
        self._failure = self._fruitless(summaries)
        target = self._config.get("TuningJobCompletionCriteria", {}).get("TargetObjectiveMetricValue")
        best = self._best(summaries)
        reached = target is not None and best is not None and self._sign() * (_value(best) - target) <= 0
        return self._stopping.is_set() or self._failure is not None or reached or time.monotonic() > deadline

    def _fruitless(self, summaries: Sequence[Mapping[str, Any]]) -> str | None:
        """Return the FailureReason of a job whose training jobs all come to nothing, else None."""
        limits, counters = self._config["ResourceLimits"], _count_objectives(summaries)
        enough = min(limits.get("MaxNumberOfTrainingJobs", MOST_FRUITLESS_JOBS), MOST_FRUITLESS_JOBS)
        if counters["Succeeded"] or counters["Failed"] < enough:
            return None
        completed = any(summary["TrainingJobStatus"] == "Completed" for summary in summaries)
        return (NO_METRICS if completed else NO_SUCCESS).format(n=counters["Failed"])

    def _stop_early(self) -> None:
        """Apply the rule that SageMaker documents for `TrainingJobEarlyStoppingType` Auto.

        A job is stopped if its objective is worse than the median, over the jobs that have ended, of the
        mean of their objectives up to the same epoch.
        """
        metric, sign = self._objective["MetricName"], self._sign()
        histories = [job.values(metric) for job, _ in self._children if job.ended]
        for job in self._running():
            values = job.values(metric)
            means = [statistics.fmean(history[: len(values)]) for history in histories if values and history]
            if means and sign * values[-1] > sign * statistics.median(means):
                job.stop()

    def _running(self) -> list[TrainingJob]:
        return [job for job, _ in self._children if not job.ended]

    # What it shows

    def _summary(self, job: TrainingJob, values: dict[str, str]) -> dict[str, Any]:
        record, printed = job.record(), job.values(self._objective["MetricName"])
        summary = {
            **record,
            "TrainingJobDefinitionName": self._request["TrainingJobDefinition"].get("DefinitionName"),
            "TunedHyperParameters": values,
            "ObjectiveStatus": "Pending",
        }
        if record["TrainingJobStatus"] in ENDED:
            told = bool(printed) and record["TrainingJobStatus"] != "Failed"
            summary["ObjectiveStatus"] = "Succeeded" if told else "Failed"
        if summary["ObjectiveStatus"] == "Succeeded":
            summary["FinalHyperParameterTuningJobObjectiveMetric"] = {**self._objective, "Value": printed[-1]}
        return summary

    def _best(self, summaries: Any) -> dict[str, Any] | None:
        having = [summary for summary in summaries if summary["ObjectiveStatus"] == "Succeeded"]
        if not having:
            return None
        best = min(having, key=lambda summary: self._sign() * _value(summary))
        return {name: best[name] for name in SUMMARY_FIELDS if best.get(name) is not None}

    def _sign(self) -> int:
        return 1 if self._objective["Type"] == "Minimize" else -1


def child_request(request: Mapping[str, Any], name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the request for a training job of a tuning job, which passes its tags on."""
    own = ("DefinitionName", "StaticHyperParameters")
    definition = request["TrainingJobDefinition"]
    objective = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    return {
        **{field: value for field, value in definition.items() if field not in own},
        "TrainingJobName": name,
        "HyperParameters": {
            **definition.get("StaticHyperParameters", {}),
            **values,
            "_tuning_objective_metric": objective["MetricName"],
        },
        "Tags": request.get("Tags", []),
    }


def _value(summary: Mapping[str, Any]) -> float:
    return summary["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]


def _count_statuses(summaries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    names = {"Completed": "Completed", "Stopped": "Stopped", "Failed": "NonRetryableError"}
    counters = {"Completed": 0, "InProgress": 0, "RetryableError": 0, "NonRetryableError": 0, "Stopped": 0}
    for summary in summaries:
        counters[names.get(summary["TrainingJobStatus"], "InProgress")] += 1
    return counters


def _count_objectives(summaries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counters = {"Succeeded": 0, "Pending": 0, "Failed": 0}
    for summary in summaries:
        counters[summary["ObjectiveStatus"]] += 1
    return counters
