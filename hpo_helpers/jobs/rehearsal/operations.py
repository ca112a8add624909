"""The operations of SageMaker's API that a rehearsal carries out."""

import math
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
            "AddTags": self._tag,
            "ListTags": self._tag,
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
            request = {"SortBy": "CreationTime" if name == "TrainingJob" else "Name", **request}
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
        records = self._find(_arn(TuningJob, request)).summaries()
        return self._listed("TrainingJob", records, {"SortBy": "Name", **request})

    def _listed(self, kind, records, request):
        found = [each for each in records if _is_asked_for(each, kind, request)]
        found = _ordered(found, kind, request["SortBy"], request.get("SortOrder", "Ascending"))
        return self._page(f"{kind}Summaries", found, request)

    def _search(self, request):
        filters = request.get("SearchExpression", {}).get("Filters", [])
        records = self._records(TrainingJob)
        found = [record for record in records if all(_passes(record, **each) for each in filters)]
        check_property(by := request.get("SortBy", "LastModifiedTime"))
        found = _ordered(found, "TrainingJob", by, request.get("SortOrder"))
        return self._page("Results", [{"TrainingJob": record} for record in found], request)

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

    def _tag(self, request):
        job = self._find(request["ResourceArn"])
        job.tags = job.tags | {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])}
        return {"Tags": job.record()["Tags"]}

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
    if Operator.startswith("Not"):
        return not _passes(record, Name, Operator.removeprefix("Not"), Value)
    first, _, rest = Name.partition(".")
    check_property(first)
    found = record.get(first)
    if first == "Tags":
        found = {tag["Key"]: tag["Value"] for tag in found}
    if rest:
        found = (found or {}).get(rest)
    if found is None or Operator == "Exists":
        return found is not None
    if Operator == "Contains":
        return Value in str(found)
    return str(found) in (Value.split(",") if Operator == "In" else [Value])


def _is_asked_for(record, kind, request):
    if request.get("NameContains", "") not in record[f"{kind}Name"]:
        return False
    if request.get("StatusEquals", record[f"{kind}Status"]) != record[f"{kind}Status"]:
        return False
    for time in ("CreationTime", "LastModifiedTime"):
        earliest, latest = request.get(f"{time}After", 0), request.get(f"{time}Before", math.inf)
        if not earliest < record[time].timestamp() < latest:
            return False
    return True


def _ordered(records, kind, by, order):
    """Return records by the value of a field, without those that lack it."""
    field = {"Name": f"{kind}Name", "Status": f"{kind}Status"}.get(by, by)
    found = sorted((each for each in records if field in each), key=lambda each: each[field])
    return found if order == "Ascending" else found[::-1]


def _arn(kind, request):
    word = {TrainingJob: "training-job", TuningJob: "hyper-parameter-tuning-job"}[kind]
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{word}/{request[f'{kind.kind}Name']}"
