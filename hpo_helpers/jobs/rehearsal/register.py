"""The jobs of one kind, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hpo_helpers.jobs.rehearsal.model import ServiceError, invalid


class Register:
    """The jobs of one kind, by name.

    Parameters
    ----------
    kind
        As messages and ARNs have it: ``"training-job"``.
    arn_prefix
        What every ARN begins with, up to the account.
    """

    def __init__(self, kind: str, arn_prefix: str) -> None:
        self._kind = kind.replace("-", " ")
        self._arn_prefix = f"{arn_prefix}:{kind}"
        self._jobs: dict[str, Any] = {}
        self._lock = threading.Lock()

    def all(self) -> list[Any]:
        """Return every job, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def find(self, name: str) -> Any:
        """Return the job of a name, or raise ServiceError."""
        with self._lock:
            if name not in self._jobs:
                raise invalid("Requested resource not found.")
            return self._jobs[name]

    def find_running(self, name: str) -> Any:
        """Return the job of a name that is to be stopped, or raise ServiceError."""
        job = self.find(name)
        if job.ended:
            raise invalid(f"The request was rejected because the {self._kind} is in status {job.status}.")
        return job

    def add(self, name: str, make: Callable[[str], Any]) -> str:
        """Make a job, given its ARN, and return the ARN; raise ServiceError if the name is taken."""
        arn = f"{self._arn_prefix}/{name}"
        with self._lock:
            if name in self._jobs:
                raise ServiceError(
                    "ResourceInUse",
                    f"The name of a {self._kind} must be unique within an AWS account and region, and one "
                    f"with this name already exists ({arn})",
                )
            self._jobs[name] = make(arn)
        return arn

    def remove(self, name: str) -> None:
        """Forget a job that has ended; raise ServiceError if it has not."""
        job = self.find(name)
        if not job.ended:
            raise ServiceError(
                "ResourceInUse",
                f"The {self._kind} {name!r} is in status {job.status}: stop it before it is deleted",
            )
        with self._lock:
            self._jobs.pop(name, None)
