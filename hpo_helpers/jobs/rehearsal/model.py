"""What botocore's model of SageMaker says of a request, enforced as the service does it."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any


class ServiceError(Exception):
    """An answer of the service that boto3 raises as `ClientError`.

    Parameters
    ----------
    code
        What boto3 shows as ``error.response["Error"]["Code"]``.
    message
        What is wrong, in words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> ServiceError:
    """Return the answer to a request that cannot be carried out as it is."""
    return ServiceError("ValidationException", message)


def refusal(what: str) -> ServiceError:
    """Return the answer to what Amazon SageMaker does and the rehearsal does not."""
    return invalid(f"the rehearsal on this machine does not support {what}")


@functools.cache
def service_model() -> Any:
    """Return botocore's model of SageMaker, read from the installed package and from no configuration."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("sagemaker", "service-2"), service_name="sagemaker")


def check_request(operation: str, request: Any) -> None:
    """Raise ServiceError unless a request has the fields, types, lengths and patterns of botocore's model."""
    shape = service_model().operation_model(operation).input_shape
    problems = list(_problems(request, shape, ""))
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected"
        raise invalid(f"{count}: {'; '.join(problems)}")


def check_supported(operation: str, request: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Raise ServiceError at the first field that is set and not in `supported`.

    Parameters
    ----------
    operation
        The operation, for the message.
    request
        The request, or a structure of it.
    supported
        Name of a field -> None where any value will do, a structure's own fields, or the values that will do.
        A structure's fields are those of every member, where the field is a list.
    """
    for name, value in request.items():
        place = f"{operation}.{name}"
        if name not in supported and value not in (False, None, [], {}):
            raise refusal(f"{place} (got {value!r})")
        rule = supported.get(name)
        if isinstance(rule, Mapping):
            for part in value if isinstance(value, list) else [value]:
                check_supported(place, part, rule)
        elif rule is not None and value not in rule:
            raise refusal(f"{place}={value!r}, only {' and '.join(map(repr, rule))}")


def only_members(shape_name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a record a structure of botocore's model has, without what is None."""
    members = service_model().shape_for(shape_name).members
    return {name: record[name] for name in members if record.get(name) is not None}


def to_json(value: Any) -> Any:
    """Return a value as the JSON protocol writes it: a time is a number of seconds since 1970."""
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    if isinstance(value, Mapping):
        return {name: to_json(member) for name, member in value.items()}
    return [to_json(member) for member in value] if isinstance(value, list) else value


TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
}


def _problems(value: Any, shape: Any, place: str) -> Iterator[str]:
    kind = shape.type_name
    wrong_bool = isinstance(value, bool) and kind != "boolean"  # True is an int to Python
    if not isinstance(value, TYPES[kind]) or wrong_bool:
        yield f"Value {value!r} at '{place}' failed to satisfy constraint: Member must be a {kind}"
        return
    for constraint in _broken_constraints(value, shape):
        yield f"Value {value!r} at '{place}' failed to satisfy constraint: Member must {constraint}"
    if kind == "structure":
        yield from _structure_problems(value, shape, place)
    elif kind == "list":
        for i, member in enumerate(value, start=1):
            yield from _problems(member, shape.member, f"{place}.{i}.member")
    elif kind == "map":
        for name, member in value.items():
            yield from _problems(name, shape.key, f"{place}.{name}.key")
            yield from _problems(member, shape.value, f"{place}.{name}.member")


def _structure_problems(value: dict[str, Any], shape: Any, place: str) -> Iterator[str]:
    for name in shape.required_members:
        if value.get(name) is None:
            field = _join(place, name)
            yield f"Value null at '{field}' failed to satisfy constraint: Member must not be null"
    for name, member in value.items():
        if name not in shape.members:
            yield f"'{_join(place, name)}' is no field of {shape.name}"
        elif member is not None:
            yield from _problems(member, shape.members[name], _join(place, name))


def _join(place: str, name: str) -> str:
    return ".".join(filter(None, [place, name[0].lower() + name[1:]]))


def _broken_constraints(value: Any, shape: Any) -> Iterator[str]:
    limits = shape.metadata
    sized = hasattr(value, "__len__")
    size, measure = (len(value), "have length") if sized else (value, "have value")
    if "min" in limits and size < limits["min"]:
        yield f"{measure} greater than or equal to {limits['min']}"
    if "max" in limits and size > limits["max"]:
        yield f"{measure} less than or equal to {limits['max']}"
    if "enum" in limits and value not in limits["enum"]:
        yield f"satisfy enum value set: [{', '.join(limits['enum'])}]"
    pattern = _pattern(limits.get("pattern"))
    if pattern and not pattern.fullmatch(value):
        yield f"satisfy regular expression pattern: {limits['pattern']}"


@functools.cache
def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error:  # nine of the patterns are Java's: \p{L}
        return None
