"""Pictures for the lessons: each function takes a table, draws, and returns its axes.

Where no `ax` is given, it makes a new figure. Times are in seconds, errors between 0 and 1.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"

#: Told apart by the colour-blind (Okabe and Ito, 2008).
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", "-.", ":")

#: Where an axis of errors is marked: over a wide and over a narrow range.
ERROR_TICKS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 0.9)
CLOSE_ERROR_TICKS = (*(np.arange(10, 50, 5) / 1000), 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.5)

#: Methods that occur in several lessons look the same in all of them.
LOOKS = {
    "grid search": ("#56B4E9", "-."),
    "random search": (BLUE, "-"),
    "Sobol": ("#56B4E9", "--"),
    "Gaussian process": ("#CC79A7", "-."),
    "TPE": ("#009E73", "--"),
    "CMA-ES": ("#E69F00", "-."),
    "random search + successive halving": (BLUE, ":"),
    "TPE + Hyperband": ("#009E73", "-"),
    "univariate TPE + successive halving": (ORANGE, "-"),
    "default alone": ("#000000", ":"),
}


def look_of(method: str, number: int = 0) -> dict[str, str]:
    """Return ``color`` and ``linestyle`` of a method, if not of `LOOKS` by `number`."""
    others = (COLOURS[number % len(COLOURS)], LINE_STYLES[number % len(LINE_STYLES)])
    return dict(zip(("color", "linestyle"), LOOKS.get(method, others), strict=True))


def plot_curves(
    table: pd.DataFrame, *, group: str = "trial", value: str = "value", ax: Axes | None = None
) -> Axes:
    """Draw learning curves: the best one in colour, a dot where training stopped early.

    Parameters
    ----------
    table
        One row a report, with the column ``epoch`` and those that the next two name.
    group, value
        Names of columns: which curve it is, and its error.
    """
    ax = ax or plt.subplots()[1]
    best = table.loc[table[value].idxmin(), group]
    last_epoch = table["epoch"].max()
    for name, curve in table.groupby(group):
        colour, width, order = (ORANGE, 3, 3) if name == best else (BLUE, 1, 2)
        style = {"color": colour, "linewidth": width, "zorder": order, "alpha": 0.7}
        ax.plot(curve["epoch"], curve[value], **style)
        if curve["epoch"].max() < last_epoch:
            ax.plot(*curve[["epoch", value]].iloc[-1], "o", color=GREY, markersize=4, zorder=1)
    _label_handles(ax, stopped=(table.groupby(group)["epoch"].max() < last_epoch).any())
    ax.set(xlabel="epochs trained", ylabel="validation error", xscale="log")
    ax.set_xticks(3 ** np.arange(0, 1 + int(np.log(last_epoch) / np.log(3) + 1e-9)))
    ax.set_xticks([], minor=True)
    ax.xaxis.set_major_formatter("{x:g}")
    return error_axis(ax)


def plot_methods(summary: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw anytime performance of methods: medians over seeds, in bands of quartiles.

    Parameters
    ----------
    summary
        As `summarise` returns it: for each ``method`` and ``time`` three quartiles, or NaN.
    """
    ax = _draw_medians(summary, ax or plt.subplots(figsize=(10.5, 4.8))[1])
    ax.set_ylabel("test error of the incumbent")
    return error_axis(ax)


def plot_timeline(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw who worked when: one row a worker, idle time left white.

    Parameters
    ----------
    table
        One row a piece of work: ``worker``, ``start``, ``end``, and ``label``, for example a
        rung, which has its colour.
    """
    labels = table["label"].unique()
    if len(labels) > len(COLOURS):
        raise ValueError(f"at most {len(COLOURS)} labels have a colour, got {len(labels)}")
    workers = sorted(table["worker"].unique())
    ax = ax or plt.subplots(figsize=(10.5, 1.2 + 0.4 * len(workers)))[1]
    for label, colour in zip(labels, COLOURS, strict=False):
        work = table[table["label"] == label]
        rows = [workers.index(worker) for worker in work["worker"]]
        seconds = work["end"] - work["start"]
        style = {"color": colour, "edgecolor": "white", "label": label}
        ax.barh(rows, seconds, left=work["start"], height=0.8, **style)
    ax.set(xlabel="time in seconds", ylabel="worker", xlim=(0, table["end"].max()))
    ax.set_yticks(range(len(workers)), workers)
    ax.set_ylim(len(workers) - 0.5, -0.5)
    ax.grid(False)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plot_surrogate(table: pd.DataFrame, trials: pd.DataFrame, *, axes: Sequence[Axes]) -> Sequence[Axes]:
    """Draw a surrogate model with its trials, and under it the acquisition function.

    Parameters
    ----------
    table
        One row a point ``x``, with ``middle``, ``low`` and ``high`` (the model's mean and
        band), ``acquisition``, and ``truth``.
    trials
        One row a trial, with ``x`` and ``value``.
    axes
        Two, one over the other.
    """
    upper, lower = axes
    upper.plot("x", "truth", data=table, color=GREY, linestyle=":", label="truth")
    upper.plot("x", "middle", data=table, color=BLUE, label="model")
    upper.fill_between("x", "low", "high", data=table, color=BLUE, alpha=0.15, linewidth=0)
    upper.plot("x", "value", "o", data=trials, color="black", markersize=6, zorder=4, label="trials")
    upper.set(xscale="log", ylim=(0.01, 1), ylabel="validation error")
    error_axis(upper)
    lower.fill_between("x", 0, "acquisition", data=table, color=ORANGE, alpha=0.6, linewidth=0)
    proposal = table["x"][table["acquisition"].idxmax()]
    for ax in (upper, lower):
        ax.axvline(proposal, color=ORANGE, linestyle="--", linewidth=1, label="next trial")
    lower.set(ylim=(0, None), yticks=[], ylabel="acquisition")
    return upper, lower


def error_axis(ax: Axes) -> Axes:
    """Give errors between 0 and 1 a logarithmic axis in per cent."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = ERROR_TICKS if high > 5 * low else CLOSE_ERROR_TICKS
    ax.set_yticks([tick for tick in ticks if low <= tick <= high])
    ax.set_yticks([], minor=True)
    ax.yaxis.set_major_formatter(_per_cent)
    return ax


def _per_cent(share, _position):
    return f"{100 * share:g} %".replace("-", "\N{MINUS SIGN}")


def _draw_medians(summary, ax):
    lines = []
    for number, (method, curve) in enumerate(summary.groupby("method", sort=False)):
        look = look_of(method, number)
        # Where curves meet, a dotted one on top lets a solid one be seen.
        order = 2 + LINE_STYLES.index(look["linestyle"]) / 10
        style = {"label": method, "drawstyle": "steps-post", "zorder": order} | look
        lines += ax.plot(curve["time"], curve["median"], **style)
        quartiles = curve[["time", "lower_quartile", "upper_quartile"]].to_numpy().T
        ax.fill_between(*quartiles, step="post", color=look["color"], alpha=0.12, linewidth=0)
    first, last = summary["time"].min(), summary["time"].max()
    ax.set(xlabel="time in seconds", xscale="log", xlim=(first, last))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xticks([], minor=True)
    lines.sort(key=lambda line: np.nan_to_num(line.get_ydata()[-1], nan=np.inf), reverse=True)
    ax.legend(handles=lines, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _label_handles(ax, stopped):
    ax.plot([], [], color=ORANGE, linewidth=3, label="the best")
    ax.plot([], [], color=BLUE, linewidth=1, label="all others")
    if stopped:
        ax.plot([], [], "o", color=GREY, markersize=4, label="stopped here")
    ax.legend()
