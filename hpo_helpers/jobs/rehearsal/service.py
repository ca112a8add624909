"""A rehearsal as a whole: its server, its jobs, its switches, its beginning and end."""

from __future__ import annotations

import atexit
import itertools
import os
import secrets
import sys
import time

from hpo_helpers.jobs.rehearsal.operations import ACCOUNT, REGION, Operations
from hpo_helpers.jobs.rehearsal.requests import ServiceError
from hpo_helpers.jobs.rehearsal.server import HOST, serve

ROLE = f"arn:aws:iam::{ACCOUNT}:role/rehearsal"


class Rehearsal:
    """Amazon SageMaker, S3, CloudWatch Logs, STS and IAM on this machine, until it is closed.

    Attributes
    ----------
    environment
        The variables by which boto3 finds it. They hold a key of this rehearsal alone.
    role
        The ARN of a role for jobs; it may do everything, as nothing is checked.
    start_seconds
        How long each job stays in ``Starting``: 0. On AWS it takes minutes.
    stop_seconds
        How long a script that is asked to stop may take before it is killed: 120, as on AWS.
    max_running_jobs
        ``CreateTrainingJob`` beyond so many answers ``ResourceLimitExceeded``; None: no limit.
    calls
        Time (as `time.monotonic` counts) and name of each operation of SageMaker that was called.
    """

    running: Rehearsal | None = None  # moto keeps its state in the process: there is room for one

    def __init__(self) -> None:
        if not hasattr(os, "fork"):
            raise NotImplementedError(f"{sys.platform} has no os.fork: use WSL2 or Google Colab")
        if Rehearsal.running is not None:
            raise RuntimeError(f"a rehearsal runs at {Rehearsal.running.url}: close it first")
        self.role, self.start_seconds, self.stop_seconds = ROLE, 0.0, 120.0
        self.max_running_jobs: int | None = None
        self.calls: list[tuple[float, str]] = []
        self.failures: list[str] = []
        self._throttled = iter(())
        self._owner = os.getpid()
        self._key = "REHEARSAL" + secrets.token_hex(16).upper()
        self._server = serve(self._key, self._answer, self._streams)
        self.url = f"http://{HOST}:{self._server.server_port}"
        self.s3, self.logs = self._client("s3"), self._client("logs")
        self._operations = Operations(self)
        Rehearsal.running = self
        atexit.register(self.close)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which boto3 finds this rehearsal."""
        no_proxy = "no_proxy" if "no_proxy" in os.environ else "NO_PROXY"  # the former comes first
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            no_proxy: ",".join(filter(None, [os.environ.get(no_proxy), HOST])),
        }

    def throttle(self, calls: int = 0, every: int | None = None) -> None:
        """Answer the next `calls` calls, then each `every`-th, by ``ThrottlingException``."""
        later = itertools.cycle([False] * (every - 1) + [True]) if every else ()
        self._throttled = itertools.chain([True] * calls, later)

    def fail_next(self, reason: str = "InternalServerError: We encountered an error.") -> None:
        """Let the next training job fail with this FailureReason, before its script starts."""
        self.failures.append(reason)

    def close(self) -> None:
        """End every job and all that it started, and the server. It may be called twice."""
        if Rehearsal.running is self and os.getpid() == self._owner:  # a fork has no say
            self._operations.close()
            self._server.shutdown()
            self._server.server_close()
            Rehearsal.running = None
            atexit.unregister(self.close)

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _answer(self, operation, request):
        self.calls.append((time.monotonic(), operation))
        if next(self._throttled, False):
            raise ServiceError("Rate exceeded", "ThrottlingException")
        return self._operations.answer(operation, request)

    def _streams(self, **place):
        """Return the names of streams of the jobs' lines."""
        try:
            pages = self.logs.get_paginator("describe_log_streams").paginate(**place)
            return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        except self.logs.exceptions.ClientError as error:
            answer = error.response["Error"]
            raise ServiceError(answer["Message"], answer["Code"]) from error

    def _client(self, service):
        """Return a client for the jobs, which no variable leads elsewhere."""
        import boto3
        from botocore.config import Config

        session = boto3.Session(self._key, self._key, region_name=REGION)
        config = Config(proxies={}, max_pool_connections=50)
        return session.client(service, endpoint_url=self.url, config=config)
