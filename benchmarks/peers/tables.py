"""The tables of the comparison, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import methods as ours
import pandas as pd
from methods import BUDGETS, RECOMMENDED

from hpo_helpers import comparing

BEGIN, END = "<!-- made by peers.py: begin -->", "<!-- made by peers.py: end -->"


@dataclass(frozen=True)
class Row:
    """A method, and what it is from."""

    method: str
    version: str


def tables(runs: pd.DataFrame, rows: list[Row], left_out: Mapping[str, str]) -> str:
    """Return all tables.

    Parameters
    ----------
    runs
        What `driving.incumbents` returns, and the columns ``method``, ``seed`` and ``charged``.
    rows
        The methods, in the order of the tables.
    left_out
        Why a method is missing, or some of its seeds are.
    """
    times = [ours.seconds_of(budget) for budget in BUDGETS]
    free, charged = (at_times(runs, charge, times) for charge in (False, True))
    parts = [
        settings(),
        "**The optimizer's time charged.** Test error without noise in %, mean ± standard error:",
        markdown(["method", "seeds", *BUDGETS], each(rows, lambda row: errors(row, charged))),
        "**The optimizer's time not charged.** Test error without noise in %, mean ± standard error:",
        markdown(["method", "seeds", *BUDGETS], each(rows, lambda row: errors(row, free))),
        f"**The same less that of “{RECOMMENDED}”**, in percentage points, time charged: mean over the "
        "seeds in common, and its 95 % bootstrap interval. Above 0, the method is worse. Bold is what holds at "
        "the 5 % level although so many methods are compared.",
        markdown(["method", "seeds", *BUDGETS], each(rows, lambda row: differences(row, charged, len(rows) - 1))),
        "**What a run came to**, medians:",
        markdown(
            ["method", "version", "seconds of the optimizer", "epochs trained", "the same, time charged"],
            each(rows, lambda row: spent(row, runs.dropna(subset="epochs"))),
        ),
        "**Left out:**",
        "\n".join(f"- {method}: {reason}" for method, reason in left_out.items()) or "None.",
    ]
    return "\n\n".join(parts)


def at_times(runs: pd.DataFrame, charge: bool, times: Iterable[float]) -> pd.DataFrame:
    """Return the incumbents at some times of the runs whose optimizer was, or was not, charged."""
    return comparing.at_times(runs[runs["charged"] == charge].drop(columns="charged"), times)


def settings() -> str:
    """Say what is the same for all methods, and what the numbers mean."""
    return (
        f"{ours.N_WORKERS} workers, trainings of at most {ours.EPOCHS} epochs; a full training takes "
        f"{ours.N_WORKERS * ours.seconds_of(1):.1f} s on average. The columns are after "
        f"{', '.join(map(str, BUDGETS))} full trainings' worth of worker time."
    )


def each(rows: list[Row], cells: Callable[[Row], list | None]) -> list[list]:
    """Return the cells of every row that has any."""
    return [found for row in rows if (found := cells(row))]


def errors(row: Row, incumbents: pd.DataFrame) -> list | None:
    """Return a method's error without noise at each budget, in per cent."""
    found = 100 * incumbents[incumbents["method"] == row.method].set_index("time")["expected_error"]
    if found.empty:
        return None
    times = found.groupby(level="time")
    cells = [f"{mean:.2f} ± {error:.2f}" for mean, error in zip(times.mean(), times.sem(), strict=True)]
    return [row.method, times.size().iloc[0], *cells]


def differences(row: Row, incumbents: pd.DataFrame, n_comparisons: int) -> list | None:
    """Return how far a method's test error is from that of the recommended one at each budget."""
    pair = incumbents[incumbents["method"].isin([row.method, RECOMMENDED])]
    if row.method == RECOMMENDED or not enough(pair):
        return None
    compare = partial(comparing.paired_differences, pair, RECOMMENDED, value="expected_error")
    found = compare()
    # Bonferroni's correction: the methods do not have the same seeds, so each is compared by itself.
    strict = compare(confidence=1 - 0.05 / n_comparisons)
    percent = 100 * found[["difference", "low", "high"]]
    cells = [f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" for mean, low, high in percent.to_numpy()]
    holds = strict["verdict"] != "no difference"
    cells = [f"**{cell}**" if is_bold else cell for cell, is_bold in zip(cells, holds, strict=True)]
    return [row.method, found["n_seeds"].iloc[0], *cells]


def enough(pair: pd.DataFrame) -> bool:
    """Return whether two methods have at least two seeds in common."""
    return (pair.groupby("seed")["method"].nunique() == 2).sum() >= 2


def spent(row: Row, ends: pd.DataFrame) -> list | None:
    """Return what a run of a method came to."""
    ends = ends[ends["method"] == row.method]
    if ends.empty:
        return None
    ends = ends[["charged", "epochs", "optimizer_seconds"]].groupby("charged").median()
    seconds, epochs = ends["optimizer_seconds"], ends["epochs"]
    return [row.method, row.version, f"{seconds[False]:.1f}", f"{epochs[False]:.0f}", f"{epochs[True]:.0f}"]


def markdown(names: list, rows: list[list]) -> str:
    """Return a table."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(path: Path, text: str) -> None:
    """Put the tables between the marks of a file."""
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
