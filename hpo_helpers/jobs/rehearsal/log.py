"""A job's output: line by line into CloudWatch Logs, and its metrics by the job's own regular expressions."""

from __future__ import annotations

import contextlib
import datetime
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

GROUP = "/aws/sagemaker/TrainingJobs"
LONGEST_EVENT = 60_000  #: characters of one event; the service's limit is 256 KiB
MOST_EVENTS = 1000
#: A line that names an exception, which is where the toolkit begins to quote what went wrong.
ERROR = re.compile(r"\b(?:[A-Z]\w*(?:Error|Exception)|SystemExit|KeyboardInterrupt)\b")
MOST_ERROR_LINES = 20


class JobLog:
    """What one job prints.

    Parameters
    ----------
    logs
        A client of CloudWatch Logs.
    name
        The job's name. Its log stream is ``name/algo-1-`` and a time in seconds.
    metric_definitions
        Name and Regex of each metric, as in the request. The first group of the expression is the value.
    """

    def __init__(self, logs: Any, name: str, metric_definitions: Sequence[Mapping[str, str]]) -> None:
        self._logs = logs
        self._name = name
        self._metrics = [(metric["Name"], re.compile(metric["Regex"])) for metric in metric_definitions]
        self._rest = b""
        self._error_lines: list[str] = []
        self._values: dict[str, list[float]] = {}
        self._times: dict[str, datetime.datetime] = {}

    def open(self) -> None:
        """Make the log stream."""
        with contextlib.suppress(self._logs.exceptions.ResourceAlreadyExistsException):
            self._logs.create_log_group(logGroupName=GROUP)
        self._stream = self._create_stream(int(time.time()))

    def write(self, output: bytes) -> None:
        """Take in what was read from the script; a line counts once it is whole, or very long."""
        *lines, self._rest = (self._rest + output).split(b"\n")
        if len(self._rest) > LONGEST_EVENT:
            lines, self._rest = [*lines, self._rest], b""
        self._take(lines)

    def close(self) -> None:
        """Take in the last line, which need not have an end."""
        self._take([self._rest])
        self._rest = b""

    def final_metrics(self) -> list[dict[str, Any]]:
        """Return the last value of each metric that was printed, as `FinalMetricDataList` has them."""
        return [
            {"MetricName": name, "Value": values[-1], "Timestamp": self._times[name]}
            for name, values in list(self._values.items())
        ]

    def values(self, metric: str) -> list[float]:
        """Return every value of a metric that was printed, oldest first."""
        return list(self._values.get(metric, []))

    def error(self) -> str:
        """Return the toolkit's ErrorMessage: lines from the first that names an exception, each once."""
        return "\n ".join(dict.fromkeys(line.strip(" :") for line in self._error_lines)).strip()

    def _create_stream(self, second: int) -> str:
        stream = f"{self._name}/algo-1-{second}"
        try:
            self._logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
        except self._logs.exceptions.ResourceAlreadyExistsException:  # of a deleted job of the same name
            return self._create_stream(second + 1)
        return stream

    def _take(self, lines: Sequence[bytes]) -> None:
        texts = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
        now = time.time()
        for text in texts:
            self._read_metrics(text, now)
            if (self._error_lines or ERROR.search(text)) and len(self._error_lines) < MOST_ERROR_LINES:
                self._error_lines.append(text)
        events = [{"timestamp": int(now * 1000), "message": part} for text in texts for part in _parts(text)]
        for start in range(0, len(events), MOST_EVENTS):
            self._put(events[start : start + MOST_EVENTS])

    def _put(self, events: list[dict[str, Any]]) -> None:
        with contextlib.suppress(self._logs.exceptions.ResourceNotFoundException):  # somebody has cleaned up
            self._logs.put_log_events(logGroupName=GROUP, logStreamName=self._stream, logEvents=events)

    def _read_metrics(self, text: str, now: float) -> None:
        time_read = datetime.datetime.fromtimestamp(now, datetime.UTC)
        for name, expression in self._metrics:
            found = expression.search(text)
            with contextlib.suppress(ValueError, IndexError, TypeError):  # no number, no group, an unused one
                if found and math.isfinite(value := float(found[1])):
                    self._times[name] = time_read
                    self._values.setdefault(name, []).append(value)


def _parts(text: str) -> Iterator[str]:
    for start in range(0, len(text), LONGEST_EVENT):  # an event must not be empty
        yield text[start : start + LONGEST_EVENT]
