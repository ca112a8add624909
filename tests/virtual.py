"""A launcher in virtual time for the tests of `tune`: curves are lists of (seconds, value), no process runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from hpo_helpers.jobs import JobStatus, Report, job_epochs


@dataclass
class VirtualJob:
    id: int
    params: dict
    epochs: int
    events: list  # of (time, Report or the status and error of the end), oldest first
    launcher: object
    status: JobStatus = JobStatus.RUNNING
    error: str | None = None
    unread: list = field(default_factory=list)

    @property
    def finished(self):
        return self.status is not JobStatus.RUNNING

    def new_reports(self):
        reports, self.unread = self.unread, []
        return reports

    def stop(self):
        if not self.finished:
            self.status, self.unread, self.events = JobStatus.STOPPED, [], []


class VirtualLauncher:
    """Runs ``curve(params)``: an iterator of (seconds, value), or an exception to fail with."""

    metric = "valid_error"

    def __init__(self, curve, n_workers=4):
        self.curve, self.n_workers = curve, n_workers
        self.jobs, self._now = [], 0.0

    def clock(self):
        return self._now

    def submit(self, params, epochs):
        if sum(not job.finished for job in self.jobs) >= self.n_workers:
            raise RuntimeError("all workers are taken")
        job = VirtualJob(len(self.jobs), dict(params), job_epochs(params, epochs), [], self)
        job.events = list(self._play(job))
        self.jobs.append(job)
        return job

    def _play(self, job):
        time = self._now
        try:
            for epoch, (seconds, value) in enumerate(self.curve(job.params), start=1):
                if epoch > job.epochs:
                    break
                time += seconds
                yield time, Report(epoch, value, time, {"valid_error": value, "epoch": epoch})
        except Exception as error:
            yield time, (JobStatus.FAILED, repr(error))
            return
        yield time, (JobStatus.COMPLETED, None)

    def wait(self, jobs, timeout=None):
        if not jobs:
            raise ValueError("nothing to wait for")
        if any(job.unread for job in jobs):
            return
        deadline = float("inf") if timeout is None else self._now + timeout
        pending = [job for job in jobs if job.events]
        next_job = min(pending, key=lambda job: (job.events[0][0], job.id), default=None)
        if next_job is None or next_job.events[0][0] > deadline:
            assert deadline != float("inf"), "this wait would never end"
            self._now = deadline
            return
        self._now, event = next_job.events.pop(0)
        if isinstance(event, Report):
            next_job.unread.append(event)
        else:
            next_job.status, next_job.error = event

    def close(self):
        for job in self.jobs:
            job.stop()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
