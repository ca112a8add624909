"""The life of one tuning job, a random or grid search: it starts training jobs and waits for them."""

import itertools
import math
import random
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from hpo_helpers.jobs.rehearsal.job import Job, now
from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError, check_request, refusal
from hpo_helpers.jobs.rehearsal.training_job import LOOK_SECONDS, TrainingJob

NEEDED = ("TrainingJobDefinition", "HyperParameterTuningJobObjective", "ParameterRanges")
OBJECTIVE = "FinalHyperParameterTuningJobObjectiveMetric"
#: How the counters name what training jobs end as.
ENDINGS = {"Completed": "Completed", "Stopped": "Stopped", "Failed": "NonRetryableError"}
COUNTED = ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped")
NUMERICAL = {"IntegerParameterRanges": int, "ContinuousParameterRanges": float}
NO_OBJECTIVE = "No objective metrics found. Please look at the logs of the training jobs."


class TuningJob(Job):
    """One tuning job. The operations create its training jobs."""

    kind = "HyperParameterTuningJob"

    def __init__(self, request: Fields, arn: str, operations: Any) -> None:
        super().__init__(request, arn)
        config, self._operations = request["HyperParameterTuningJobConfig"], operations
        self._objective = config["HyperParameterTuningJobObjective"]
        self._limits = config["ResourceLimits"]
        self._proposals = random_draws(config["ParameterRanges"], config.get("RandomSeed"))
        if config["Strategy"] == "Grid":
            self._proposals = grid(config["ParameterRanges"])
        self._children: list[tuple[TrainingJob, dict[str, str]]] = []
        self._turn = threading.Lock()  # of starting one
        self._failure: str | None = None
        self.move_to("InProgress", Strategy=config["Strategy"], ResourceLimits=self._limits)

    @staticmethod
    def check(request: Fields) -> None:
        """Raise ServiceError unless a request is for a search that can be run."""
        given = request | request["HyperParameterTuningJobConfig"]
        if missing := [name for name in NEEDED if not given.get(name)]:
            raise ServiceError(f"A tuning job needs {missing}")
        _check_ranges(given["ParameterRanges"], given["ResourceLimits"], given["Strategy"])
        example = _child_request(request, "example", {})
        check_request("CreateTrainingJob", example)
        TrainingJob.check(example)
        objective = given["HyperParameterTuningJobObjective"]["MetricName"]
        metrics = example["AlgorithmSpecification"].get("MetricDefinitions", [])
        if objective not in [metric["Name"] for metric in metrics]:
            raise ServiceError(f"the objective {objective!r} must be among the metrics, got {metrics}")

    def live(self) -> None:
        n_workers = self._limits["MaxParallelTrainingJobs"]
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(n_workers)]
        for act in (threading.Thread.start, threading.Thread.join):
            for worker in workers:
                act(worker)
        if self._best(self.summaries()) is None:
            self._failure = self._failure or NO_OBJECTIVE
        ending = "Failed" if self._failure else "Completed"
        ending = "Stopped" if self.stopping.is_set() else ending
        self.move_to(ending, FailureReason=self._failure, HyperParameterTuningEndTime=now())

    def stop(self) -> None:
        super().stop()
        for job, _ in list(self._children):
            job.stop()

    def record(self) -> Fields:
        found = self.summaries()
        ends = [ENDINGS.get(each["TrainingJobStatus"], "InProgress") for each in found]
        return super().record() | {
            "TrainingJobStatusCounters": {name: ends.count(name) for name in COUNTED},
            "BestTrainingJob": self._best(found),
        }

    def summaries(self) -> list[Fields]:
        """Return what is shown of its training jobs, oldest first."""
        return [self._summary(job, tuned) for job, tuned in list(self._children)]

    def _work(self):
        while job := self._start_child():
            job.thread.join()

    def _start_child(self):
        with self._turn:
            n_jobs, before = len(self._children), [tuned for _, tuned in self._children]
            is_over = self.stopping.is_set() or n_jobs == self._limits.get("MaxNumberOfTrainingJobs")
            new = (each for each in self._proposals if each not in before)  # none is drawn twice
            if is_over or (tuned := next(new, None)) is None:
                return None
            name = f"{self.name}-{n_jobs + 1:03d}-{uuid.uuid4().hex[:8]}"
            request = _child_request(self.fields, name, tuned) | {"TuningJobArn": self.arn}
            try:
                job = self._create(request)
            except ServiceError as error:
                self._failure = str(error)
                return None
            self._children.append((job, tuned))
            if self.stopping.is_set():
                job.stop()
            return job

    def _create(self, request):
        """Create a training job once the quota has room for it."""
        while True:
            try:
                return self._operations.create(TrainingJob, request)
            except ServiceError as error:
                if error.code != "ResourceLimitExceeded" or self.stopping.wait(LOOK_SECONDS):
                    raise

    def _summary(self, job, tuned):
        summary = job.record() | {"TunedHyperParameters": tuned}
        printed = job.log.values.get(self._objective["MetricName"])
        if not job.ended or not printed or job.status == "Failed":
            return summary | {"ObjectiveStatus": "Failed" if job.ended else "Pending"}
        final = {**self._objective, "Value": printed[-1]}
        return summary | {"ObjectiveStatus": "Succeeded", OBJECTIVE: final}

    def _best(self, summaries):
        sign = 1 if self._objective["Type"] == "Minimize" else -1
        told = [each for each in summaries if OBJECTIVE in each]
        return min(told, key=lambda each: sign * each[OBJECTIVE]["Value"], default=None)


def _check_ranges(ranges, limits, strategy):
    """Raise ServiceError unless the ranges can be searched by the strategy."""
    if "MaxRuntimeInSeconds" in limits:
        raise refusal("ResourceLimits.MaxRuntimeInSeconds")
    if strategy == "Random" and "MaxNumberOfTrainingJobs" not in limits:
        raise ServiceError("Random search needs ResourceLimits.MaxNumberOfTrainingJobs")
    names = [entry["Name"] for entries in ranges.values() for entry in entries]
    if len(set(names)) < len(names):
        raise ServiceError(f"the names of parameters must differ, got {names}")
    size = math.prod(len(each["Values"]) for each in ranges.get("CategoricalParameterRanges", []))
    limit = limits.get("MaxNumberOfTrainingJobs", size)
    if strategy == "Grid" and limit != size:
        wanted = f"MaxNumberOfTrainingJobs must be the size of the grid, {size}"
        raise ServiceError(f"{wanted}, got {limit}")
    for kind, number in NUMERICAL.items():
        for entry in ranges.get(kind, []):
            if strategy == "Grid":
                raise ServiceError(f"Grid search takes categorical ranges only, got {entry}")
            _check_range(entry, number)
    if (n_distinct := _count(ranges)) < limit:
        raise ServiceError(
            "You don't have enough combinations of hyperparameter ranges: their number "
            f"[{n_distinct}] must be at least MaxNumberOfTrainingJobs [{limit}]"
        )


def _count(ranges):
    """Return how many configurations there are."""
    if ranges.get("ContinuousParameterRanges"):
        return math.inf
    sizes = [len(set(each["Values"])) for each in ranges.get("CategoricalParameterRanges", [])]
    whole = ranges.get("IntegerParameterRanges", [])
    return math.prod(sizes + [int(each["MaxValue"]) - int(each["MinValue"]) + 1 for each in whole])


def random_draws(ranges: Fields, seed: int | None) -> Iterator[dict[str, str]]:
    """Yield independent draws without end, each value as the text that a job gets."""
    generator = random.Random(seed)
    while True:
        drawn = {}
        for kind, number in NUMERICAL.items():
            for entry in ranges.get(kind, []):
                drawn[entry["Name"]] = repr(_draw(entry, number, generator))
        for entry in ranges.get("CategoricalParameterRanges", []):
            drawn[entry["Name"]] = generator.choice(entry["Values"])
        yield drawn


def grid(ranges: Fields) -> Iterator[dict[str, str]]:
    """Yield every combination of categories, the last range varying fastest."""
    entries = ranges["CategoricalParameterRanges"]
    for values in itertools.product(*(entry["Values"] for entry in entries)):
        yield dict(zip([entry["Name"] for entry in entries], values))


def _check_range(entry, number):
    lowest = {"Linear": -math.inf, "Logarithmic": 0}.get(entry.get("ScalingType"), math.nan)
    try:
        is_range = lowest < number(entry["MinValue"]) <= number(entry["MaxValue"]) < math.inf
    except ValueError:
        is_range = False
    if not is_range:
        wanted = "ScalingType Linear or Logarithmic (and then 0 <) MinValue <= MaxValue"
        raise ServiceError(f"a range must have {wanted}, got {entry}")


def _draw(entry, number, generator):
    low, high = number(entry["MinValue"]), number(entry["MaxValue"])
    if entry["ScalingType"] == "Linear":
        draw = generator.randint if number is int else generator.uniform
        return draw(low, high)
    # Each whole number stands for the interval up to the next one.
    end = high + 1 if number is int else high
    value = math.exp(generator.uniform(math.log(low), math.log(end)))
    return number(min(max(value, low), high))  # exp(log(x)) need not be x


def _child_request(request, name, tuned):
    """Return the request for a training job of a tuning job, which passes its tags on."""
    child = {**request["TrainingJobDefinition"], "TrainingJobName": name}
    child.pop("DefinitionName", None)
    config = request["HyperParameterTuningJobConfig"]
    metric = config["HyperParameterTuningJobObjective"]["MetricName"]
    values = {**child.pop("StaticHyperParameters", {}), **tuned}
    child["HyperParameters"] = {**values, "_tuning_objective_metric": metric}
    return {**child, "Tags": request.get("Tags", [])}
