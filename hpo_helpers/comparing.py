"""What a study found, and when: reports and incumbents against time."""

from __future__ import annotations

import optuna
import pandas as pd
from optuna.study import StudyDirection


def reports(study: optuna.Study) -> pd.DataFrame:
    """Return every report of every trial of a study that `tune` ran, in the order in which they were made.

    Returns
    -------
    DataFrame
        One row a report: ``trial`` (its number), ``epoch``, ``time`` (the study's clock, in seconds), ``value``
        (the metric that was tuned), and a column for everything else that training yielded.
    """
    rows = [
        {"trial": trial.number, **report, "value": trial.intermediate_values[report["epoch"]]}
        for trial in study.get_trials(deepcopy=False)
        for report in trial.user_attrs.get("reports", ())
        if report["epoch"] in trial.intermediate_values
    ]
    if not rows:
        return pd.DataFrame(columns=["trial", "epoch", "time", "value"])
    table = pd.DataFrame(rows).sort_values(["time", "trial", "epoch"], ignore_index=True)
    first = ["trial", "epoch", "time", "value"]
    return table[first + [name for name in table if name not in first]]


def anytime(study: optuna.Study) -> pd.DataFrame:
    """Return the study's incumbents: each report that was better than all before it.

    The incumbent is the best report so far, of any trial: by this one rule every method is judged, whether it
    trains a configuration to the end or not.

    Returns
    -------
    DataFrame
        The rows of `reports` that improved on the incumbent. The last row is the study's incumbent.
    """
    table = reports(study)
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
    cost = sign * table["value"].astype(float)
    improves = cost < cost.cummin().shift(fill_value=float("inf"))
    return table[improves].reset_index(drop=True)
