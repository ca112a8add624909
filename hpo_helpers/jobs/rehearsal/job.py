"""What training jobs and tuning jobs have in common: fields that are shown, a thread, an end."""

import datetime
import threading
from typing import Any

from hpo_helpers.jobs.rehearsal.requests import Fields

ENDED = ("Completed", "Failed", "Stopped")


class Job:
    """A job, whose `live` runs in a thread of its own."""

    kind: str  #: how operations and fields name what it is, as ``"TrainingJob"``

    def __init__(self, request: Fields, arn: str) -> None:
        self.arn = arn
        self.name: str = request[f"{self.kind}Name"]
        # What the service shows. Threads read it, so a change makes a new dict.
        self.fields = {"Tags": [], **request, f"{self.kind}Arn": arn, "CreationTime": now()}
        self.stopping = threading.Event()
        self.lock = threading.RLock()
        self.thread = threading.Thread(target=self.live, name=arn, daemon=True)

    @property
    def status(self) -> str:
        """How far it is, in the service's words."""
        return self.fields[f"{self.kind}Status"]

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in ENDED

    def stop(self) -> None:
        """Ask it to end."""
        with self.lock:
            if not self.ended and not self.stopping.is_set():
                self.move_to("Stopping")
                self.stopping.set()

    kill = stop  #: at once

    def move_to(self, status: str, **fields: Any) -> None:
        """Set the status, and other fields."""
        new = {f"{self.kind}Status": status, "LastModifiedTime": now()}
        with self.lock:
            self.fields = {**self.fields, **new, **fields}

    def record(self) -> Fields:
        """Return what is shown now; boto3 takes what belongs into each answer."""
        return self.fields


def now() -> datetime.datetime:
    """Return the time, which AWS tells in UTC."""
    return datetime.datetime.now(datetime.UTC)
