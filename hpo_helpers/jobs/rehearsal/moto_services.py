"""Which requests moto answers as AWS does; what it would pass over in silence is refused here."""

import re
from collections.abc import Callable
from urllib.parse import parse_qs

from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError, refusal

#: The fields that moto honours, of each operation of CloudWatch Logs.
PLACE = "logGroupName logStreamName"
LOGS = {
    "CreateLogGroup": "logGroupName tags",
    "CreateLogStream": PLACE,
    "DeleteLogGroup": "logGroupName",
    "DeleteLogStream": PLACE,
    "PutLogEvents": f"{PLACE} logEvents",
    "DescribeLogGroups": "logGroupNamePrefix limit nextToken",
    "DescribeLogStreams": "logGroupName logStreamNamePrefix orderBy descending limit nextToken",
    "GetLogEvents": f"{PLACE} startTime endTime limit startFromHead unmask nextToken",
    "FilterLogEvents": """logGroupName logStreamNames startTime endTime filterPattern limit interleaved
        unmask nextToken""",
}
#: What moto passes over of S3's parameters and headers.
PASSED_OVER = re.compile("max-buckets|x-amz-(mfa|(if-match|object-lock|server-side-encryption-customer)-.*)")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
WORDS = re.compile(r'([A-Za-z]\w*( \w+)*|"[^"]*")?')  #: the filter patterns that moto knows


def check_s3(environ: Fields) -> None:
    """Raise ServiceError at what moto would pass over."""
    headers = [name[5:].lower().replace("_", "-") for name in environ if name.startswith("HTTP_X_AMZ_")]
    query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    for name in filter(PASSED_OVER.fullmatch, [*query, *headers]):
        raise refusal(f"{name!r} in a request to S3", "NotImplemented")
    bucket, _, key = environ["PATH_INFO"].strip("/").partition("/")
    if environ["REQUEST_METHOD"] == "PUT" and not (key or query or BUCKET.fullmatch(bucket)):
        raise ServiceError("The specified bucket is not valid.", "InvalidBucketName")


def corrected(operation: str, request: Fields, streams: Callable[..., list[str]]) -> Fields:
    """Return a request to CloudWatch Logs that moto answers rightly, or raise ServiceError.

    `streams` is called with ``logGroupName`` and ``logStreamNamePrefix``, and returns names.
    """
    if operation == "FilterLogEvents":
        request = _of_streams(request, streams)
    for name in set(request) - set(LOGS.get(operation, "").split()):
        raise refusal(f"{operation}.{name} (got {request[name]!r})", "InvalidParameterException")
    if not WORDS.fullmatch(pattern := request.get("filterPattern", "")):
        raise refusal(f"filterPattern={pattern!r}, only words or one phrase", "InvalidParameterException")
    if operation == "GetLogEvents" and "endTime" in request:
        request["endTime"] = request["endTime"] - 1 or -1  # moto includes it, and takes 0 for none
    return request


def _of_streams(request, streams):
    """Name the streams by their whole names, as moto drops the beginning of names."""
    place, names = {"logGroupName": request.get("logGroupName", "")}, request.get("logStreamNames", [])
    if any(name not in streams(**place, logStreamNamePrefix=name) for name in names):
        raise ServiceError("The specified log stream does not exist.", "ResourceNotFoundException")
    if not names and (prefix := request.pop("logStreamNamePrefix", None)):
        names = streams(**place, logStreamNamePrefix=prefix) or [prefix]
    # AWS has interleaved them since 2019, whatever it is asked for.
    return request | {"interleaved": True} | ({"logStreamNames": names} if names else {})
