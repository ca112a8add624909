"""Which jobs a list has in it, or a search finds, and in which order."""

import operator

from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError, service_model

TIMES = "CreationTime", "LastModifiedTime"
ENDS = {"After": operator.gt, "Before": operator.lt}


def selected(kind: str, records: list[Fields], request: Fields) -> list[Fields]:
    """Return the records that an operation asks for, which lists jobs of a kind."""
    found = [each for each in records if _is_asked_for(each, kind, request)]
    by = request["SortBy"]
    by = f"{kind}{by}" if by in ("Name", "Status") else by
    return ordered(found, by, request.get("SortOrder", "Ascending"))


def ordered(records: list[Fields], by: str, order: str | None) -> list[Fields]:
    """Return records by the value of a field, without those that lack it."""
    found = sorted((each for each in records if by in each), key=lambda each: each[by])
    return found if order == "Ascending" else found[::-1]


def is_found(record: Fields, Name: str, Operator: str = "Equals", Value: str = "") -> bool:
    """Return whether a job meets a filter of Search."""
    if Operator.startswith("Not"):
        return not is_found(record, Name, Operator.removeprefix("Not"), Value)
    first, _, rest = Name.partition(".")
    if first not in service_model().shape_for("TrainingJob").members:
        raise ServiceError(f"Unknown property name: {first}")
    found = record.get(first)
    if first == "Tags":
        found = {tag["Key"]: tag["Value"] for tag in found}
    if rest:
        found = (found or {}).get(rest)
    if found is None or Operator == "Exists":
        return found is not None
    if Operator == "Contains":
        return Value in str(found)
    return str(found) in (Value.split(",") if Operator == "In" else [Value])


def _is_asked_for(record, kind, request):
    if request.get("NameContains", "") not in record[f"{kind}Name"]:
        return False
    if request.get("StatusEquals", record[f"{kind}Status"]) != record[f"{kind}Status"]:
        return False
    limits = [(time, end) for time in TIMES for end in ENDS if time + end in request]
    return all(ENDS[end](record[time].timestamp(), request[time + end]) for time, end in limits)
