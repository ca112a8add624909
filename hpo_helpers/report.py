"""A report that a study fills in: one HTML file that stands alone. This file may be copied."""

import html
import io
import math
import platform
from pathlib import Path

import optuna
import pandas as pd
from matplotlib.figure import Figure


def write_report(
    path: Path, study: optuna.Study, *, planned: dict, tests: pd.DataFrame, not_claimed: list, reproduce: dict
) -> list[str]:
    """Write to `path` what a study says of itself, and what it cannot know; return the headings.

    `planned` is the budget as it stood before the start; `tests` what was measured at the end, on data
    that chose nothing; `reproduce` what a second run needs besides: seeds, the data's checksum, the commit.
    """
    space, ends, is_single = search_space(study), ends_of(study), len(study.directions) == 1
    states = pd.Series([trial.state.name.lower() for trial in study.trials]).value_counts()
    near = space.index[space["near a bound"]]
    lines = [*not_claimed, *(f"That {name} is best there: a bound is near." for name in near)]
    tools = {"sampler": type(study.sampler).__name__, "pruner": type(study.pruner).__name__}
    tools |= {"optuna": optuna.__version__, "python": platform.python_version()}
    sections = {"Search space": space.to_html(border=0), "Budget, planned": rows_of(planned)}
    sections["Budget, used"] = rows_of({"trials": len(study.trials), **states, "seconds": max(ends.values())})
    sections["Incumbent over time" if is_single else "Pareto front"] = picture(study, ends)
    if is_single:
        heading = f"Importance by PED-ANOVA, from {states['complete']} complete trials"
        sections[heading] = rows_of(optuna.importance.get_param_importances(study))
    sections["Final test"] = tests.to_html(border=0)
    sections["What is not claimed"] = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    sections["To run it again"] = rows_of(reproduce | tools)
    body = "\n".join(f"<h2>{heading}</h2>\n{content}" for heading, content in sections.items())
    title, style = html.escape(study.study_name), "body {max-width: 44em; margin: auto; font-family: arial}"
    style += " th, td {padding: 3px 9px; text-align: left} svg {max-width: 100%; height: auto}"
    head = f'<!doctype html><html lang=en><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
    path.write_text(f"{head}\n<h1>{title}</h1>\n{body}\n</html>\n", encoding="utf-8")
    return list(sections)


def rows_of(values: dict) -> str:
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in values.items()}
    return pd.Series(shown, dtype=object).to_frame().to_html(header=False, border=0)


def search_space(study: optuna.Study) -> pd.DataFrame:
    """Return a row a hyperparameter: its range, a best trial's value, and whether a bound is near that."""
    best, rows = study.best_trials[0].params, {}
    for name, found in {name: d for trial in study.trials for name, d in trial.distributions.items()}.items():
        row = rows[name] = {"range": "", "best": best.get(name, "none"), "near a bound": False}
        if isinstance(found, optuna.distributions.CategoricalDistribution):
            row["range"] = ", ".join(map(str, found.choices))
            continue
        row["range"] = f"{found.low:g} to {found.high:g}" + ", logarithmic" * found.log
        if name in best:
            low, high, value = (math.log(x) if found.log else x for x in (found.low, found.high, best[name]))
            is_near = not 0.05 <= (value - low) / (high - low) <= 0.95
            row |= {"best": f"{best[name]:.3g}", "near a bound": is_near}
    return pd.DataFrame.from_dict(rows, orient="index")


def ends_of(study: optuna.Study) -> dict[int, float]:
    """Return the second at which each finished trial ended, by the clock of `tune` where it wrote that."""
    ended = [trial for trial in study.trials if trial.duration is not None]
    start = min(trial.datetime_start for trial in ended)
    seconds = {trial.number: (trial.datetime_complete - start).total_seconds() for trial in ended}
    return {trial.number: trial.user_attrs.get("finished", seconds[trial.number]) for trial in ended}


def picture(study: optuna.Study, ends: dict) -> str:
    """Return the complete trials, with the incumbent over time or the front of the first two objectives."""
    is_single, complete = len(study.directions) == 1, [t for t in study.trials if t.state.name == "COMPLETE"]
    points = [(ends[t.number], t.value) if is_single else t.values[:2] for t in complete]
    table = pd.DataFrame(points, columns=["x", "y"], index=[t.number for t in complete]).sort_values("x")
    if is_single:
        best = table["y"].cummin() if study.direction.name == "MINIMIZE" else table["y"].cummax()
        best = pd.concat([best.set_axis(table["x"]), pd.Series({max(ends.values()): best.iloc[-1]})])
    else:
        best = table.loc[[t.number for t in study.best_trials]].sort_values("x").set_index("x")["y"]
    ax = (figure := Figure(figsize=(7, 3.5))).add_subplot()
    ax.plot(table["x"], table["y"], ".", color="#999999", label="complete trials")
    ax.step(best.index, best, where="post", color="#D55E00", label="the best of them")
    ax.set(xlabel=("first value", "seconds")[is_single], ylabel=("second value", "value")[is_single])
    ax.legend()
    figure.savefig(file := io.StringIO(), format="svg", bbox_inches="tight")
    return file.getvalue()[file.getvalue().index("<svg") :]
