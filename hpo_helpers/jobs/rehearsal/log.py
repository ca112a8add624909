"""A job's output: line by line into CloudWatch Logs, and its metrics by regular expressions."""

import contextlib
import math
import re
import time
from typing import Any

GROUP = "/aws/sagemaker/TrainingJobs"
#: A line that names an exception, with which the toolkit begins to quote what went wrong.
ERROR = re.compile(r"\b(?:[A-Z]\w*(?:Error|Exception)|SystemExit|KeyboardInterrupt)\b")


class JobLog:
    """What one job prints; `values` are those of each metric, oldest first."""

    def __init__(self, logs: Any, job_name: str, metrics: list[dict[str, str]]) -> None:
        self.values: dict[str, list[float]] = {}
        self._logs = logs
        stream = f"{job_name}/algo-1-{time.time_ns()}"
        self._place = {"logGroupName": GROUP, "logStreamName": stream}
        self._metrics = metrics
        self._rest = b""
        self._error_lines: list[str] = []

    def open(self) -> None:
        """Make the log stream."""
        with contextlib.suppress(self._logs.exceptions.ResourceAlreadyExistsException):
            self._logs.create_log_group(logGroupName=GROUP)
        self._logs.create_log_stream(**self._place)

    def write(self, output: bytes) -> None:
        """Take in what was read from the script; a line counts once it is whole."""
        *lines, self._rest = (self._rest + output).split(b"\n")
        texts = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
        for text in texts:
            self._read(text)
        milliseconds = int(time.time() * 1000)
        printed = [text.replace("\r", "#015") for text in texts if text]  # as SageMaker writes it
        events = [{"timestamp": milliseconds, "message": text} for text in printed]
        with contextlib.suppress(self._logs.exceptions.ResourceNotFoundException):  # deleted
            if events:
                self._logs.put_log_events(**self._place, logEvents=events)

    def error(self) -> str:
        """Return the toolkit's ErrorMessage: lines from the first that names an exception."""
        lines = dict.fromkeys(line.strip(" :") for line in self._error_lines)
        return "\n ".join(lines).strip()

    def _read(self, line):
        if self._error_lines or ERROR.search(line):
            self._error_lines = [*self._error_lines, line][:20]
        for metric in self._metrics:
            found = re.search(metric["Regex"], line)
            with contextlib.suppress(ValueError, TypeError):  # no number, or no group
                if found and math.isfinite(value := float(found[1])):
                    self.values.setdefault(metric["Name"], []).append(value)
