"""Record what lesson 09 says of constraints, two objectives and costs, over the recorded curves and many seeds.

    python data/record_lesson_09.py          # about 10 minutes on one core; nothing is trained

All of it is replayed; within an experiment every run has the same virtual seconds. It may be interrupted: run
again, it goes on with the runs that the files lack.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import IntDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from hpo_helpers.comparing import anytime, reports
from hpo_helpers.curves import NoisyCurves, cnn_curves
from hpo_helpers.datasets import load_curves
from hpo_helpers.gaussian_process import GaussianProcess, expected_improvement
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN, from_unit_cube, to_unit_cube
from hpo_helpers.tuning import tune

SEEDS = range(9000, 9020)
TRAINING = load_curves().groupby("configuration")["seconds"].sum().mean()  # seconds of an average one
BUDGET = 20 * TRAINING  # of one worker, in the second and third experiment

NewSampler = Callable[[int], BaseSampler]

# A constraint that is known before training: at most 40,000 parameters. Four workers, time for 40 trainings.

LIMIT = 40_000


def excess(n_channels: int) -> int:
    """Return by how many parameters the CNN is above the limit: feasible at 0 or less."""
    convolutions = 26 * n_channels + (25 * n_channels + 1) * 2 * n_channels
    return convolutions + (4 * 4 * 2 * n_channels + 1) * 128 + 129 * 10 - LIMIT


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Suggest a configuration of `MNIST_CNN`."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1.0, log=True),
        "momentum": trial.suggest_float("momentum", 0.0, 0.95),
        "batch_size": trial.suggest_int("batch_size", 16, 128, log=True),
        "n_channels": trial.suggest_int("n_channels", 4, 16, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
    }


def told(trial: optuna.Trial) -> dict[str, Any]:
    """Tell the study of the constraint, and train in any case."""
    params = suggest(trial)
    trial.set_constraint("parameters", excess(params["n_channels"]))
    return params


def pruned(trial: optuna.Trial) -> dict[str, Any]:
    """Tell the study of the constraint, and train only what meets it."""
    params = told(trial)
    if excess(params["n_channels"]) > 0:
        raise optuna.TrialPruned("too many parameters")
    return params


SPACES = {
    "filtered": suggest,
    "told": told,
    "pruned": pruned,
    "narrowed": MNIST_CNN | {"n_channels": IntDistribution(4, 8, log=True)},
}
SAMPLERS: dict[str, NewSampler] = {
    "random search": RandomSampler,
    "NSGA-II": lambda seed: NSGAIISampler(population_size=10, seed=seed),
    "TPE": lambda seed: TPESampler(seed=seed),
}
LIMITS = ["random search, filtered", "random search, pruned", "NSGA-II, told"]
LIMITS += ["TPE, filtered", "TPE, told", "TPE, pruned", "TPE, narrowed"]


def limited(method: str, seed: int) -> pd.DataFrame:
    """Return the best feasible trial, what was proposed, and the seconds of training that broke the limit."""
    sampler, way = method.split(", ")
    study = optuna.create_study(study_name=f"{method}-{seed}", sampler=SAMPLERS[sampler](seed), pruner=NopPruner())
    with ReplayLauncher(4, curves=NoisyCurves(seed)) as launcher:
        tune(study, SPACES[way], launcher, epochs=27, timeout=40 * TRAINING / 4, progress=False)
    trials = study.trials
    large = [trial.user_attrs for trial in trials if excess(trial.params["n_channels"]) > 0]
    small = [t for t in study.get_trials(states=[TrialState.COMPLETE]) if excess(t.params["n_channels"]) <= 0]
    best = min(small, key=lambda trial: trial.value)
    row = {
        "proposals": "".join("x" if excess(trial.params["n_channels"]) > 0 else "." for trial in trials),
        "feasible_trained": len(small),
        "infeasible_seconds": sum(one["finished"] - one["started"] for one in large if "finished" in one),
    }
    return pd.DataFrame([row | {f"params_{name}": value for name, value in best.params.items()}])


# Two objectives: error, and seconds of training.

TRADE = MNIST_CNN | {"epochs": IntDistribution(1, 27)}


def by_pairs(sampler: BaseSampler, seed: int) -> pd.DataFrame:
    """Search for error and seconds, the number of epochs too; return one row an epoch that was trained."""
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    curves, spent, tables = NoisyCurves(seed), 0, []
    while spent < BUDGET:
        trial = study.ask(TRADE)
        params = {name: trial.params[name] for name in MNIST_CNN}
        curve = pd.DataFrame(curves(params)[: trial.params["epochs"]])
        curve["total"] = curve["seconds"].cumsum()
        error, seconds = curve[["valid_error", "total"]].iloc[-1]
        study.tell(trial, [error, seconds])
        spent += seconds
        tables.append(curve.assign(trial=trial.number, **params))
    return pd.concat(tables, ignore_index=True)


def by_error(sampler: BaseSampler, pruner: BasePruner, seed: int) -> pd.DataFrame:
    """Search for error alone; return one row an epoch that was trained."""
    study = optuna.create_study(study_name=f"error-{seed}", sampler=sampler, pruner=pruner)
    with ReplayLauncher(1, curves=NoisyCurves(seed)) as launcher:
        tune(study, MNIST_CNN, launcher, epochs=27, timeout=BUDGET, progress=False)
    table = reports(study)
    table["total"] = table.groupby("trial")["seconds"].cumsum()
    return table.join(pd.DataFrame([trial.params for trial in study.trials]), on="trial")


HALVING = SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
FRONTS: dict[str, Callable[[int], pd.DataFrame]] = {
    "random search": lambda seed: by_pairs(RandomSampler(seed), seed),
    "NSGA-II": lambda seed: by_pairs(NSGAIISampler(population_size=10, seed=seed), seed),
    "TPE": lambda seed: by_pairs(TPESampler(seed=seed), seed),
    "random search, error alone": lambda seed: by_error(RandomSampler(seed), NopPruner(), seed),
    "univariate TPE + successive halving, error alone": lambda seed: by_error(
        TPESampler(multivariate=False, seed=seed), HALVING, seed
    ),
}


def front(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that no other beats in validation error and seconds, the cheapest first."""
    table = table.sort_values(["total", "valid_error"])
    return table[table["valid_error"] < table["valid_error"].cummin().shift(fill_value=1)]


def expected(row: pd.Series) -> float:
    """Return the test error of a configuration after some epochs, without noise."""
    return cnn_curves()({name: row[name] for name in MNIST_CNN})[int(row["epoch"]) - 1]["test_error"]


def hypervolume(errors: np.ndarray, seconds: np.ndarray) -> float:
    """Return the area between a front and (90 %, 30 s), in powers of ten."""
    order = np.argsort(seconds)
    heights = np.log10(0.9) - np.log10(np.minimum.accumulate(np.minimum(errors[order], 0.9)))
    widths = np.diff(np.log10(np.append(seconds[order], 30)))
    return float(heights @ widths)


def traded(method: str, seed: int) -> pd.DataFrame:
    """Return one row for the front of the trials' ends, and one for that of all epochs."""
    table = FRONTS[method](seed)
    parts = {"ends": table.drop_duplicates("trial", keep="last"), "epochs": table}
    rows = []
    for points, part in parts.items():
        found = front(part[part["total"] < 30])
        errors = np.array([expected(row) for _, row in found.iterrows()])
        row = {"points": points, "trials": table["trial"].nunique(), "size": len(found)}
        row["hypervolume"] = hypervolume(errors, found["total"].to_numpy())
        affordable = {limit: errors[found["total"] <= limit] for limit in (1, 2, 5, 10)}
        row |= {f"at_{limit}": [0.9, *some][-1] for limit, some in affordable.items()}  # the chosen one, if any
        rows.append(row)
    return pd.DataFrame(rows)


# Expected improvement per second.

CHEAP = {"n_channels": IntDistribution(4, 6, log=True), "batch_size": IntDistribution(64, 128, log=True)}


class PerSecond(BaseSampler):
    """Propose where the expected improvement, over the seconds to some power, is largest."""

    def __init__(self, seed, power, start=None):
        self._first, self._random = RandomSampler(seed), np.random.default_rng(seed)
        self._power, self._start = power, MNIST_CNN | (start or {})

    def infer_relative_search_space(self, study, trial):
        return MNIST_CNN

    def sample_independent(self, study, trial, name, distribution):
        return self._first.sample_independent(study, trial, name, self._start[name])

    def sample_relative(self, study, trial, space):
        done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        return propose(done, self._power, self._random) if len(done) >= 5 else {}


def propose(done, power, random):
    """Return the most promising of 1,000 random configurations; `power` is a function of the seconds spent."""
    known = np.array([[*to_unit_cube(MNIST_CNN, trial.params).values(), 1] for trial in done])
    errors = np.log([trial.value for trial in done])
    seconds = np.array([trial.user_attrs["finished"] - trial.user_attrs["started"] for trial in done])
    model = GaussianProcess(len(MNIST_CNN), random).fit(known, np.minimum(errors, errors.min() + 1.5))
    slopes = np.linalg.lstsq(known, np.log(seconds), rcond=None)[0]
    candidates = np.column_stack([random.random((1000, len(MNIST_CNN))), np.ones(1000)])
    improvement = expected_improvement(*model.predict(candidates), model.predict(known)[0].min())
    scores = improvement / np.exp(candidates @ slopes) ** power(seconds.sum())
    return from_unit_cube(MNIST_CNN, dict(zip(MNIST_CNN, candidates[scores.argmax()], strict=False)))


COSTS: dict[str, NewSampler] = {
    "random search": RandomSampler,
    "expected improvement": lambda seed: PerSecond(seed, lambda spent: 0),
    "per second": lambda seed: PerSecond(seed, lambda spent: 1),
    "per second, cooled": lambda seed: PerSecond(seed, lambda spent: 1 - spent / BUDGET),
    "cheap first": lambda seed: PerSecond(seed, lambda spent: 0, CHEAP),
}


def timed(method: str, seed: int) -> pd.DataFrame:
    """Return the incumbents of one run, and how many trials it began."""
    study = optuna.create_study(study_name=f"{method}-{seed}", sampler=COSTS[method](seed), pruner=NopPruner())
    with ReplayLauncher(1, curves=NoisyCurves(seed)) as launcher:
        tune(study, MNIST_CNN, launcher, epochs=27, timeout=BUDGET, progress=False)
    table = anytime(study).drop(columns=["seconds", "valid_error", "epoch"])
    return table.assign(trials=len(study.trials))


EXPERIMENTS = {"limits": (limited, LIMITS), "fronts": (traded, FRONTS), "costs": (timed, COSTS)}


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name, (run, methods) in EXPERIMENTS.items():
        path = Path(__file__).resolve().parent / f"lesson_09_{name}.csv.gz"
        tables = [pd.read_csv(path)] if path.exists() else []
        done = set(tables[0]["method"]) if tables else set()
        for method in [method for method in methods if method not in done]:
            tables += [run(method, seed).round(6).assign(method=method, seed=seed) for seed in SEEDS]
            pd.concat(tables).to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})
            print(method, flush=True)


if __name__ == "__main__":
    main()
