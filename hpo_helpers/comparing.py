"""What methods find, and when, over many seeds, and which differences hold.

``method`` and ``seed`` name a run; ``time`` is in seconds of the launcher's clock. Less is
better in what is compared: ``test_error``, unless `value` names another column.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import optuna
import pandas as pd
from optuna.study import StudyDirection

from hpo_helpers.jobs import Launcher
from hpo_helpers.progress import Bar
from hpo_helpers.resuming import reports_of
from hpo_helpers.tuning import Space, tune

RUN = ["method", "seed"]


def reports(study: optuna.Study) -> pd.DataFrame:
    """Return all reports of a study that `tune` ran, in the order of their times.

    Returns
    -------
    DataFrame
        One row a report: ``trial`` (its number), ``epoch``, ``time`` (the study's), ``value``
        (of the tuned metric), and whatever else training yielded.
    """
    first = dict.fromkeys(["trial", "epoch", "time", "value"])
    rows = [
        first | report | {"trial": trial.number, "value": trial.intermediate_values[report["epoch"]]}
        for trial in study.get_trials(deepcopy=False)
        for report in reports_of(trial)
        if report["epoch"] in trial.intermediate_values
    ]
    table = pd.DataFrame(rows, columns=None if rows else list(first))
    return table.sort_values(["time", "trial", "epoch"], ignore_index=True)


def anytime(study: optuna.Study) -> pd.DataFrame:
    """Return the study's incumbents: the `reports` that were better than all before them.

    Each comes with its configuration, in columns ``params_…``.
    """
    table = reports(study)
    sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
    cost = sign * table["value"].astype(float)
    improves = cost < cost.cummin().shift(fill_value=float("inf"))
    incumbents = table[improves].reset_index(drop=True)
    if incumbents.empty:
        return incumbents
    configurations = study.trials_dataframe(("number", "params")).rename(columns={"number": "trial"})
    return incumbents.merge(configurations)


def run_methods(
    methods: Mapping[str, Callable[[int], optuna.Study]],
    seeds: Iterable[int],
    *,
    space: Space,
    launcher: Callable[[int], Launcher],
    epochs: int,
    timeout: float,
    n_jobs: int = -1,
) -> pd.DataFrame:
    """Tune with every method under every seed, and return the incumbents of all runs.

    Parameters
    ----------
    methods
        For each name a function of a seed that returns a new study, the seed in its name.
    seeds
        Given to each method in turn; all different.
    space, epochs, timeout
        As in `tune`, the same for all.
    launcher
        A function of a seed that returns a new launcher.
    n_jobs
        The number of processes; -1 for as many as there are processors.

    Returns
    -------
    DataFrame
        ``method``, ``seed`` and the columns of `anytime`. RuntimeError names a run that fails.
    """
    from joblib import Parallel, delayed

    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"distinct seeds are needed, got {seeds}")
    runs = [(method, seed) for method in methods for seed in seeds]
    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    settings = (space, launcher, epochs, timeout)
    found = parallel(delayed(_run)(run, methods[run[0]], *settings) for run in runs)
    tables = dict(Bar(found, desc="comparing", total=len(runs), unit="run"))
    return pd.concat([tables[run] for run in runs], ignore_index=True)


def _run(run, method, space, launcher, epochs, timeout):
    name, seed = run
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it says of each study that it was made
        with launcher(seed) as opened:
            study = method(seed)
            _check_new(study)
            tune(study, space, opened, epochs=epochs, timeout=timeout, progress=False)
        incumbents = anytime(study)
        if incumbents.empty:
            raise ValueError(f"no training reported anything in {timeout:g} s")
    except Exception as error:
        raise RuntimeError(f"method {name!r} failed with seed {seed!r}: {error!r}") from error
    incumbents.insert(0, "seed", seed)
    incumbents.insert(0, "method", name)
    return run, incumbents


def _check_new(study):
    if study.study_name.startswith("no-name-"):
        raise ValueError("the study needs a name with the seed: study_name=f'tpe-{seed}'")
    if any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
        raise ValueError(f"the study {study.study_name!r} has trials already: return a new one")


def at_times(incumbents: pd.DataFrame, times: Iterable[float]) -> pd.DataFrame:
    """Return the incumbent that each run had at each of some times.

    Parameters
    ----------
    incumbents
        As `run_methods` returns them.
    times
        In seconds. An incumbent that was reported at that very moment counts.

    Returns
    -------
    DataFrame
        One row for each method, seed and time; NaN where a run had not reported yet.
    """
    times = pd.DataFrame({"time": np.asarray(list(times), dtype=float)})
    wanted = incumbents[RUN].drop_duplicates().merge(times, how="cross")
    reported = incumbents.astype({"time": float}).sort_values("time", kind="stable")
    latest = pd.merge_asof(wanted.reset_index().sort_values("time"), reported, on="time", by=RUN)
    return latest.sort_values("index", ignore_index=True).drop(columns="index")


def summarise(
    table: pd.DataFrame, value: str = "test_error", by: Sequence[str] = ("method", "time")
) -> pd.DataFrame:
    """Return median and quartiles over seeds: of `at_times`, this is anytime performance.

    Parameters
    ----------
    table
        One row a seed within each group of `by`. NaN counts as worse than any number.
    by
        The columns that name a group.

    Returns
    -------
    DataFrame
        The columns of `by`, ``n_seeds``, ``n_missing`` (how many are NaN), and
        ``lower_quartile``, ``median``, ``upper_quartile``, interpolated between two seeds.
    """
    columns = {"n_seeds": "size", "n_missing": lambda values: values.isna().sum()}
    for name, share in {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}.items():
        columns[name] = lambda values, share=share: _quantile(values, share)
    return table.groupby(list(by), sort=False)[value].agg(**columns).reset_index()


def _quantile(values, share):
    ordered = np.sort(values.to_numpy(dtype=float))  # NaN last
    position = share * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + (above - below) * (position % 1)


def paired_differences(
    table: pd.DataFrame,
    baseline: str,
    *,
    value: str = "test_error",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compare every method with one of them, seed by seed, and say which differences hold.

    Parameters
    ----------
    table
        As `at_times` returns it. Only seeds that all methods have are compared.
    baseline
        The method to compare with.
    confidence
        Of the interval. A p-value counts as small below 1 - `confidence`.

    Returns
    -------
    DataFrame
        One row for each other method and time: ``difference``, the mean over ``n_seeds`` of
        the method's error less the baseline's; ``low`` and ``high``, its bootstrap interval;
        ``p_value`` of the Wilcoxon signed-rank test; ``p_adjusted``, by Holm's method for all
        methods at that time; ``verdict``: "better" or "worse" where the interval excludes 0 and
        ``p_adjusted`` is small, else "no difference"; and ``detectable``: a difference of this
        size would have been found four times out of five.

    Notes
    -----
    For m methods, ``detectable`` is (t(1 - (1 - `confidence`) / 2m) + t(0.8)) s / √n, from the
    quantiles of Student's t with n - 1 degrees of freedom and the standard deviation s of the n
    differences: the size that a paired t-test needs (Cohen, Statistical Power Analysis, 1988).

    At 20 seeds and errors with a long tail, the interval of 95 % is one of about 90 %. Fewer
    than 6 seeds never give a p-value below 0.05. Choose the times before looking.
    """
    wide = _by_method(_common_seeds(table), value)
    if baseline not in wide or len(wide.columns) < 2:
        raise ValueError(f"baseline must be one of two or more methods {list(wide)}, got {baseline!r}")
    rows = [
        {"method": method, "time": time}
        | _difference(errors[method] - errors[baseline], confidence, len(wide.columns) - 1)
        for method in wide.columns.drop(baseline)
        for time, errors in wide.groupby(level="time")
    ]
    found = pd.DataFrame(rows)
    found["p_adjusted"] = found.groupby("time")["p_value"].transform(_holm)
    holds = found["p_adjusted"] < 1 - confidence
    better, worse = holds & (found["high"] < 0), holds & (found["low"] > 0)
    return found.assign(verdict=np.select([better, worse], ["better", "worse"], "no difference"))


def _difference(differences, confidence, n_methods):
    from scipy.stats import bootstrap, t, wilcoxon

    # Errors are shares of some images: their differences tie, but for rounding.
    sample = differences.to_numpy().round(12)
    settings = {"method": "percentile", "confidence_level": confidence}
    random = np.random.default_rng(0)  # the same interval again
    low, high = bootstrap((sample,), np.mean, **settings, random_state=random).confidence_interval
    p_value = wilcoxon(sample).pvalue if sample.any() else 1.0
    found = {"n_seeds": len(sample), "difference": sample.mean(), "low": low, "high": high}
    quantiles = t.ppf([1 - (1 - confidence) / 2 / n_methods, 0.8], len(sample) - 1)
    detectable = quantiles.sum() * sample.std(ddof=1) / math.sqrt(len(sample))
    return found | {"p_value": float(p_value), "detectable": float(detectable)}


def _holm(p_values):
    """Adjust m p-values (Holm, 1979): the smallest times m, the next m - 1, …"""
    ordered = p_values.sort_values()
    adjusted = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1.0)
    return adjusted.reindex(p_values.index)


def _common_seeds(table):
    """Keep the seeds that every method was run with."""
    common = table.groupby("seed")["method"].nunique() == table["method"].nunique()
    if common.sum() < 2:
        found = list(common.index[common])
        raise ValueError(f"at least 2 seeds must be common to all methods, got {found}")
    return table[table["seed"].map(common)]


def _by_method(table, value):
    """Return a column for each method and a row for each time and seed."""
    missing = table[table[value].isna()]
    if len(missing):
        first = missing.iloc[0][[*RUN, "time"]].to_dict()
        raise ValueError(f"a run has no {value!r} at that time: {first}")
    wide = table.pivot(index=["time", "seed"], columns="method", values=value)
    return wide[table["method"].unique()]
