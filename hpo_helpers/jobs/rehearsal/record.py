"""What the service shows of one training job: its fields, and the steps of its status."""

from __future__ import annotations

import datetime
import math
import threading
from collections.abc import Mapping
from typing import Any

ENDED = ("Completed", "Failed", "Stopped")
#: What the service says at each step of `SecondaryStatusTransitions`.
MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
}


class Record:
    """The fields of one training job, which several threads read and write.

    Parameters
    ----------
    fields
        What was asked for, and the job's ARN.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._lock = threading.RLock()
        self._steps: list[dict[str, Any]] = []
        self._fields = {**fields, "CreationTime": now()}
        self.move_to("Starting")

    @property
    def status(self) -> str:
        """The job's TrainingJobStatus."""
        return self._fields["TrainingJobStatus"]

    def snapshot(self) -> dict[str, Any]:
        """Return all fields as they are now."""
        with self._lock:
            return {**self._fields, "SecondaryStatusTransitions": [dict(step) for step in self._steps]}

    def set(self, **fields: Any) -> None:
        """Set fields."""
        with self._lock:
            self._fields |= fields

    def move_to(self, secondary: str) -> None:
        """Begin the next step: a SecondaryStatus."""
        with self._lock:
            time = now()
            if self._steps:
                self._steps[-1]["EndTime"] = time
            self._steps.append({"Status": secondary, "StartTime": time, "StatusMessage": MESSAGES[secondary]})
            primary = "Stopped" if secondary == "MaxRuntimeExceeded" else secondary
            if primary in ENDED:
                self._steps[-1]["EndTime"] = time
            elif primary != "Stopping":
                primary = "InProgress"
            self.set(SecondaryStatus=secondary, TrainingJobStatus=primary, LastModifiedTime=time)

    def end(self, secondary: str) -> None:
        """Begin the last step. What has trained is billed, in whole seconds."""
        with self._lock:
            if "TrainingStartTime" in self._fields:
                time = now()
                seconds = math.ceil((time - self._fields["TrainingStartTime"]).total_seconds())
                self.set(TrainingEndTime=time, TrainingTimeInSeconds=seconds, BillableTimeInSeconds=seconds)
            self.move_to(secondary)


def now() -> datetime.datetime:
    """Return the time, which AWS tells in UTC."""
    return datetime.datetime.now(datetime.UTC)
