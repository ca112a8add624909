"""Random and grid search over SageMaker's parameter ranges."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo_helpers.jobs.rehearsal.model import invalid, refusal

NUMERICAL = {"IntegerParameterRanges": int, "ContinuousParameterRanges": float}
CATEGORICAL = "CategoricalParameterRanges"


def check_ranges(ranges: Mapping[str, Sequence[Mapping[str, Any]]], strategy: str) -> None:
    """Raise ServiceError unless each range can be searched by the strategy, ``"Random"`` or ``"Grid"``."""
    names = [entry["Name"] for entries in ranges.values() for entry in entries]
    if not names:
        raise invalid("A tuning job needs at least one parameter range")
    if len(set(names)) < len(names):
        raise invalid(f"The parameter names must be unique, got {sorted(names)}")
    for kind, number in NUMERICAL.items():
        for entry in ranges.get(kind, []):
            if strategy == "Grid":
                raise invalid(
                    f"Grid search takes categorical ranges only, got {entry['Name']!r} in {kind}",
                )
            _check_numerical(entry, number)


def random_draws(
    ranges: Mapping[str, Sequence[Mapping[str, Any]]], seed: int | None
) -> Iterator[dict[str, str]]:
    """Yield independent draws without end, each value as the text that a training job gets."""
    generator = random.Random(seed)
    while True:
        yield {
            entry["Name"]: _draw(kind, entry, generator)
            for kind in (*NUMERICAL, CATEGORICAL)
            for entry in ranges.get(kind, [])
        }


def grid(ranges: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, str]]:
    """Yield every combination of the categorical ranges, the last range varying fastest."""
    entries = ranges.get(CATEGORICAL, [])
    for values in itertools.product(*(entry["Values"] for entry in entries)):
        yield dict(zip([entry["Name"] for entry in entries], values))


def grid_size(ranges: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """Return how many combinations `grid` yields."""
    return math.prod(len(entry["Values"]) for entry in ranges.get(CATEGORICAL, []))


def _check_numerical(entry: Mapping[str, Any], number: type) -> None:
    scaling = entry.get("ScalingType", "Auto")
    if scaling == "Auto":
        raise refusal(
            f"the ScalingType 'Auto' of {entry['Name']!r}: the service does not say what it chooses; "
            "write 'Linear' or 'Logarithmic'"
        )
    try:
        low, high = number(entry["MinValue"]), number(entry["MaxValue"])
    except ValueError as error:
        raise invalid(f"The bounds of {entry['Name']!r} are no numbers: {error}") from error
    if not -math.inf < low <= high < math.inf:
        raise invalid(
            f"MinValue must be at most MaxValue, got {low!r} and {high!r} of {entry['Name']!r}",
        )
    if scaling == "Logarithmic" and low <= 0:
        raise invalid(
            f"Logarithmic scaling needs values above 0, got {low!r} of {entry['Name']!r}",
        )
    if scaling == "ReverseLogarithmic" and (number is int or not 0 <= low <= high < 1):
        raise invalid(
            f"Reverse logarithmic scaling needs a continuous range within 0 <= x < 1, got {entry['Name']!r}",
        )


def _draw(kind: str, entry: Mapping[str, Any], generator: random.Random) -> str:
    if kind == CATEGORICAL:
        return generator.choice(entry["Values"])
    logarithmic = entry["ScalingType"] == "Logarithmic"
    if kind == "IntegerParameterRanges":
        return str(_draw_integer(int(entry["MinValue"]), int(entry["MaxValue"]), logarithmic, generator))
    low, high = float(entry["MinValue"]), float(entry["MaxValue"])
    if entry["ScalingType"] == "ReverseLogarithmic":
        value = 1 - math.exp(generator.uniform(math.log(1 - high), math.log(1 - low)))
    elif logarithmic:
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
    else:
        value = generator.uniform(low, high)
    return repr(min(max(value, low), high))  # exp(log(x)) need not be x


def _draw_integer(low: int, high: int, logarithmic: bool, generator: random.Random) -> int:
    if not logarithmic:
        return generator.randint(low, high)
    # Each whole number stands for the interval up to the next one.
    return min(high, math.floor(math.exp(generator.uniform(math.log(low), math.log(high + 1)))))
