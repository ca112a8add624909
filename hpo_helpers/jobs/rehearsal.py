"""SageMaker's API served on this machine, really running the training script, for those with no account.

moto serves S3, CloudWatch Logs, STS and IAM; what begins with ``SageMaker.`` is answered here, on the same
port of 127.0.0.1. Training jobs and tuning jobs (random and grid) run their script by this Python. There is
no container, no price, no capacity that runs out, and no permission is checked; what Amazon SageMaker does
and the rehearsal does not is refused by an error that names it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo_helpers.jobs._rehearsal_model import ServiceError, refusal
from hpo_helpers.jobs._rehearsal_search import Search
from hpo_helpers.jobs._rehearsal_server import Server
from hpo_helpers.jobs._rehearsal_tags import Tags
from hpo_helpers.jobs._rehearsal_training import TrainingJobs
from hpo_helpers.jobs._rehearsal_tuning import TuningJobs

REGION = "us-east-1"
ACCOUNT = "123456789012"  #: moto's
ROLE = f"arn:aws:iam::{ACCOUNT}:role/rehearsal"
REHEARSAL_LINE = "rehearsal on this machine: nothing is billed"
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

    Examples
    --------
    >>> with Rehearsal() as rehearsal:
    ...     os.environ.update(rehearsal.environment)
    ...     boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    []
    """

    _running: Rehearsal | None = None  # moto keeps its state in the process: there is room for one

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
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


class Place:
    """Where boto3 leads: to AWS, or to a rehearsal. Printed, it is one line without any credentials.

    Attributes
    ----------
    is_rehearsal
        Whether it is a rehearsal.
    rehearsal
        The rehearsal that `connect` has started, else None.
    role
        The ARN of a role for the jobs of a rehearsal; None on AWS, where the reader names one.
    """

    def __init__(self, description: str, is_rehearsal: bool, rehearsal: Rehearsal | None = None) -> None:
        self.is_rehearsal = is_rehearsal
        self.rehearsal = rehearsal
        self.role = ROLE if is_rehearsal else None
        self._description = description
        self._replaced: dict[str, str | None] = {}
        if rehearsal is not None:
            self._lead(rehearsal.environment)

    def close(self) -> None:
        """End the rehearsal that `connect` has started, and let boto3 find what it found before."""
        if self.rehearsal is None:
            return
        self.rehearsal.close()
        for name, text in self._replaced.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
        self._replaced.clear()
        _forget_credentials()

    def __str__(self) -> str:
        return self._description

    __repr__ = __str__

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lead(self, environment: Mapping[str, str]) -> None:
        self._replaced = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        _forget_credentials()


def connect() -> Place:
    """Use AWS if boto3 finds credentials, else start a rehearsal and lead boto3 to it.

    The variables of a rehearsal are set in `os.environ`, until the returned object is closed. Called again,
    it returns what it returned before.

    Raises
    ------
    RuntimeError
        If there are credentials, but no region, or AWS does not accept them.
    """
    place = _connected.get("place")
    if place is not None and place.rehearsal is Rehearsal._running is not None:
        return place
    if os.environ.get("AWS_ACCESS_KEY_ID", "").startswith(KEY_PREFIX):  # of the process that started this one
        return Place(REHEARSAL_LINE, is_rehearsal=True)
    session = _aws_session()
    if session is not None:
        return Place(_describe_aws(session), is_rehearsal=False)
    _connected["place"] = Place(REHEARSAL_LINE, is_rehearsal=True, rehearsal=Rehearsal())
    return _connected["place"]


_connected: dict[str, Place] = {}


def _aws_session() -> Any:
    """Return a session with credentials, or None.

    botocore asks the metadata service, which machines of AWS have, last of all: once or twice, a second each.
    """
    import boto3

    session = boto3.Session()
    return session if session.get_credentials() else None


def _describe_aws(session: Any) -> str:
    import botocore.config
    import botocore.exceptions

    if session.region_name is None:
        raise RuntimeError(
            "boto3 found credentials but no region: set AWS_DEFAULT_REGION, for example to us-east-1"
        )
    config = botocore.config.Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
    try:
        account = session.client("sts", config=config).get_caller_identity()["Account"]
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise RuntimeError(
            "boto3 found credentials, but AWS cannot be reached or does not accept them: renew them, or "
            f"remove them to rehearse on this machine ({type(error).__name__}: {error})"
        ) from error
    return f"on AWS, account {account}, region {session.region_name}: jobs cost money"


def _forget_credentials() -> None:
    """Let ``boto3.client`` read the environment anew; its default session keeps what it has read."""
    import boto3

    boto3.setup_default_session()


def _forget_earlier_state() -> None:
    from moto.moto_api._internal.models import moto_api_backend

    moto_api_backend.reset()
