"""The metric curves of a sweep's trials, as a notebook shows them."""

import io
import sys
from typing import Any

import optuna
import pandas as pd
from optuna.study import StudyDirection


def show(study: optuna.Study, shown: Any = None) -> Any:
    """Show a sweep's curves in a notebook, in place of those before; return a handle.

    A metric that is maximised is drawn as 1 - metric: of an accuracy, the error.
    """
    ipython = sys.modules.get("IPython")
    in_kernel = ipython and hasattr(ipython.get_ipython(), "kernel")
    if not in_kernel or not any(trial.intermediate_values for trial in study.trials):
        return None
    from IPython.display import Image, display

    png = io.BytesIO()
    draw(study).savefig(png, format="png", dpi=100)
    if shown is None:
        return display(Image(png.getvalue()), display_id=True)
    shown.update(Image(png.getvalue()))
    return shown


def draw(study: optuna.Study) -> Any:
    """Return a figure of each trial's metric against its intervals."""
    from matplotlib.figure import Figure  # pyplot's would be shown twice

    from hpo_helpers.plotting import plot_curves

    maximize = study.direction == StudyDirection.MAXIMIZE
    rows = [
        {"trial": trial.number, "epoch": interval, "value": 1 - value if maximize else value}
        for trial in study.get_trials(deepcopy=False)
        for interval, value in trial.intermediate_values.items()
    ]
    ax = plot_curves(pd.DataFrame(rows), ax=Figure(figsize=(7.5, 4.2)).subplots())
    metric = study.user_attrs["primary_metric"]
    ax.set(xlabel="intervals (epochs)", ylabel=f"1 - {metric}" if maximize else metric)
    return ax.figure
