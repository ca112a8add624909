"""What lists have in common: filters by name, status and time, an order, and pages."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from hpo_helpers.jobs.rehearsal.model import invalid

MOST_TOKENS = 1000


class Pages:
    """Cuts lists into pages. What follows a page is kept under its token: no entry is lost or doubled."""

    def __init__(self) -> None:
        self._rest: dict[str, list[Any]] = {}

    def answer(
        self, name: str, entries: list[Any], request: Mapping[str, Any], default_size: int = 100
    ) -> dict[str, Any]:
        """Return the page that a request asks for, as `name`, and the token of the next one, if any."""
        if "NextToken" in request:
            if request["NextToken"] not in self._rest:
                raise invalid("The token in NextToken is not valid.")
            entries = self._rest[request["NextToken"]]
        size = request.get("MaxResults", default_size)
        if len(entries) <= size:
            return {name: entries}
        token = secrets.token_hex(16)
        self._rest[token] = entries[size:]
        while len(self._rest) > MOST_TOKENS:
            self._rest.pop(next(iter(self._rest)))
        return {name: entries[:size], "NextToken": token}


def within(
    records: Sequence[dict[str, Any]], request: Mapping[str, Any], name: str, status: str
) -> list[dict[str, Any]]:
    """Return the records that meet a request's NameContains, StatusEquals, and bounds in time.

    Parameters
    ----------
    records
        As the describing operation shows them.
    request
        A request to list them.
    name, status
        The fields that hold a record's name and status.
    """
    found = [
        record
        for record in records
        if request.get("NameContains", "") in record[name]
        and record[status] == request.get("StatusEquals", record[status])
    ]
    for field in ("CreationTime", "LastModifiedTime"):
        after, before = request.get(f"{field}After"), request.get(f"{field}Before")
        found = [record for record in found if after is None or record[field].timestamp() > after]
        found = [record for record in found if before is None or record[field].timestamp() < before]
    return found


def ordered_by(records: Sequence[dict[str, Any]], field: str, order: str) -> list[dict[str, Any]]:
    """Return records by a field, ``"Ascending"`` or ``"Descending"``; those without it come last."""
    having = [record for record in records if record.get(field) is not None]
    lacking = [record for record in records if record.get(field) is None]
    return sorted(having, key=lambda record: record[field], reverse=order == "Descending") + lacking
