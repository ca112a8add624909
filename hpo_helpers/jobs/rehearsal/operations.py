"""The operations of SageMaker's API that a rehearsal carries out."""

from __future__ import annotations

import re
import threading
from typing import Any

from hpo_helpers.jobs.rehearsal.job import Job
from hpo_helpers.jobs.rehearsal.lists import Pages, listed, search
from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError, check_request, refusal
from hpo_helpers.jobs.rehearsal.training_job import TrainingJob
from hpo_helpers.jobs.rehearsal.tuning_job import TuningJob

REGION = "us-east-1"
ACCOUNT = "123456789012"  #: moto's
KINDS: dict[str, type[Job]] = {kind.kind: kind for kind in (TrainingJob, TuningJob)}
OF_A_KIND = re.compile(f"(Create|Describe|Stop|Delete|List)({'|'.join(KINDS)})s?")


class Operations:
    """The jobs of one rehearsal, and what can be asked about them."""

    def __init__(self, rehearsal: Any) -> None:
        self.rehearsal = rehearsal
        self._jobs: dict[str, Any] = {}  # by ARN, oldest first
        self._is_closed = False
        self._lock = threading.Lock()  # of creating jobs
        self._pages = Pages()
        self._others = {
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "ListTrainingJobsForHyperParameterTuningJob": self._list_children,
            "Search": self._search,
        }

    def answer(self, operation: str, request: Fields) -> Fields:
        """Carry out an operation, or raise ServiceError."""
        of_a_kind = OF_A_KIND.fullmatch(operation)
        if not of_a_kind and operation not in self._others:
            raise refusal(f"the operation {operation}")
        check_request(operation, request)
        if not of_a_kind:
            return self._others[operation](request)
        verb, kind = of_a_kind.groups()
        return getattr(self, f"_{verb.lower()}")(KINDS[kind], request)

    def create(self, kind: type[Job], request: Fields) -> Any:
        """Start a job, or raise ServiceError."""
        kind.check(request)
        arn = _arn(kind, request)
        with self._lock:
            if arn in self._jobs or self._is_closed:
                raise ServiceError(f"a job of this name already exists ({arn})", "ResourceInUse")
            if kind is TrainingJob:
                self._check_room(request["ResourceConfig"].get("InstanceType"))
            job = self._jobs[arn] = kind(request, arn, self)
            job.thread.start()
        return job

    def close(self) -> None:
        """End every job, and start no other."""
        with self._lock:
            self._is_closed = True
        for job in self._jobs.values():
            job.kill()
        for job in self._jobs.values():
            job.thread.join()

    # Both kinds of jobs

    def _create(self, kind: type[Job], request: Fields) -> Fields:
        return {f"{kind.kind}Arn": self.create(kind, request).arn}

    def _describe(self, kind: type[Job], request: Fields) -> Fields:
        return self._find(_arn(kind, request)).record()

    def _stop(self, kind: type[Job], request: Fields) -> Fields:
        job = self._find(_arn(kind, request))
        if job.ended:
            raise ServiceError(f"{job.arn} cannot be stopped, it is in status {job.status}")
        job.stop()
        return {}

    def _delete(self, kind: type[Job], request: Fields) -> Fields:
        job = self._find(_arn(kind, request))
        if not job.ended:
            raise ServiceError(f"{job.arn} runs: stop it before it is deleted", "ResourceInUse")
        self._jobs.pop(job.arn, None)
        return {}

    def _list(self, kind: type[Job], request: Fields) -> Fields:
        found = listed(kind.kind, self._records(kind), request)
        return self._pages.answer(f"{kind.kind}Summaries", found, request)

    def _find(self, arn: str) -> Any:
        if arn not in self._jobs:
            raise ServiceError("Requested resource not found.")
        return self._jobs[arn]

    def _records(self, kind: type[Job]) -> list[Fields]:
        return [job.record() for job in list(self._jobs.values()) if isinstance(job, kind)]

    # Others

    def _check_room(self, instance: str) -> None:
        jobs, limit = self._jobs.values(), self.rehearsal.max_running_jobs
        running = [job for job in jobs if isinstance(job, TrainingJob) and not job.ended]
        if limit is not None and len(running) >= limit:
            raise ServiceError(
                f"The account-level service limit '{instance} for training job usage' is {limit} "
                f"Instances, with current utilization of {len(running)} Instances.",
                "ResourceLimitExceeded",
            )

    def _search(self, request: Fields) -> Fields:
        found = search(self._records(TrainingJob), request)
        results = [{"TrainingJob": record} for record in found]
        return self._pages.answer("Results", results, request)

    def _list_children(self, request: Fields) -> Fields:
        records = self._find(_arn(TuningJob, request)).summaries()
        found = listed(TrainingJob.kind, records, request)
        return self._pages.answer("TrainingJobSummaries", found, request)

    def _add_tags(self, request: Fields) -> Fields:
        job = self._find(request["ResourceArn"])
        job.tags = job.tags | {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        return self._list_tags(request)

    def _list_tags(self, request: Fields) -> Fields:
        return {"Tags": self._find(request["ResourceArn"]).record()["Tags"]}


def _arn(kind: type[Job], request: Fields) -> str:
    word = {TrainingJob: "training-job", TuningJob: "hyper-parameter-tuning-job"}[kind]
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{word}/{request[f'{kind.kind}Name']}"
