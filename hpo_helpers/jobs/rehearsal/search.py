"""SageMaker Search over training jobs: filters, their combinations, and an order."""

from __future__ import annotations

import datetime
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpo_helpers.jobs.rehearsal.model import (
    invalid,
    only_members,
    refusal,
    service_model,
)
from hpo_helpers.jobs.rehearsal.pages import Pages
from hpo_helpers.jobs.rehearsal.tags import to_list

COMPARISONS = {
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}
NOT_SUPPORTED = ("VisibilityConditions", "CrossAccountFilterOption")


class Search:
    """The operation Search.

    Parameters
    ----------
    jobs
        Returns every training job.
    """

    def __init__(self, jobs: Callable[[], Sequence[Any]]) -> None:
        self._jobs = jobs
        self._pages = Pages()

    def search(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of the training jobs that an expression selects."""
        if request["Resource"] != "TrainingJob":
            raise refusal(f"Search of the resource {request['Resource']!r}, only 'TrainingJob'")
        for name in NOT_SUPPORTED:
            if name in request:
                raise refusal(f"Search.{name}")
        records = [_record(job) for job in self._jobs()]
        found = [record for record in records if _holds(request.get("SearchExpression", {}), record)]
        ordered = _ordered(
            found, request.get("SortBy", "LastModifiedTime"), request.get("SortOrder", "Descending")
        )
        return self._pages.answer("Results", [{"TrainingJob": record} for record in ordered], request, 10)


def _record(job: Any) -> dict[str, Any]:
    return only_members("TrainingJob", {**job.record(), "Tags": to_list(job.tags)})


def _holds(expression: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    if "NestedFilters" in expression:
        raise refusal("Search.SearchExpression.NestedFilters")
    answers = [_passes(condition, record) for condition in expression.get("Filters", [])]
    answers += [_holds(part, record) for part in expression.get("SubExpressions", [])]
    return any(answers) if expression.get("Operator") == "Or" else all(answers)


def _passes(condition: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    found, kind = find_property(record, condition["Name"]), condition.get("Operator", "Equals")
    if kind in ("Exists", "NotExists"):
        return (found is not None) == (kind == "Exists")
    if "Value" not in condition:
        raise invalid(f"The filter on {condition['Name']!r} needs a Value")
    if found is None:
        return kind == "NotEquals"
    wanted = condition["Value"]
    if kind in COMPARISONS:
        return COMPARISONS[kind](*_comparable(found, wanted, condition))
    if kind == "Contains":
        return wanted in str(found)
    if kind == "In":
        return any(_equal(found, value) for value in wanted.split(","))
    return _equal(found, wanted) == (kind == "Equals")


def find_property(record: Mapping[str, Any], name: str) -> Any:
    """Return a property of a training job by its name in Search, or None if the job has none.

    Raises
    ------
    ServiceError
        If training jobs have no such property.
    """
    first, _, rest = name.partition(".")
    if first == "Tags" and rest:
        return {tag["Key"]: tag["Value"] for tag in record["Tags"]}.get(rest)
    if first == "HyperParameters" and rest:
        return record.get("HyperParameters", {}).get(rest)
    if first == "Metrics" and rest:
        metrics = {metric["MetricName"]: metric["Value"] for metric in record.get("FinalMetricDataList", [])}
        return metrics.get(rest)
    return _descend(record, name, service_model().shape_for("TrainingJob"))


def _descend(record: Mapping[str, Any] | None, name: str, shape: Any) -> Any:
    first, _, rest = name.partition(".")
    if first not in getattr(shape, "members", {}):
        raise invalid(f"Unknown property name: {name!r}")
    member = shape.members[first]
    value = None if record is None else record.get(first)
    if rest:
        return _descend(value, rest, member)
    if member.type_name in ("list", "map", "structure"):
        raise refusal(f"Search by the {member.type_name} {name!r}")
    return value


def _equal(found: Any, wanted: str) -> bool:
    if isinstance(found, str):
        return found == wanted
    left, right = _comparable(found, wanted, {"Name": "a property"})
    return left == right


def _comparable(found: Any, wanted: str, condition: Mapping[str, Any]) -> tuple[float, float]:
    """Return both as numbers; a time as seconds since 1970."""
    try:
        if isinstance(found, datetime.datetime):
            time = datetime.datetime.fromisoformat(wanted)
            return found.timestamp(), time.replace(tzinfo=time.tzinfo or datetime.UTC).timestamp()
        return float(found), float(wanted)
    except ValueError as error:
        raise invalid(
            f"{condition['Name']!r} cannot be compared to {wanted!r} as a number or a time",
        ) from error


def _ordered(records: Sequence[dict[str, Any]], name: str, order: str) -> list[dict[str, Any]]:
    values = [find_property(record, name) for record in records]
    having = [(value, record) for value, record in zip(values, records) if value is not None]
    lacking = [record for value, record in zip(values, records) if value is None]
    number = float if all(_is_number(value) for value, _ in having) else (lambda value: value)
    having.sort(key=lambda pair: number(pair[0]), reverse=order == "Descending")
    return [record for _, record in having] + lacking


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
