"""The lines that a training job printed, from CloudWatch Logs: every line once, none lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hpo_helpers.jobs.sagemaker.errors import NOT_FOUND, code_of

GROUP = "/aws/sagemaker/TrainingJobs"

#: The last thing that the container's `sagemaker-training` says of a script; what follows is its error message.
LAST_WORDS = ("Reporting training SUCCESS", "Reporting training FAILURE")


class Line(NamedTuple):
    """One line of a job's output."""

    stream: str
    timestamp: float  #: when it was printed, in seconds since 1970 on AWS's clock
    text: str


class LogReader:
    """Reads on where it stopped, one call at a time.

    A job has a stream of lines for each time it was started: a spot instance that was taken away makes a second.

    Parameters
    ----------
    logs
        A client of CloudWatch Logs.
    job_name
        The name of the training job.
    """

    def __init__(self, logs: Any, job_name: str) -> None:
        self._logs = logs
        self._job_name = job_name
        self._tokens: dict[str, str | None] = {}  # where to read on, by stream
        self._at_end: set[str] = set()
        self._must_list = True
        self.has_last_words = False

    @property
    def at_end(self) -> bool:
        """Whether everything was read that is there."""
        return not self._must_list and self._at_end == set(self._tokens)

    def look_again(self) -> None:
        """Read on in every stream, and look for new ones."""
        self._must_list = True
        self._at_end.clear()

    def step(self) -> list[Line]:
        """Make one call, and return the lines that it brought."""
        if self._must_list or not self._tokens:
            self._list_streams()
            return []
        if self.at_end:  # of what was there the last time
            self._at_end.clear()
        return self._read(next(stream for stream in self._tokens if stream not in self._at_end))

    def _list_streams(self) -> None:
        try:
            # A job is started a few times at most; a call gives 50 streams.
            listed = self._logs.describe_log_streams(
                logGroupName=GROUP, logStreamNamePrefix=f"{self._job_name}/"
            )
        except Exception as error:
            if code_of(error) not in NOT_FOUND:  # the group appears with an account's first job
                raise
            listed = {"logStreams": []}
        for stream in listed["logStreams"]:
            self._tokens.setdefault(stream["logStreamName"], None)
        self._must_list = False
        self._at_end.clear()

    def _read(self, stream: str) -> list[Line]:
        token = self._tokens[stream]
        place = {"nextToken": token} if token else {}
        page = self._logs.get_log_events(
            logGroupName=GROUP, logStreamName=stream, startFromHead=True, **place
        )
        self._tokens[stream] = page["nextForwardToken"]
        # A page may be empty and not the last one: only at the end of the stream is the token the same again.
        if page["nextForwardToken"] == token:
            self._at_end.add(stream)
        lines = [Line(stream, event["timestamp"] / 1000, event["message"]) for event in page["events"]]
        self.has_last_words |= any(words in line.text for line in lines for words in LAST_WORDS)
        return lines


def read_all(logs: Any, job_name: str) -> Iterator[Line]:
    """Yield every line that a job has printed so far, stream by stream."""
    reader = LogReader(logs, job_name)
    while not reader.at_end:
        yield from reader.step()
