"""Jobs on Amazon SageMaker, by boto3.

Whether boto3 talks to AWS or to a rehearsal on this machine is the endpoint's affair: nothing here knows.
"""

from __future__ import annotations

import contextlib
import itertools
import numbers
import os
import secrets
import time
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from hpo_helpers.jobs import JobStatus, Report, job_epochs, make_report
from hpo_helpers.jobs.sagemaker import request
from hpo_helpers.jobs.sagemaker.clients import connect
from hpo_helpers.jobs.sagemaker.errors import (
    NO_QUOTA,
    SageMakerError,
    code_of,
    explain_failure,
    explained,
    message_of,
    was_retried,
)
from hpo_helpers.jobs.sagemaker.logs import Line, LogReader
from hpo_helpers.jobs.sagemaker.orphans import stop_all, stop_job, stop_orphans, tags_of_this_process
from hpo_helpers.jobs.sagemaker.pace import Pace
from hpo_helpers.jobs.sagemaker.polling import LOG_SECONDS_OF_A_JOB, Polling
from hpo_helpers.jobs.sagemaker.upload import (
    code_files,
    data_folder,
    default_bucket,
    ensure_bucket,
    program_name,
    upload_code,
    upload_folder,
    upload_mnist,
)
from hpo_helpers.jobs.lines import parse_line

#: Seconds after its end for which lines of a job may still be on their way, unless its last ones have been seen.
LATE_SECONDS = 10.0
#: Seconds between two tries to start a job for which there was no quota.
QUOTA_SECONDS = 1.0, 60.0


class SageMakerLauncher:
    """Train in jobs of Amazon SageMaker, one instance each.

    The jobs run a script in AWS's MXNet image. Every line that it prints with the tuned metric in it is a report,
    of all ``name=value`` pairs on the line: ``epoch=3 valid_error=0.0520``. Stopping a job ends its costs.

    What still runs is stopped when the ``with`` block is left, by whatever way, and when the program ends. A
    program that was killed cannot do so: the next launcher with the same `name` stops what it left, and `max_run`
    ends it in any case.

    Parameters
    ----------
    script
        A Python script that takes its hyperparameters as ``--learning_rate 0.1 --epochs 27``. If not given, the
        package's own ``train_mnist.py``.
    n_workers
        How many jobs may run at a time. It is lowered where the account's quota is lower, with a warning.
    role
        The ARN of the execution role, as which the jobs read the data and write their results.
    dependencies
        Files that the script imports or reads, to lie beside it.
    fixed
        Hyperparameters that are the same for every job; a job's own of the same name comes first.
    metric
        The name of the metric that is tuned.
    data
        A folder; jobs find it under the name that ``SM_CHANNEL_TRAINING`` holds. If not given, the package's script
        gets the 5,000 images of MNIST that come with the course, a script of your own nothing. Files and folders
        whose names begin with a dot stay here.
    instance_type
        The kind of machine, as the price list names it.
    image_uri
        The container image, in a registry of the same region; by default AWS's last one with MXNet.
    bucket
        Where code, data and results lie in S3; by default ``sagemaker-hpo-REGION-ACCOUNT``, made if missing.
    spot
        Whether to use spare machines, which are cheaper and may be taken away. The script is then given
        ``--checkpoint FOLDER``, a folder that outlives the machine, to save its state in and to go on from. A job
        waits for machines for an hour at most.
    max_run
        Seconds of running after which SageMaker ends a job; it has failed then. SageMaker grants a job up to 120
        seconds more to save what it has.
    max_jobs
        How many jobs this launcher may start. `n_workers` falls to 0 there, which ends `tune`.
    price_per_hour
        Price of one instance, in whatever currency, to print the ceiling on spending before the first job:
        `max_jobs` times `max_run` times this.
    name
        How the names of jobs, and their keys in S3, begin. Give every notebook its own.

    Raises
    ------
    ImportError
        If boto3 is not installed.
    ValueError
        If `role` is no ARN of a role, `name` is none that a job may have, or a number is out of range.
    FileNotFoundError
        If `script`, one of `dependencies` or `data` does not exist.
    SageMakerError
        If AWS refuses: the message says what to grant or to set.

    Examples
    --------
    With a study and a search space, as for any launcher::

        with SageMakerLauncher(role=role, n_workers=4, max_jobs=40, price_per_hour=0.115) as launcher:
            tune(study, MNIST_CNN, launcher, epochs=27, n_trials=40)
    """

    def __init__(
        self,
        script: str | os.PathLike[str] | None = None,
        n_workers: int = 2,
        *,
        role: str,
        dependencies: Sequence[str | os.PathLike[str]] = (),
        fixed: Mapping[str, Any] | None = None,
        metric: str = "valid_error",
        data: str | os.PathLike[str] | None = None,
        instance_type: str = "ml.m5.large",
        image_uri: str | None = None,
        bucket: str | None = None,
        spot: bool = False,
        max_run: int = 600,
        max_jobs: int = 50,
        price_per_hour: float | None = None,
        name: str = "hpo-helpers",
    ) -> None:
        self._role = request.check_role(role)
        self.name = request.check_name(name)
        self.metric = metric
        self._code = code_files(script, dependencies)
        self._data = data_folder(data)
        self._has_mnist = script is None and data is None
        self._fixed = _check_fixed(fixed or {})
        self._n_workers = _positive("n_workers", n_workers)
        self._max_run = _positive("max_run", max_run)
        self._max_jobs = _positive("max_jobs", max_jobs)
        self._price_per_hour = _check_price(price_per_hour)
        self._instance_type = instance_type
        self._spot = spot
        self._clients = connect()
        self._skew = self._clients.skew  # of the clocks, which also shows whether there are valid credentials
        self._image_uri = image_uri or request.image_uri(self._clients.region, instance_type)
        self.bucket = bucket or default_bucket(self._clients)
        self.run = f"{name}-{secrets.token_hex(4)}"  #: how the names of this launcher's jobs begin
        self._tags = tags_of_this_process(name)
        self._addresses: tuple[str, str | None] | None = None  # of code and data, once they are in S3
        self._ids = itertools.count()
        self._n_started = 0
        self._running: dict[int, SageMakerJob] = {}
        self._waiting: list[SageMakerJob] = []  # among those running: there was no quota for them
        self._quota_pace = Pace(*QUOTA_SECONDS)
        self._polling = Polling(self._clients, self.run)
        self._billed: set[str] = set()  # names of jobs that may be running on AWS
        self._closed = False
        self._start = time.monotonic()
        # At the end of the program, or once nobody can reach a launcher that was never closed.
        self._end = weakref.finalize(self, stop_all, self._clients.sagemaker, self._billed, os.getpid())
        _say_stopped(stop_orphans(self._clients.sagemaker, name))

    @property
    def n_workers(self) -> int:
        """How many jobs may run now: what was asked for, what the quota allows, what `max_jobs` leaves."""
        return min(self._n_workers, len(self._running) + self._max_jobs - self._n_started)

    @n_workers.setter
    def n_workers(self, n_workers: int) -> None:
        self._n_workers = _positive("n_workers", n_workers)

    def clock(self) -> float:
        """Return the seconds since this launcher was made."""
        return time.monotonic() - self._start

    def submit(self, params: Mapping[str, Any], epochs: int) -> SageMakerJob:
        """Start a job. The first one waits until code and data are in S3, and prints the ceiling on spending.

        Where the account's quota is used up, the job waits for its turn, and `n_workers` is lowered.

        Raises
        ------
        RuntimeError
            If all workers are taken, `max_jobs` have been started, or the launcher is closed.
        TypeError, ValueError
            If the job would have less than one epoch, or SageMaker takes no such hyperparameter.
        SageMakerError
            If AWS refuses the job.
        """
        self._poll()
        if self._closed:
            raise RuntimeError("this launcher is closed: make a new one")
        if self._n_started >= self._max_jobs:
            raise RuntimeError(
                f"max_jobs={self._max_jobs} jobs have been started: make a new launcher for more"
            )
        if len(self._running) >= self.n_workers:
            raise RuntimeError(f"all {self.n_workers} workers are taken: wait until a job has finished")
        job = SageMakerJob(self, next(self._ids), params, _positive("epochs", job_epochs(params, epochs)))
        job._request = self.training_job(params, job.epochs, job.name)
        if self._n_started == 0:
            print(self._ceiling())
        self._n_started += 1
        self._running[job.id] = job
        try:
            self._create(job)
        except BaseException:
            job._silent = True
            self._let_go(job, JobStatus.STOPPED)
            if job.name in self._billed:  # nobody knows whether it was made; `close` asks again
                with contextlib.suppress(Exception):
                    stop_job(self._clients.sagemaker, job.name)
            raise
        return job

    def training_job(self, params: Mapping[str, Any], epochs: int, name: str) -> dict[str, Any]:
        """Return the arguments of boto3's ``create_training_job`` for a job; code and data are uploaded."""
        code, data = self._upload()
        return request.training_job(
            name=name,
            role=self._role,
            image=self._image_uri,
            program=program_name(self._code[0]),
            code=code,
            data=data,
            prefix=f"s3://{self.bucket}/{self.name}",
            region=self._clients.region,
            hyperparameters={**self._fixed, **params, "epochs": epochs},
            metric=self.metric,
            instance_type=self._instance_type,
            max_run=self._max_run,
            spot=self._spot,
            tags=self._tags,
        )

    def wait(self, jobs: Sequence[SageMakerJob], timeout: float | None = None) -> None:
        """Return at the first unread report or change of status of `jobs`, or after `timeout` seconds.

        Returns at once if a report is unread (a loop must read them, or it never rests) or a change of status
        was not yet waited for. ValueError if nothing could ever end the wait: `jobs` is empty, or each has
        finished, was waited for and read.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._poll()
        while not any(job._has_news() for job in jobs):
            if all(job._is_gone() for job in jobs):
                raise ValueError(f"there is no running job to wait for, got {list(jobs)!r}")
            if time.monotonic() >= deadline:
                return
            time.sleep(max(0.0, min(self._due(), deadline) - time.monotonic()))
            self._poll()
        for job in jobs:
            job._end_was_seen = job._is_gone()

    def close(self) -> None:
        """Stop what still runs. It may be called twice.

        Raises
        ------
        SageMakerError
            If AWS does not let a job be stopped: `max_run` ends it.
        """
        self._closed = True
        for job in list(self._running.values()):
            job._silent = True
            self._let_go(job, JobStatus.STOPPED)
        # Not the finalizer itself, which would not run a second time if a job could not be stopped now.
        stop_all(self._clients.sagemaker, self._billed, os.getpid())

    def __enter__(self) -> SageMakerLauncher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _upload(self) -> tuple[str, str | None]:
        if self._addresses is None:
            clients, bucket, prefix = self._clients, self.bucket, self.name
            ensure_bucket(clients, bucket)
            code = upload_code(clients, bucket, prefix, self._code[0], self._code[1:])
            data = None
            if self._has_mnist:
                data = upload_mnist(clients, bucket, prefix)
            elif self._data is not None:
                data = upload_folder(clients, bucket, prefix, self._data)
            self._addresses = code, data
        return self._addresses

    def _ceiling(self) -> str:
        """Say how much can be spent at most."""
        hours = self._max_jobs * self._max_run / 3600
        jobs = f"at most {self._max_jobs} jobs x {self._max_run} s"
        if self._price_per_hour is None:
            return f"{jobs} = {hours:.2f} instance-hours"
        return f"{jobs} x {self._price_per_hour:g} an hour = {hours * self._price_per_hour:.2f}"

    def _create(self, job: SageMakerJob) -> None:
        """Have SageMaker start a job, or put it among those that wait for quota."""
        self._billed.add(job.name)  # first: the answer may get lost
        try:
            self._clients.sagemaker.create_training_job(**job._request)
        except self._clients.sagemaker.exceptions.ClientError as error:
            if code_of(error) == "ResourceInUse" and was_retried(error):
                pass  # the job was made, and the answer that said so lost
            elif code_of(error) == "ResourceInUse":
                self._billed.discard(job.name)
                job._rename(f"{self.run}-{secrets.token_hex(2)}-{job.id:03d}")
                return self._create(job)
            elif code_of(error) == "ResourceLimitExceeded" and not NO_QUOTA.search(message_of(error)):
                self._billed.discard(job.name)
                return self._wait_for_quota(job, message_of(error))
            else:
                self._billed.discard(job.name)
                with explained():
                    raise
        job._created = True
        self._polling.add(job)

    def _wait_for_quota(self, job: SageMakerJob, message: str) -> None:
        n_workers = max(1, len(self._running) - len(self._waiting) - (job not in self._waiting))
        if job not in self._waiting:
            self._waiting.append(job)
        if n_workers < self._n_workers:
            lowered = f"n_workers is lowered from {self._n_workers} to {n_workers}, and {job.name} waits"
            warnings.warn(f"{lowered}. AWS said: {message}", stacklevel=4)
            self._n_workers = n_workers
        self._quota_pace.back_off(QUOTA_SECONDS[1])

    def _create_waiting(self) -> None:
        if self._waiting and self._quota_pace.is_due():
            job = self._waiting[0]
            self._create(job)
            if job._created:
                self._waiting.remove(job)

    def _poll(self) -> None:
        """Make the calls that are due, and take in what they bring."""
        if self._closed:
            return
        self._create_waiting()
        self._polling.step()
        for job in list(self._running.values()):
            if job.is_over and job._has_all_lines():
                self._let_go(job, *job._outcome())

    def _due(self) -> float:
        return min(self._polling.due, self._quota_pace.due if self._waiting else float("inf"))

    def _let_go(self, job: SageMakerJob, status: JobStatus, error: str | None = None) -> None:
        job._status, job.error = status, error
        self._polling.remove(job)
        self._running.pop(job.id, None)
        if job in self._waiting:
            self._waiting.remove(job)
        self._quota_pace.hurry()
        if job.is_over:
            self._billed.discard(job.name)

    def _stop(self, job: SageMakerJob) -> None:
        if job._created:
            with explained():
                stop_job(self._clients.sagemaker, job.name)
            self._polling.hurry()

    def _time_of(self, timestamp: float) -> float:
        """Say on this launcher's clock when something happened, given in seconds since 1970 on AWS's."""
        age = time.time() + self._skew - timestamp
        return self.clock() - max(0.0, age)


class SageMakerJob:
    """A configuration in training on SageMaker; made by `SageMakerLauncher.submit`."""

    def __init__(self, launcher: SageMakerLauncher, id: int, params: Mapping[str, Any], epochs: int) -> None:
        self.id = id
        self.params = dict(params)
        self.epochs = epochs
        self.error: str | None = None
        self.name = f"{launcher.run}-{id:03d}"  #: SageMaker's name of it
        self.description: dict[str, Any] = {}  #: what SageMaker said of its end
        self.secondary_status = ""  #: SageMaker's, such as ``"Downloading"``
        self.reader = LogReader(launcher._clients.polled_logs, self.name)
        self.log_pace = Pace(*LOG_SECONDS_OF_A_JOB)
        self._launcher = launcher
        self._submitted = launcher.clock()
        self._request: dict[str, Any] = {}
        self._created = False
        self._status = JobStatus.RUNNING
        self._failure: str | None = None  # found in what it printed
        self._over_at = float("inf")
        self._reports: list[Report] = []
        self._n_read = 0
        self._last_epochs: dict[str, int] = {}  # by stream of lines: a job that is started again counts again
        self._silent = False
        self._end_was_seen = False

    def __repr__(self) -> str:
        return f"<SageMakerJob {self.id}: {self._status.value}, {self.params}>"

    @property
    def status(self) -> JobStatus:
        """Where the job stands, as far as SageMaker was asked: a second or a few ago."""
        self._launcher._poll()
        return self._status

    @property
    def finished(self) -> bool:
        """Whether the job has ended and its lines were read."""
        self._launcher._poll()
        return self._is_gone()

    @property
    def is_over(self) -> bool:
        """Whether SageMaker has ended it; some of its lines may still be on their way."""
        return bool(self.description)

    @property
    def has_said_all(self) -> bool:
        """Whether no further report can come."""
        has_last_epoch = bool(self._reports) and self._reports[-1].epoch >= self.epochs
        return has_last_epoch or self.reader.has_last_words

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return self._launcher.clock() - self._submitted

    def new_reports(self) -> list[Report]:
        """Return the reports that were not returned before, oldest first."""
        self._launcher._poll()
        reports = self._unread()
        self._n_read = len(self._reports)
        return reports

    def stop(self) -> None:
        """Tell SageMaker to end the job. Its worker is free once that is done, which takes some seconds on AWS."""
        first = not self._silent
        self._silent = True
        if self._is_gone():
            return
        if self.is_over or not self._created:
            self._launcher._let_go(self, JobStatus.STOPPED)
        elif first:
            self._launcher._stop(self)

    def take_lines(self, lines: Sequence[Line]) -> None:
        """Make reports of the lines that name the metric."""
        for line in lines:
            metrics = parse_line(line.text)
            if self._launcher.metric in metrics and self._failure is None and not self._silent:
                self._report(line, metrics)

    def end(self, description: dict[str, Any]) -> None:
        """Take note that SageMaker has ended the job."""
        self.description = description
        self._over_at = time.monotonic()

    def _report(self, line: Line, metrics: dict[str, Any]) -> None:
        made = max(
            self._launcher._time_of(line.timestamp),
            self._reports[-1].time if self._reports else self._submitted,
        )
        try:
            report = make_report(metrics, self._launcher.metric, self._last_epochs.get(line.stream, 0), made)
        except ValueError as error:
            self._failure = f"ValueError: {error}"
            return self._launcher._stop(self)
        self._last_epochs[line.stream] = report.epoch
        if not self._reports or report.epoch > self._reports[-1].epoch:
            self._reports.append(report)

    def _has_all_lines(self) -> bool:
        status = self.description["TrainingJobStatus"]
        never_ran = status != "Completed" and "TrainingStartTime" not in self.description
        if self._silent or self._failure is not None or never_ran or self.has_said_all:
            return True
        return self.reader.at_end and time.monotonic() > self._over_at + LATE_SECONDS

    def _outcome(self) -> tuple[JobStatus, str | None]:
        status, secondary = self.description["TrainingJobStatus"], self.description.get("SecondaryStatus")
        if self._silent:
            return JobStatus.STOPPED, None
        if self._failure is not None:
            return JobStatus.FAILED, self._failure
        if status == "Failed":
            return JobStatus.FAILED, explain_failure(
                self.description.get("FailureReason", "SageMaker gave no reason")
            )
        if secondary == "MaxRuntimeExceeded":
            return JobStatus.FAILED, f"it was not done after max_run={self._launcher._max_run} s"
        if secondary == "MaxWaitTimeExceeded":
            return (
                JobStatus.FAILED,
                "no spot instance was free for long enough: try again later, or spot=False",
            )
        return (JobStatus.COMPLETED if status == "Completed" else JobStatus.STOPPED), None

    def _rename(self, name: str) -> None:
        self.name = self._request["TrainingJobName"] = name
        if "CheckpointConfig" in self._request:
            self._request = self._launcher.training_job(self.params, self.epochs, name)
        self.reader = LogReader(self._launcher._clients.polled_logs, name)

    def _unread(self) -> list[Report]:
        return [] if self._silent else self._reports[self._n_read :]

    def _is_gone(self) -> bool:
        return self.id not in self._launcher._running

    def _has_news(self) -> bool:
        return bool(self._unread()) or (self._is_gone() and not self._end_was_seen)


def _say_stopped(orphans: Sequence[str]) -> None:
    if orphans:
        print(f"stopped what an earlier run left: {', '.join(orphans)}")


def _check_fixed(fixed: Mapping[str, Any]) -> dict[str, Any]:
    if "epochs" in fixed:
        raise ValueError(f"epochs is given to each job, not in fixed, got {dict(fixed)!r}")
    return dict(fixed)


def _check_price(price: float | None) -> float | None:
    if price is not None and not price >= 0:
        raise ValueError(f"price_per_hour must be 0 or more, got {price!r}")
    return price


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return int(value)
