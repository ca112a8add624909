"""Pictures for the lessons: each function takes a DataFrame, draws one figure, and returns its axes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter, ScalarFormatter

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def plot_curves(table: pd.DataFrame, *, group: str = "trial", value: str = "value", ax: Axes | None = None) -> Axes:
    """Draw learning curves: error against epochs, the best one in colour, a dot where training stopped early.

    Parameters
    ----------
    table
        One row a report, with the columns ``epoch``, `group` (which curve it belongs to) and `value` (an error
        between 0 and 1).
    group, value
        Names of columns.
    ax
        Where to draw; a new figure if not given.
    """
    ax = ax or plt.subplots()[1]
    best = table.loc[table[value].idxmin(), group]
    last_epoch = table["epoch"].max()
    for name, curve in table.groupby(group):
        colour, width, order = (ORANGE, 3, 3) if name == best else (BLUE, 1, 2)
        ax.plot(curve["epoch"], curve[value], color=colour, linewidth=width, zorder=order, alpha=0.7)
        if curve["epoch"].max() < last_epoch:
            ax.plot(*curve[["epoch", value]].iloc[-1], "o", color=GREY, markersize=4, zorder=1)
    _label_handles(ax, stopped=(table.groupby(group)["epoch"].max() < last_epoch).any())
    ax.set(xlabel="epochs trained", ylabel="validation error", xscale="log")
    _epoch_ticks(ax, last_epoch)
    return error_axis(ax)


def plot_anytime(
    table: pd.DataFrame,
    *,
    value: str = "value",
    until: float | None = None,
    ax: Axes | None = None,
    label: str = "incumbent",
) -> Axes:
    """Draw anytime performance: the incumbent's error against time.

    Parameters
    ----------
    table
        One row an incumbent, with the columns ``time`` (seconds) and `value` (an error between 0 and 1).
    value
        Name of a column.
    until
        The time, in seconds, up to which the last incumbent is drawn; that of the last row if not given.
    ax
        Where to draw; a new figure if not given.
    label
        The name of the method, for the legend.
    """
    ax = ax or plt.subplots()[1]
    (line,) = ax.step(table["time"], table[value], where="post", label=label, marker="o", markersize=4)
    if until is not None:
        ax.plot([table["time"].iloc[-1], until], [table[value].iloc[-1]] * 2, color=line.get_color())
    ax.set(xlabel="time in seconds", ylabel="validation error of the incumbent")
    ax.legend()
    return error_axis(ax)


def error_axis(ax: Axes) -> Axes:
    """Give errors between 0 and 1 a logarithmic axis in per cent, since the last per cents matter most."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = [tick for tick in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 0.9) if low <= tick <= high]
    ax.set_yticks(ticks)
    ax.set_yticks([], minor=True)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    return ax


def _epoch_ticks(ax: Axes, last_epoch: int) -> None:
    powers = 3 ** np.arange(0, 1 + int(np.log(last_epoch) / np.log(3) + 1e-9))
    ax.set_xticks(powers)
    ax.set_xticks([], minor=True)
    ax.xaxis.set_major_formatter(ScalarFormatter())


def _label_handles(ax: Axes, stopped: bool) -> None:
    ax.plot([], [], color=ORANGE, linewidth=3, label="the best")
    ax.plot([], [], color=BLUE, linewidth=1, label="all others")
    if stopped:
        ax.plot([], [], "o", color=GREY, markersize=4, label="stopped here")
    ax.legend()
