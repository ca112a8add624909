"""The operations of SageMaker's API that a rehearsal carries out."""

import re
import threading
from typing import Any

from hpo_helpers.jobs.rehearsal.job import Job
from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError, check_property, check_request, refusal
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
        self._pages: dict[str, list[Fields]] = {}  # what follows a page: nothing is lost or doubled
        self._others = {
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
        verb, name = of_a_kind.groups()
        if verb == "Create":
            return {f"{name}Arn": self.create(KINDS[name], request).arn}
        if verb == "List":
            return self._listed(name, self._records(KINDS[name]), request)
        job = self._find(_arn(KINDS[name], request))
        return job.record() if verb == "Describe" else getattr(self, f"_{verb.lower()}")(job)

    def create(self, kind: type[Job], request: Fields) -> Any:
        """Start a job, or raise ServiceError."""
        kind.check(request)
        arn = _arn(kind, request)
        with self._lock:
            if arn in self._jobs or self._is_closed:
                raise ServiceError(f"a job of this name exists already ({arn})", "ResourceInUse")
            if kind is TrainingJob:
                self._check_room(request["ResourceConfig"].get("InstanceType"))
            job = self._jobs[arn] = kind(request, arn, self)
            job.thread.start()
        return job

    def close(self) -> None:
        """End every job, and start no other."""
        with self._lock:
            self._is_closed = True
        jobs = list(self._jobs.values())
        for job in jobs:
            job.kill()
        for job in jobs:
            job.thread.join()

    def _stop(self, job):
        if job.ended:
            raise ServiceError(f"{job.arn} cannot be stopped, it is in status {job.status}")
        job.stop()
        return {}

    def _delete(self, job):
        if not job.ended:
            raise ServiceError(f"{job.arn} runs: stop it before it is deleted", "ResourceInUse")
        self._jobs.pop(job.arn, None)
        return {}

    def _list_children(self, request):
        return self._listed("TrainingJob", self._find(_arn(TuningJob, request)).summaries(), request)

    def _listed(self, kind, records, request):
        named = request.get("NameContains", "")
        found = [each for each in records if named in each[f"{kind}Name"]]
        return self._page(f"{kind}Summaries", found, request)

    def _search(self, request):
        kind, filters = request["Resource"], request.get("SearchExpression", {}).get("Filters", [])
        for each in filters:
            check_property(kind, each["Name"].partition(".")[0])
        found = [each for each in self._records(KINDS[kind]) if all(_passes(each, **one) for one in filters)]
        return self._page("Results", [{kind: record} for record in found], request)

    def _page(self, key, found, request):
        """Return the page that a request asks for, and the token of the next one."""
        before = request.get("NextToken")
        if before and before not in self._pages:
            raise ServiceError(f"Invalid NextToken: {before}")
        entries = self._pages.get(before, found)
        size, token = request.get("MaxResults", 10), f"page-{len(self._pages)}"
        if len(entries) <= size:
            return {key: entries}
        self._pages[token] = entries[size:]
        return {key: entries[:size], "NextToken": token}

    def _find(self, arn):
        if arn not in self._jobs:
            raise ServiceError("Requested resource not found.")
        return self._jobs[arn]

    def _records(self, kind):
        return [job.record() for job in list(self._jobs.values()) if isinstance(job, kind)]

    def _check_room(self, instance):
        jobs, limit = self._jobs.values(), self.rehearsal.max_running_jobs
        n_running = sum(not job.ended for job in jobs if isinstance(job, TrainingJob))
        if limit is not None and n_running >= limit:
            raise ServiceError(
                f"The account-level service limit '{instance} for training job usage' is {limit} "
                "Instances. Please use AWS Service Quotas to request an increase for this quota.",
                "ResourceLimitExceeded",
            )


def _passes(record, Name, Operator="Equals", Value=""):
    """Return whether a job meets a filter of Search."""
    first, _, rest = Name.partition(".")
    found = record.get(first)
    if first == "Tags":
        found = {tag["Key"]: tag["Value"] for tag in found}
    if rest:
        found = (found or {}).get(rest)
    if found is None:
        return False
    return Value in str(found) if Operator == "Contains" else str(found) == Value


def _arn(kind, request):
    word = {TrainingJob: "training-job", TuningJob: "hyper-parameter-tuning-job"}[kind]
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{word}/{request[f'{kind.kind}Name']}"
