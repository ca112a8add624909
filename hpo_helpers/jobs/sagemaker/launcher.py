"""The launcher of Amazon SageMaker, real or rehearsed."""

from __future__ import annotations

import collections
import functools
import os
import re
import secrets
import time
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from hpo_helpers.jobs import Job, JobStatus, Launcher, check_fixed, make_report, positive
from hpo_helpers.jobs.log_metrics import parse_line
from hpo_helpers.jobs.sagemaker import orphans, request, upload
from hpo_helpers.jobs.sagemaker.setup import connect, explained
from hpo_helpers.jobs.sagemaker.watch import Places, read_lines

#: Seconds between two looks at a job: SageMaker bears a few a second.
ASK_SECONDS = 0.3
#: Seconds after the end of a job for which its lines may be on their way.
LATE_SECONDS = 10.0
#: Seconds until a job without quota is tried again, if none ends before.
QUOTA_SECONDS = 30.0
QUOTA_IS_USED_UP = r"\(ResourceLimitExceeded\)(?!.* is 0 Instances)"


class SageMakerLauncher(Launcher):
    """Train in jobs of Amazon SageMaker, one instance each.

    The jobs run a script in AWS's MXNet image. Each line with the tuned metric is a
    report, of all that the line has: ``epoch=3 valid_error=0.0520``.

    What still runs is stopped when the ``with`` block is left, by whatever way, and
    when the program ends. What a killed one left, the next launcher of its name stops.

    Parameters
    ----------
    script
        A Python script that takes ``--learning_rate 0.1``; by default ``train_mnist.py``.
    n_workers
        How many jobs may run at a time. A lower quota lowers it, with a warning.
    role
        The ARN of the role as which jobs read the data and write their results.
    dependencies
        Files that the script imports or reads, to lie beside it.
    fixed
        Hyperparameters of every job; a job's own of the same name comes first.
    metric
        The name of the metric that is tuned.
    data
        A folder, in ``SM_CHANNEL_TRAINING``, less what begins with a dot. By default,
        the package's script gets 5,000 images of MNIST.
    instance_type
        The kind of machine, as the price list names it.
    image_uri
        The container, of the same region; by default the last one with MXNet.
    bucket
        Of S3; by default ``sagemaker-hpo-REGION-ACCOUNT``, made if missing.
    max_run
        Seconds of running after which a job has failed. It may take 120 more to save
        what it has.
    max_jobs
        How many jobs may be started: then `n_workers` is 0, which ends `tune`.
    price_per_hour
        Price of an instance, for the printed ceiling on spending.
    name
        How the names of jobs begin. Give every notebook its own.
    run
        How they begin instead, where a notebook makes other jobs in the same run.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError
        If boto3 or a file is missing, or an argument makes no sense.
    SageMakerError
        If AWS refuses: the message says what to grant or to set.
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
        max_run: int = 600,
        max_jobs: int = 50,
        price_per_hour: float | None = None,
        name: str = "hpo-helpers",
        run: str | None = None,
    ) -> None:
        super().__init__(metric)
        self.name = request.checked("name", name)
        #: How its jobs' names begin.
        self.run = f"{request.checked('name', run or name)}-{secrets.token_hex(4)}"
        self._n_workers = positive("n_workers", n_workers)
        role = request.checked("role", role)
        files = upload.code_files(script, dependencies, data)
        self._fixed = check_fixed(fixed)
        self._max_jobs = positive("max_jobs", max_jobs)
        limits = {"MaxRuntimeInSeconds": positive("max_run", max_run)}
        self._ceiling = request.ceiling(max_jobs, max_run, price_per_hour)
        self._clients = connect()
        self.bucket = bucket or self._clients.bucket
        folder = f"{name}/{orphans.owner()}/{self.run}"
        target = self._clients, self.bucket, folder
        self._upload = functools.cache(lambda: upload.upload(*target, files, data))
        image = image_uri or request.image_uri(self._clients.region, instance_type)
        machine = {"InstanceType": instance_type, "InstanceCount": 1, "VolumeSizeInGB": 30}
        self._same = {  # for every job
            "RoleArn": role,
            "AlgorithmSpecification": request.algorithm(image, metric),
            "OutputDataConfig": {"S3OutputPath": f"s3://{self.bucket}/{folder}/output"},
            "ResourceConfig": machine,
            "StoppingCondition": limits,
            "Tags": orphans.tags_of(name, self.run),
        }
        self._n_started = 0
        self._turn_at = 0.0  # when to look at the next job
        self._billed: set[str] = set()  # jobs that may be running
        weakref.finalize(self, orphans.stop_all, self._clients.sagemaker, self._billed)
        if stopped := orphans.stop_orphans(self._clients.sagemaker, name):
            print(f"stopped what an earlier run left: {', '.join(stopped)}")

    @property
    def n_workers(self) -> int:
        """How many jobs may run now, given the quota and `max_jobs`."""
        n_left = self._max_jobs - self._n_started
        return min(self._n_workers, len(self._running) + n_left)

    def submit(self, params: Mapping[str, Any], epochs: int) -> SageMakerJob:
        """Start a job. The first one uploads, and prints the ceiling on spending.

        If the quota is used up, it waits for its turn, and `n_workers` is lowered.

        RuntimeError if no worker is free, `max_jobs` were started, or it is closed;
        TypeError, ValueError or SageMakerError if no job can be like that.
        """
        if self._n_started >= self._max_jobs:
            limit = f"max_jobs={self._max_jobs}"
            raise RuntimeError(f"{limit} were started: make a new launcher")
        self._check_free()
        job = SageMakerJob(self, next(self._ids), params, epochs)
        job._request = self.training_job(params, job.epochs, job.name)
        if self._n_started == 0:
            print(self._ceiling)
        self._n_started += 1
        self._running[job.id] = job
        try:
            self._create(job)
        except BaseException:
            self._let_go(job, JobStatus.STOPPED)
            raise
        return job

    def training_job(self, params: Mapping[str, Any], epochs: int, name: str) -> dict:
        """Upload what it needs; return the arguments of ``create_training_job``."""
        script, code, data = self._upload()
        given = {**self._fixed, **params, "epochs": epochs}
        given = request.script_mode(script, code, given)
        job = {"TrainingJobName": name, "HyperParameters": given, **self._same}
        if data is not None:
            job["InputDataConfig"] = request.channel(data)
        return job

    def close(self) -> None:
        """Stop what still runs; SageMakerError if AWS forbids it. May be called twice."""
        self._closed = True
        for job in list(self._running.values()):
            job._silent = True
            self._let_go(job, JobStatus.STOPPED)
        orphans.stop_all(self._clients.sagemaker, self._billed)

    @explained()
    def _create(self, job):
        """Have SageMaker start a job, or let it wait for quota."""
        sagemaker = self._clients.sagemaker
        self._billed.add(job.name)  # first: the answer may get lost
        try:
            sagemaker.create_training_job(**job._request)
        except sagemaker.exceptions.ClientError as error:
            was_retried = error.response["ResponseMetadata"].get("RetryAttempts")
            if not was_retried:
                self._billed.discard(job.name)
            if re.search(QUOTA_IS_USED_UP, str(error)):
                return self._wait_for_quota(job, error)
            if not was_retried or "(ResourceInUse)" not in str(error):
                raise
            # It was made, and the answer that said so got lost.
        job._is_created = True

    def _wait_for_quota(self, job, error):
        job._due = time.monotonic() + QUOTA_SECONDS
        n_workers = max(1, sum(each._is_created for each in self._running.values()))
        if n_workers < self._n_workers:
            lowered = f"n_workers is lowered from {self._n_workers} to {n_workers}"
            warnings.warn(f"{lowered}, and {job.name} waits: {error}", stacklevel=5)
            self._n_workers = n_workers

    def _poll(self, timeout=0):
        """Nap, and look at the job whose turn it is."""
        if self._closed:
            return
        time.sleep(ASK_SECONDS if timeout is None else min(ASK_SECONDS, timeout))
        now = time.monotonic()
        job = min(self._running.values(), key=lambda job: job._due, default=None)
        if job is not None and now >= max(job._due, self._turn_at):
            self._turn_at = now + ASK_SECONDS
            job._ask() if job._is_created else self._create(job)

    def _let_go(self, job, status, error=None):
        job._status, job.error = status, error
        self._running.pop(job.id, None)
        if job.description:
            self._billed.discard(job.name)
        for waiting in self._running.values():
            waiting._due = 0.0


class SageMakerJob(Job):
    """A configuration in training."""

    def __init__(self, launcher: SageMakerLauncher, *job: Any) -> None:
        super().__init__(launcher, *job)
        self.name = f"{launcher.run}-{self.id:03d}"  #: SageMaker's name of it
        self.description: dict[str, Any] = {}  #: what SageMaker said of its end
        self._clients = launcher._clients
        self._metric = launcher.metric
        self._request: dict[str, Any] = {}
        self._is_created = False
        self._due = self._over_at = 0.0
        self._places: Places = {}
        self._epoch = 0  # of its last report
        self._time = launcher.clock()  # of its last report, at first of its start
        self._failure: str | None = None  # in what it printed
        self._output: collections.deque[str] = collections.deque(maxlen=10)  # its last lines

    def stop(self) -> None:
        """Tell SageMaker to end the job; its worker is free once it has."""
        is_first, self._silent = not self._silent, True
        if not self._is_created:
            self._launcher._let_go(self, JobStatus.STOPPED)
        elif is_first and not self._is_gone():
            orphans.stop_job(self._clients.sagemaker, self.name)

    @explained()
    def _ask(self):
        """Take in what is new: its lines last, as none follows its end."""
        self._due = time.monotonic()
        sagemaker, logs = self._clients.sagemaker, self._clients.logs
        found = sagemaker.describe_training_job(TrainingJobName=self.name)
        for seconds, line in read_lines(logs, self.name, self._places):
            self._output.append(line[-400:])  # of a progress bar, the end
            metrics = parse_line(line)
            if self._metric in metrics and not (self._failure or self._silent):
                self._report(seconds, metrics)
        if found["TrainingJobStatus"] not in ("Completed", "Failed", "Stopped"):
            return
        self.description, self._over_at = found, self._over_at or self._due
        if not self._may_say_more():
            self._launcher._let_go(self, *self._outcome())

    def _report(self, seconds, metrics):
        age = max(0.0, time.time() - seconds)
        self._time = max(self._time, self._launcher.clock() - age)
        try:
            report = make_report(metrics, self._metric, self._epoch, self._time)
        except ValueError as error:
            self._failure = f"ValueError: {error}"
            orphans.stop_job(self._clients.sagemaker, self.name)
            return
        self._reports.append(report)
        self._epoch = report.epoch

    def _may_say_more(self):
        """Whether its last lines may be on their way."""
        if self._silent or self._failure or self._epoch >= self.epochs:
            return False
        ended_well = self.description["TrainingJobStatus"] == "Completed"
        return ended_well and time.monotonic() < self._over_at + LATE_SECONDS

    def _outcome(self):
        if self._silent:
            return JobStatus.STOPPED, None
        ended = self.description
        error = self._failure or ended.get("FailureReason")
        if ended["SecondaryStatus"].startswith("Max"):  # too long
            error = f"SageMaker has ended it: {ended['SecondaryStatus']}"
        status = JobStatus(ended["TrainingJobStatus"].lower())
        if error and self._output:
            error = "\n".join([error, "Last lines of its output:", *self._output])
        return (JobStatus.FAILED if error else status), error
