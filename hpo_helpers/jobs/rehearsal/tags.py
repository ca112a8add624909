"""Tags of jobs, by ARN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hpo_helpers.jobs.rehearsal.model import invalid
from hpo_helpers.jobs.rehearsal.pages import Pages

MOST_TAGS = 50


class Tags:
    """The operations on tags.

    Parameters
    ----------
    find
        Returns the job of an ARN, whose ``tags`` is a dict, or raises ServiceError.
    """

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find
        self._pages = Pages()

    def add(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Add tags to a job, or replace those of the same key."""
        job = self._find(request["ResourceArn"])
        tags = {**job.tags, **from_list(request["Tags"])}
        if len(tags) > MOST_TAGS:
            raise invalid(f"a resource has at most {MOST_TAGS} tags, got {len(tags)}")
        job.tags = tags
        return {"Tags": to_list(tags)}

    def list(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of a job's tags."""
        return self._pages.answer("Tags", to_list(self._find(request["ResourceArn"]).tags), request)

    def delete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take tags away from a job."""
        job = self._find(request["ResourceArn"])
        job.tags = {key: value for key, value in job.tags.items() if key not in request["TagKeys"]}
        return {}


def from_list(tags: list[Mapping[str, str]]) -> dict[str, str]:
    """Return tags as a dict."""
    return {tag["Key"]: tag["Value"] for tag in tags}


def to_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as the API writes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]
