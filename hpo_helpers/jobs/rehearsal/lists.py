"""What lists and Search have in common: filters, an order, and pages."""

from __future__ import annotations

from collections.abc import Iterable

from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError, service_model


class Pages:
    """Cuts lists into pages. What follows a page is kept: no entry is lost or doubled."""

    def __init__(self) -> None:
        self._rest: dict[str, list[Fields]] = {}

    def answer(self, name: str, entries: list[Fields], request: Fields) -> Fields:
        """Return the page that a request asks for, as `name`, and the token of the next one."""
        token, size = request.get("NextToken"), request.get("MaxResults", 10)
        if token is not None and token not in self._rest:
            raise ServiceError("The token in NextToken is not valid.")
        entries = self._rest.get(token, entries)
        if len(entries) <= size:
            return {name: entries}
        token = f"page-{len(self._rest)}"
        self._rest[token] = entries[size:]
        return {name: entries[:size], "NextToken": token}


def listed(kind: str, records: list[Fields], request: Fields) -> list[Fields]:
    """Return those of some jobs, oldest first, that a request to list them selects."""
    fields = {"NameContains": (f"{kind}Name", "Contains"), "StatusEquals": (f"{kind}Status", "Equals")}
    filters = [(*fields[name], request[name]) for name in fields if name in request]
    return _selected(records, filters, request.get("SortOrder", "Ascending"))


def search(records: list[Fields], request: Fields) -> list[Fields]:
    """Return those of some training jobs, oldest first, that a request of Search selects."""
    given = request.get("SearchExpression", {}).get("Filters", [])
    filters = [(each["Name"], each.get("Operator", "Equals"), each.get("Value", "")) for each in given]
    for name, *_ in filters:
        if name.partition(".")[0] not in service_model().shape_for("TrainingJob").members:
            raise ServiceError(f"Unknown property name: {name!r}")
    return _selected(records, filters, request.get("SortOrder", "Descending"))


def _selected(
    records: list[Fields], filters: Iterable[tuple[str, str, str]], order: str
) -> list[Fields]:
    found = [record for record in records if all(_passes(record, *each) for each in filters)]
    return found[::-1] if order == "Descending" else found


def _passes(record: Fields, name: str, operator: str, wanted: str) -> bool:
    if operator.startswith("Not"):
        return not _passes(record, name, operator.removeprefix("Not"), wanted)
    first, _, rest = name.partition(".")
    found = record.get(first)
    if first == "Tags":
        found = {tag["Key"]: tag["Value"] for tag in found}
    if rest:
        found = (found or {}).get(rest)
    if found is None or operator == "Exists":
        return found is not None
    if operator == "Contains":
        return wanted in str(found)
    return str(found) in (wanted.split(",") if operator == "In" else [wanted])
