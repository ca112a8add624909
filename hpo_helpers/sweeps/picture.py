"""The metric curves of a sweep's trials, drawn as they come."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import time
from typing import Any

import optuna
from optuna.study import StudyDirection

PAUSE = 0.5  #: seconds between two drawings: one takes about a tenth of a second


class LivePicture:
    """A picture in the notebook that is drawn anew while a sweep runs, and stays when it has ended.

    While the sweep runs the picture is a widget; then a figure takes its place, which a notebook keeps. The widget
    is left out where progress bars are: under ``TQDM_DISABLE``, and outside a notebook.

    Parameters
    ----------
    study
        The study that is drawn.
    shown
        Whether there is a picture at all.
    """

    def __init__(self, study: optuna.Study, shown: bool) -> None:
        self._study = study
        self._shown = shown
        self._image: Any = None
        self._drawn = time.monotonic()

    def __enter__(self) -> LivePicture:
        if self._shown and not os.environ.get("TQDM_DISABLE"):
            self._image = _show_widget()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._image is not None:
            self._image.close()
        if self._shown and any(trial.intermediate_values for trial in self._study.get_trials(deepcopy=False)):
            _show(plot_sweep(self._study))

    def refresh(self) -> None:
        """Draw the picture anew, unless it was drawn a moment ago."""
        if self._image is None or time.monotonic() < self._drawn + PAUSE:
            return
        figure = plot_sweep(self._study)
        self._image.value = _to_png(figure)
        self._drawn = time.monotonic()


def plot_sweep(study: optuna.Study) -> Any:
    """Draw the metric of each trial of a sweep against its intervals, and return the figure.

    The best trial is orange; a dot marks where a trial was ended early. What is minimised and positive has a
    logarithmic axis, since its last per cents matter most.
    """
    from matplotlib.figure import Figure  # not of pyplot, which would show it a second time

    from hpo_helpers.plotting import BLUE, GREY, ORANGE

    figure = Figure(figsize=(7.5, 4.2))
    ax = figure.subplots()
    best = _best(study)
    for trial in study.get_trials(deepcopy=False):
        intervals, values = list(trial.intermediate_values), list(trial.intermediate_values.values())
        colour, width, order = (ORANGE, 3, 3) if trial.number == best else (BLUE, 1, 2)
        ax.plot(intervals, values, color=colour, linewidth=width, zorder=order, alpha=0.7)
        if values and trial.state == optuna.trial.TrialState.PRUNED:
            ax.plot(intervals[-1], values[-1], "o", color=GREY, markersize=4, zorder=1)
    ax.plot([], [], color=ORANGE, linewidth=3, label="the best")
    ax.plot([], [], color=BLUE, linewidth=1, label="all others")
    ax.plot([], [], "o", color=GREY, markersize=4, label="canceled here")
    ax.legend()
    ax.set(xlabel="intervals (epochs)", ylabel=study.user_attrs.get("primary_metric", "metric"))
    _scale(ax, study)
    return figure


def _scale(ax: Any, study: optuna.Study) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if study.direction == StudyDirection.MINIMIZE and ax.dataLim.ymin > 0:
        ax.set_yscale("log")
        ax.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter="{x:g}")


def _best(study: optuna.Study) -> int | None:
    """Return the number of the trial with the best value so far, of any interval."""
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
    trials = study.get_trials(deepcopy=False)
    values = [(sign * value, trial.number) for trial in trials for value in trial.intermediate_values.values()]
    return min(values, default=(None, None))[1]


def _show_widget() -> Any:
    if not _in_notebook() or importlib.util.find_spec("ipywidgets") is None:
        return None
    from IPython.display import display
    from ipywidgets import Image

    image = Image(format="png")
    display(image)
    return image


def _show(figure: Any) -> None:
    if _in_notebook():
        from IPython.display import Image, display

        display(Image(_to_png(figure)))


def _in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def _to_png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
