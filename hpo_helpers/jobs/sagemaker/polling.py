"""Asking about all running jobs at once, in few calls a second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from hpo_helpers.jobs.sagemaker.clients import Clients
from hpo_helpers.jobs.sagemaker.errors import NOT_FOUND, code_of, explained, is_passing
from hpo_helpers.jobs.sagemaker.logs import Line, LogReader
from hpo_helpers.jobs.sagemaker.pace import Pace

# Seconds between two calls. SageMaker throttles an account that lists or describes more than a few times a second;
# CloudWatch Logs allows 25 reads a second.
STATUS_SECONDS = 0.55, 5.0
LOG_SECONDS = 0.1
LOG_SECONDS_OF_A_JOB = 0.4, 5.0

PATIENCE = 600.0  # seconds without an answer after which a lost network is an error
UNLISTED_SECONDS = 60.0  # for which SageMaker may not know a job that it has just made

ENDED = {"Completed", "Failed", "Stopped"}


class Polled(Protocol):
    """What is asked about: a job that SageMaker knows."""

    name: str
    reader: LogReader
    log_pace: Pace
    is_over: bool  #: whether SageMaker has ended it; some of its lines may still be on their way
    has_said_all: bool  #: whether no further report can come, so that its end must be near
    age: float  #: seconds since it was made
    secondary_status: str

    def take_lines(self, lines: list[Line]) -> None: ...

    def end(self, description: dict[str, Any]) -> None: ...


class Polling:
    """One poll for all jobs of a launcher.

    A page of ``list_training_jobs`` tells how 100 jobs stand; ``describe_training_job`` is asked of those that did
    not end well. Logs have no such list: the jobs take turns.

    Parameters
    ----------
    clients
        The clients of boto3.
    run
        What the names of the jobs have in common.
    """

    def __init__(self, clients: Clients, run: str) -> None:
        self._clients = clients
        self._run = run
        self._status_pace = Pace(*STATUS_SECONDS)
        self._log_pace = Pace(LOG_SECONDS, LOG_SECONDS)
        self._jobs: dict[str, Polled] = {}
        self._to_describe: deque[str] = deque()
        self._unlisted: set[str] = set()  # in this round of pages
        self._next_page: dict[str, str] = {}
        self._trouble_since: float | None = None

    def add(self, job: Polled) -> None:
        """Ask about this job from now on."""
        self._jobs[job.name] = job
        self._status_pace.hurry()

    def remove(self, job: Polled) -> None:
        """Ask about it no more."""
        self._jobs.pop(job.name, None)

    def hurry(self) -> None:
        """Look more often again: a status is about to change."""
        self._status_pace.hurry()

    @property
    def due(self) -> float:
        """When the next call may be made, on the clock of `time.monotonic`; infinity if none is needed."""
        if not self._jobs:
            return float("inf")
        log_due = max(self._log_pace.due, min(job.log_pace.due for job in self._jobs.values()))
        return min(log_due, self._status_pace.due if self._are_running() else float("inf"))

    def step(self) -> None:
        """Make the calls that are due: at most one about statuses, and one for lines."""
        if self._are_running() and self._status_pace.is_due():
            self._try(self._status_pace, self._ask_status)
        if not self._jobs or not self._log_pace.is_due():
            return
        job = min(self._jobs.values(), key=lambda job: job.log_pace.due)
        if job.log_pace.is_due():
            self._log_pace.called()
            self._try(job.log_pace, lambda: self._read_lines(job))

    def _are_running(self) -> bool:
        return any(not job.is_over for job in self._jobs.values())

    def _try(self, pace: Pace, call: Callable[[], None]) -> None:
        pace.called()
        try:
            call()
        except Exception as error:
            if not is_passing(error) or self._is_out_of_patience():
                with explained():
                    raise
            pace.back_off()
        else:
            self._trouble_since = None

    def _is_out_of_patience(self) -> bool:
        self._trouble_since = self._trouble_since or time.monotonic()
        return time.monotonic() > self._trouble_since + PATIENCE

    def _ask_status(self) -> None:
        if self._to_describe:
            self._describe(self._to_describe[0])
            self._to_describe.popleft()
        else:
            self._list_page()

    def _list_page(self) -> None:
        if not self._next_page:
            self._unlisted = {job.name for job in self._jobs.values() if not job.is_over}
        page = self._clients.polled_sagemaker.list_training_jobs(
            NameContains=self._run,
            SortBy="CreationTime",
            SortOrder="Descending",
            MaxResults=100,
            **self._next_page,
        )
        self._note(page["TrainingJobSummaries"])
        token = page.get("NextToken")
        self._next_page = {"NextToken": token} if token and self._unlisted else {}
        if not self._next_page:  # what was made a moment ago may be missing from the list
            self._to_describe.extend(sorted(self._unlisted))

    def _note(self, summaries: Iterable[dict[str, Any]]) -> None:
        for summary in summaries:
            name = summary["TrainingJobName"]
            status = summary.get("SecondaryStatus", summary["TrainingJobStatus"])
            job = self._jobs.get(name)
            if name in self._unlisted and job is not None and job.secondary_status != status:
                job.secondary_status = status
                if status == "Training":  # perhaps for the second time, with a second stream of lines
                    job.reader.look_again()
                job.log_pace.hurry()
                self._status_pace.hurry()
                self._note_end(job, summary)
            self._unlisted.discard(name)

    def _note_end(self, job: Polled, summary: dict[str, Any]) -> None:
        if summary["TrainingJobStatus"] == "Completed":
            self._end(job, summary)
        elif summary["TrainingJobStatus"] in ENDED:
            self._to_describe.append(job.name)  # which tells why

    def _describe(self, name: str) -> None:
        job = self._jobs.get(name)
        if job is None or job.is_over:
            return
        try:
            description = self._clients.polled_sagemaker.describe_training_job(TrainingJobName=name)
        except Exception as error:
            if code_of(error) not in NOT_FOUND | {"ValidationException"}:
                raise
            if job.age < UNLISTED_SECONDS:
                return
            description = {
                "TrainingJobStatus": "Failed",
                "FailureReason": "the job is gone: somebody deleted it",
            }
        if description["TrainingJobStatus"] in ENDED:
            self._end(job, description)
        else:  # the list was ahead of it, or behind: look there again
            job.secondary_status = ""

    def _end(self, job: Polled, description: dict[str, Any]) -> None:
        job.end(description)
        job.reader.look_again()  # for what it said at last
        job.log_pace.hurry()
        self._status_pace.hurry()

    def _read_lines(self, job: Polled) -> None:
        lines = job.reader.step()
        job.take_lines(lines)
        if lines:
            job.log_pace.hurry()
        if not job.reader.at_end and (job.is_over or not lines):
            job.log_pace.go_on()
        if lines and job.has_said_all:  # its end is near
            self._status_pace.hurry()
