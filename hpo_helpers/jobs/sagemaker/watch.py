"""What SageMaker knows of training jobs, and the lines that they print."""

import re
from collections.abc import Iterator
from typing import Any

Places = dict[str, dict[str, str]]  #: where to read on, by stream of lines

GROUP = "/aws/sagemaker/TrainingJobs"
STREAMS = "describe_log_streams", "logStreams[].logStreamName"


def listed(client: Any, operation: str, path: str, **where: Any) -> list[Any]:
    """Return what a JMESPath finds in all pages of a list, if there is any."""
    pages = client.get_paginator(operation).paginate(**where)
    try:
        return [entry for entry in pages.search(path) if entry is not None]
    except client.exceptions.ClientError as error:
        if re.search("NotFound|NoSuchBucket", str(error)):
            return []
        raise


def search(sagemaker: Any, operator: str, kind: str = "TrainingJob", **values: str) -> list[dict[str, Any]]:
    """Return the jobs of a kind whose properties stand so to these values."""
    filters = [{"Name": name, "Operator": operator, "Value": value} for name, value in values.items()]
    where = {"Resource": kind, "MaxResults": 100, "SearchExpression": {"Filters": filters}}
    return listed(sagemaker, "search", f"Results[].{kind}", **where)


def read_lines(logs: Any, job: str, places: Places) -> Iterator[tuple[float, str]]:
    """Yield the new lines of a job, each once: seconds since 1970, text.

    `places` is empty at first, and kept up to date.
    """
    streams = {"logGroupName": GROUP, "logStreamNamePrefix": f"{job}/"}
    for stream in listed(logs, *STREAMS, **streams):
        for event in _read_stream(logs, stream, places):
            yield event["timestamp"] / 1000, event["message"]


def _read_stream(logs, stream, places):
    name, place = {"logGroupName": GROUP, "logStreamName": stream}, None
    # A page may be empty and not the last: only at the end the token stays the same.
    while place != places.get(stream, {}):
        place = places.get(stream, {})
        page = logs.get_log_events(**name, startFromHead=True, **place)
        places[stream] = {"nextToken": page["nextForwardToken"]}
        yield from page["events"]
