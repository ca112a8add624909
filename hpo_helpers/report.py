"""A report that a study fills in: one HTML file that stands alone. Copy this file where you need it."""

import base64
import html
import io
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
import pandas as pd

STYLE = """body {font: 16px/1.4 sans-serif; max-width: 44em; margin: 2em auto; padding: 0 1em} img {max-width: 100%}
table {border-collapse: collapse} th, td {padding: .2em .8em; text-align: left; border-bottom: 1px solid #ccc}"""


def write_report(
    path: Path,
    study: optuna.Study,
    *,
    title: str,
    planned: Mapping[str, object],
    tests: pd.DataFrame,
    not_claimed: Sequence[str],
    reproduce: Mapping[str, object],
) -> list[str]:
    """Write to `path` what a study says of itself, and what it cannot know; return the headings.

    `planned` is the budget as it stood before the start; `tests` what was measured at the end, on data that chose
    nothing; `reproduce` what a second run needs besides: seeds, the data's checksum, the commit.
    """
    space, is_single = search_space(study), len(study.directions) == 1
    near = [f"That {name} is best at {space['best'][name]}: a bound is near." for name in space.index[space["near a bound"]]]
    states = pd.Series([trial.state.name.lower() for trial in study.trials]).value_counts()
    seconds = max(end_of(study, trial) for trial in study.trials if trial.state.is_finished())
    methods = {"sampler": type(study.sampler).__name__, "pruner": type(study.pruner).__name__}
    versions = {name: version(name) for name in ("optuna", "numpy")} | {"python": platform.python_version()}
    sections = {
        "Search space": space.to_html(border=0),
        "Budget, planned": rows_of(planned),
        "Budget, used": rows_of({"trials": len(study.trials), **states, "seconds": seconds}),
        "Incumbent over time" if is_single else "Pareto front": picture(study, is_single),
        "Final test": tests.to_html(border=0),
        "What is not claimed": "".join(f"<p>{html.escape(line)}</p>" for line in [*not_claimed, *near]),
        "To run it again": rows_of({**reproduce, **methods, **versions}),
    }
    if is_single:
        sections["Importance (PED-ANOVA)"] = rows_of(optuna.importance.get_param_importances(study))
    body = "\n".join(f"<h2>{heading}</h2>\n{content}" for heading, content in sections.items())
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    page = f'<!doctype html><html lang="en">\n{head}\n<h1>{html.escape(title)}</h1>\n{body}\n</html>\n'
    Path(path).write_text(page, encoding="utf-8")
    return list(sections)


def rows_of(values: Mapping[str, object]) -> str:
    """Return a table of names and values."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in values.items()}
    return pd.Series(shown, dtype=object).to_frame().to_html(header=False, border=0)


def search_space(study: optuna.Study) -> pd.DataFrame:
    """Return a row a hyperparameter: its range, the (first) best trial's value, and whether a bound is near that."""
    best, rows = study.best_trials[0].params, {}
    for name, found in {name: d for trial in study.trials for name, d in trial.distributions.items()}.items():
        row = rows[name] = {"range": "", "best": best.get(name, "none"), "near a bound": False}
        if isinstance(found, optuna.distributions.CategoricalDistribution):
            row["range"] = ", ".join(map(str, found.choices))
            continue
        row["range"] = f"{found.low:g} to {found.high:g}" + ", logarithmic" * found.log
        if name in best:
            low, high, value = (math.log(x) if found.log else x for x in (found.low, found.high, best[name]))
            row |= {"best": f"{best[name]:.3g}", "near a bound": not 0.05 <= (value - low) / (high - low) <= 0.95}
    return pd.DataFrame.from_dict(rows, orient="index")


def end_of(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> float:
    """Return the second at which a finished trial ended, by the clock of `tune` where it wrote that down."""
    start = min(other.datetime_start for other in study.trials)
    return trial.user_attrs.get("finished", (trial.datetime_complete - start).total_seconds())


def picture(study: optuna.Study, is_single: bool) -> str:
    """Return the incumbent over time, of complete trials, or the Pareto front of the first two objectives."""
    figure, ax = plt.subplots(figsize=(7, 3.5))
    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    points = [[end_of(study, trial), *trial.values] if is_single else trial.values for trial in complete]
    table = pd.DataFrame(points).sort_values(0)
    ax.plot(table[0], table[1], ".", color="#999999", label="complete trials")
    is_best = table[1].isin([trial.values[-1] for trial in study.best_trials])
    if is_single:
        is_best = table[1] == (table[1].cummin() if study.direction.name == "MINIMIZE" else table[1].cummax())
    ax.step(*table.loc[is_best, [0, 1]].T.to_numpy(), "o-", where="post", color="#D55E00", label="the best")
    ax.set(xlabel="seconds" if is_single else "first objective", ylabel="value" if is_single else "second objective")
    ax.legend()
    figure.savefig(file := io.BytesIO(), format="png", bbox_inches="tight")
    plt.close(figure)
    return f'<img alt="the best trials" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
