"""Random and grid search over SageMaker's parameter ranges."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError

NUMERICAL = {"IntegerParameterRanges": int, "ContinuousParameterRanges": float}


def check_ranges(ranges: Fields, limits: Fields, strategy: str) -> None:
    """Raise ServiceError unless the ranges can be searched by the strategy."""
    if strategy == "Random" and "MaxNumberOfTrainingJobs" not in limits:
        raise ServiceError("Random search needs ResourceLimits.MaxNumberOfTrainingJobs")
    for kind, number in NUMERICAL.items():
        for entry in ranges.get(kind, []):
            if strategy == "Grid":
                raise ServiceError(f"Grid search takes categorical ranges only, got {entry}")
            _check_range(entry, number)


def random_draws(ranges: Fields, seed: int | None) -> Iterator[dict[str, str]]:
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


def grid(ranges: Fields) -> Iterator[dict[str, str]]:
    """Yield every combination of categories, the last range varying fastest."""
    entries = ranges["CategoricalParameterRanges"]
    for values in itertools.product(*(entry["Values"] for entry in entries)):
        yield dict(zip([entry["Name"] for entry in entries], values))


def _check_range(entry, number):
    lowest = {"Linear": -math.inf, "Logarithmic": 0}.get(entry.get("ScalingType"), math.nan)
    try:
        is_range = lowest < number(entry["MinValue"]) <= number(entry["MaxValue"]) < math.inf
    except ValueError:
        is_range = False
    if not is_range:
        wanted = "ScalingType Linear or Logarithmic (and then 0 <) MinValue <= MaxValue"
        raise ServiceError(f"a range must have {wanted}, got {entry}")


def _draw(entry, number, generator):
    low, high = number(entry["MinValue"]), number(entry["MaxValue"])
    if entry["ScalingType"] == "Linear":
        draw = generator.randint if number is int else generator.uniform
        return draw(low, high)
    # Each whole number stands for the interval up to the next one.
    end = high + 1 if number is int else high
    value = math.exp(generator.uniform(math.log(low), math.log(end)))
    return number(min(max(value, low), high))  # exp(log(x)) need not be x
