"""Random and grid search over SageMaker's parameter ranges."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

from hpo_helpers.jobs.rehearsal.requests import ServiceError

Ranges = dict[str, list[dict]]
NUMERICAL = {"IntegerParameterRanges": int, "ContinuousParameterRanges": float}


def check_ranges(ranges: Ranges, is_grid: bool) -> None:
    """Raise ServiceError unless each range can be searched."""
    for kind, number in NUMERICAL.items():
        for entry in ranges.get(kind, []):
            if is_grid:
                raise ServiceError(f"Grid search takes categorical ranges only, got {entry}")
            _check_range(entry, number)


def random_draws(ranges: Ranges, seed: int | None) -> Iterator[dict[str, str]]:
    """Yield independent draws without end, each value as the text that a job gets."""
    generator = random.Random(seed)
    while True:
        drawn = {}
        for kind, number in NUMERICAL.items():
            for entry in ranges.get(kind, []):
                drawn[entry["Name"]] = repr(_draw(entry, number, generator))
        for entry in ranges.get("CategoricalParameterRanges", []):
            drawn[entry["Name"]] = generator.choice(entry["Values"])
        yield drawn


def grid(ranges: Ranges) -> Iterator[dict[str, str]]:
    """Yield every combination of categories, the last range varying fastest."""
    entries = ranges["CategoricalParameterRanges"]
    for values in itertools.product(*(entry["Values"] for entry in entries)):
        yield dict(zip([entry["Name"] for entry in entries], values))


def _check_range(entry: dict[str, str], number: type) -> None:
    scaling = entry.get("ScalingType")
    if scaling is None:
        raise ServiceError(f"write ScalingType 'Linear' or 'Logarithmic': 'Auto' needs AWS, got {entry}")
    try:
        low, high = number(entry["MinValue"]), number(entry["MaxValue"])
    except ValueError as error:
        raise ServiceError(f"The bounds of {entry} are no numbers: {error}") from error
    if not -math.inf < low <= high < math.inf or (scaling == "Logarithmic" and low <= 0):
        raise ServiceError(f"MinValue must be at most MaxValue, and above 0 to be logarithmic, got {entry}")


def _draw(entry: dict[str, str], number: type, generator: random.Random) -> float:
    low, high = number(entry["MinValue"]), number(entry["MaxValue"])
    if entry["ScalingType"] == "Linear":
        return generator.randint(low, high) if number is int else generator.uniform(low, high)
    # Each whole number stands for the interval up to the next one.
    end = high + 1 if number is int else high
    value = math.exp(generator.uniform(math.log(low), math.log(end)))
    return number(min(max(value, low), high))  # exp(log(x)) need not be x
