"""A rehearsal as a whole: its server, its jobs, its switches, its beginning and end."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo_helpers.jobs.rehearsal.model import ServiceError, refusal
from hpo_helpers.jobs.rehearsal.search import Search
from hpo_helpers.jobs.rehearsal.server import Server
from hpo_helpers.jobs.rehearsal.tags import Tags
from hpo_helpers.jobs.rehearsal.training import TrainingJobs
from hpo_helpers.jobs.rehearsal.tuning import TuningJobs

REGION = "us-east-1"
ACCOUNT = "123456789012"  #: moto's
ROLE = f"arn:aws:iam::{ACCOUNT}:role/rehearsal"
KEY_PREFIX = "REHEARSAL"  #: how the access keys of every rehearsal begin


class Rehearsal:
    """Amazon SageMaker, S3, CloudWatch Logs, STS and IAM on this machine, until it is closed.

    Parameters
    ----------
    folder
        Where each job gets a folder, ``jobs/NAME``, in which its script runs and which is kept. Without one,
        it is a temporary folder, removed when the job has ended.

    Attributes
    ----------
    url
        Where it is served.
    environment
        The variables by which boto3 finds it. They hold a key of this rehearsal alone.
    role
        The ARN of a role for jobs; it may do everything, as nothing is checked.
    start_seconds
        How long each job stays in ``Starting``: 0.
    stop_seconds
        How long a script that is asked to stop may take before it is killed: 120, as on AWS.
    max_running_jobs
        ``CreateTrainingJob`` beyond so many running jobs answers ``ResourceLimitExceeded``; None: no limit.
    keeps_folders
        Whether what a job leaves on this machine is kept.
    calls
        Time (as `time.monotonic` counts) and name of each operation of SageMaker that was called.

    Raises
    ------
    RuntimeError
        If another one runs in this process.
    NotImplementedError
        On Windows, which cannot fork a process.

    Examples
    --------
    >>> with Rehearsal() as rehearsal:
    ...     os.environ.update(rehearsal.environment)
    ...     boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    []
    """

    _running: Rehearsal | None = None  # moto keeps its state in the process: there is room for one

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        if not hasattr(os, "fork"):
            raise NotImplementedError(
                f"a rehearsal runs scripts as Linux does, which {sys.platform} cannot: use WSL2 or Google Colab"
            )
        if Rehearsal._running is not None:
            raise RuntimeError(
                f"a rehearsal runs in this process at {Rehearsal._running.url}: close it first"
            )
        self.start_seconds = 0.0
        self.stop_seconds = 120.0
        self.max_running_jobs: int | None = None
        self.calls: list[tuple[float, str]] = []
        self.role = ROLE
        self._throttled_calls = 0
        self._throttled_every: int | None = None
        self._calls_since = 0
        self._lock = threading.Lock()
        self.keeps_folders = folder is not None
        self._owner = os.getpid()
        self._key = KEY_PREFIX + secrets.token_hex(16).upper()
        self._secret = secrets.token_hex(20)
        self._server = Server(self._key, self._answer)
        self.url = self._server.url
        self._folder = Path(tempfile.mkdtemp(prefix="rehearsal-") if folder is None else folder).resolve()
        self._begin()
        Rehearsal._running = self
        atexit.register(self.close)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which boto3 finds this rehearsal."""
        no_proxy = "no_proxy" if "no_proxy" in os.environ else "NO_PROXY"  # the former comes first
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            no_proxy: ",".join(filter(None, [os.environ.get(no_proxy), "127.0.0.1"])),
        }

    def throttle(self, calls: int = 0, every: int | None = None) -> None:
        """Answer the next `calls` calls, and then each `every`-th one, by ``ThrottlingException``."""
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1, or None for no call at all, got {every!r}")
        with self._lock:
            self._throttled_calls = calls
            self._throttled_every = every
            self._calls_since = 0

    def fail_next(self, reason: str = "InternalServerError: We encountered an internal error.") -> None:
        """Let the next training job fail with this FailureReason, before its script starts."""
        self._training.failures.append(reason)

    def close(self) -> None:
        """End every job and all that it started, and the server. It may be called twice."""
        if Rehearsal._running is not self or os.getpid() != self._owner:  # a fork has no say
            return
        for job in self._tuning.register.all():
            job.stop()
        self._training.close()
        for job in self._tuning.register.all():
            job.join()
        self._server.close()
        Rehearsal._running = None
        atexit.unregister(self.close)
        if not self.keeps_folders:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self) -> None:
        clients = self._clients("s3", "logs")
        _forget_earlier_state()
        prefix = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
        self._training = TrainingJobs(self._folder / "jobs", prefix, clients, self)
        self._tuning = TuningJobs(self._training, prefix)
        tags = Tags(self._find)
        self._operations = {
            "CreateTrainingJob": self._training.create,
            "DescribeTrainingJob": self._training.describe,
            "StopTrainingJob": self._training.stop,
            "DeleteTrainingJob": self._training.delete,
            "ListTrainingJobs": self._training.list,
            "Search": Search(self._training.register.all).search,
            "AddTags": tags.add,
            "ListTags": tags.list,
            "DeleteTags": tags.delete,
            "CreateHyperParameterTuningJob": self._tuning.create,
            "DescribeHyperParameterTuningJob": self._tuning.describe,
            "StopHyperParameterTuningJob": self._tuning.stop,
            "DeleteHyperParameterTuningJob": self._tuning.delete,
            "ListHyperParameterTuningJobs": self._tuning.list,
            "ListTrainingJobsForHyperParameterTuningJob": self._tuning.list_training_jobs,
        }

    def _find(self, arn: str) -> Any:
        """Return the job of an ARN, which ends with its kind and its name."""
        kind, _, name = arn.rpartition(":")[2].partition("/")
        jobs = {"training-job": self._training, "hyper-parameter-tuning-job": self._tuning}.get(kind)
        if jobs is None:
            raise refusal(f"the resource {arn!r}")
        return jobs.register.find(name)

    def _clients(self, *services: str) -> dict[str, Any]:
        """Return clients that no variable of this process and no file of the user can lead elsewhere."""
        import boto3
        import botocore.config
        import botocore.session

        nowhere = (None, None, os.devnull, None)  # as botocore says where a setting comes from
        settings = {"config_file": nowhere, "credentials_file": nowhere, "profile": (None, None, None, None)}
        inner = botocore.session.Session(session_vars=settings)
        session = boto3.Session(self._key, self._secret, region_name=REGION, botocore_session=inner)
        config = botocore.config.Config(
            proxies={}, max_pool_connections=50, retries={"total_max_attempts": 1}
        )
        return {name: session.client(name, endpoint_url=self.url, config=config) for name in services}

    def _answer(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        self._count(operation)
        if operation not in self._operations:
            raise refusal(f"the operation {operation}")
        return self._operations[operation](request)

    def _count(self, operation: str) -> None:
        with self._lock:
            self.calls.append((time.monotonic(), operation))
            self._calls_since += 1
            turn = self._calls_since - self._throttled_calls
            throttled = turn <= 0 or self._throttled_every is not None and turn % self._throttled_every == 0
        if throttled:
            raise ServiceError("ThrottlingException", "Rate exceeded")


def _forget_earlier_state() -> None:
    from moto.moto_api._internal.models import moto_api_backend

    moto_api_backend.reset()
