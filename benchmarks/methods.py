"""Compare methods of hyperparameter optimization over many seeds, at equal time on four virtual workers.

    make bench                  # or: python benchmarks/methods.py --seeds 50

Each seed is another realisation of the noise in the recorded curves, the same for every method. The
incumbents of all runs are written to ``data/method_comparison.csv.gz``, which lesson 06 reads; the tables
that sum them up are printed. It takes some ten minutes on two processors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler

from hpo_helpers import comparing
from hpo_helpers.curves import NoisyCurves
from hpo_helpers.datasets import load_curves
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN

EPOCHS = 27  # of a full training
N_WORKERS = 4
BUDGETS = (5, 10, 20, 60)  # in full trainings
DEFAULT = "TPE + Hyperband"
RECOMMENDED = "univariate TPE + successive halving, default first"

#: Trained before anything else by methods that say so: what one writes down before the first experiment.
FIRST = [{"learning_rate": 0.1, "momentum": 0.5, "batch_size": 64, "n_channels": 8, "dropout": 0.25}]

DATA = Path(__file__).resolve().parent.parent / "data"


def new_study(
    name: str, seed: int, sampler: BaseSampler, pruner: BasePruner, first: list[dict[str, Any]] | None = None
) -> optuna.Study:
    """Return a study with its name and seed in its name, and configurations that are to be trained first."""
    study = optuna.create_study(study_name=f"{name}-{seed}", sampler=sampler, pruner=pruner)
    for params in first or []:
        study.enqueue_trial(params)
    return study


def random_search(seed: int) -> optuna.Study:
    """Draw every configuration at random, and train it to the end."""
    return new_study("random", seed, RandomSampler(seed), NopPruner())


def tpe(seed: int) -> optuna.Study:
    """Search by tree-structured Parzen estimators with Optuna's settings, and train to the end."""
    return new_study("tpe", seed, TPESampler(seed=seed), NopPruner())


def cma_es(seed: int) -> optuna.Study:
    """Search by an evolution strategy that adapts its covariance matrix, and train to the end."""
    return new_study("cma-es", seed, CmaEsSampler(seed=seed, warn_independent_sampling=False), NopPruner())


def successive_halving() -> BasePruner:
    """Return a pruner that lets the best third go on after 1, 3, and 9 epochs."""
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def random_halving(seed: int) -> optuna.Study:
    """Draw at random, halve successively."""
    return new_study("random-halving", seed, RandomSampler(seed), successive_halving())


def tpe_hyperband(seed: int) -> optuna.Study:
    """Search by TPE with Optuna's settings, halve in the brackets of Hyperband (as BOHB does)."""
    return new_study("tpe-hyperband", seed, TPESampler(seed=seed), HyperbandPruner(1, EPOCHS, 3))


def univariate_tpe(seed: int) -> BaseSampler:
    """Return TPE that models each hyperparameter by itself."""
    return TPESampler(seed=seed, multivariate=False, constant_liar=True)


def univariate_halving(seed: int) -> optuna.Study:
    """Search by univariate TPE, halve successively."""
    return new_study("univariate-halving", seed, univariate_tpe(seed), successive_halving())


def default_first(seed: int) -> optuna.Study:
    """Search by univariate TPE, halve successively, and begin with a default configuration."""
    return new_study("default-first", seed, univariate_tpe(seed), successive_halving(), FIRST)


METHODS: dict[str, Callable[[int], optuna.Study]] = {
    "random search": random_search,
    "TPE": tpe,
    "CMA-ES": cma_es,
    "random search + successive halving": random_halving,
    DEFAULT: tpe_hyperband,
    "univariate TPE + successive halving": univariate_halving,
    RECOMMENDED: default_first,
}


def launcher(seed: int) -> ReplayLauncher:
    """Return four virtual workers, and evaluations whose noise is this seed's."""
    return ReplayLauncher(N_WORKERS, curves=NoisyCurves(seed))


def seconds_of(trainings: float) -> float:
    """Return how long the workers take together for so many full trainings of an average configuration."""
    seconds = load_curves().groupby("configuration")["seconds"].sum().mean()
    return float(trainings * seconds / N_WORKERS)


def compare(seeds: range, n_jobs: int) -> pd.DataFrame:
    """Run all methods under all seeds; `comparing.run_methods` says what is returned."""
    timeout = seconds_of(max(BUDGETS))
    settings = {"space": MNIST_CNN, "launcher": launcher, "epochs": EPOCHS, "timeout": timeout}
    incumbents = comparing.run_methods(METHODS, seeds, n_jobs=n_jobs, **settings)
    columns = ["method", "seed", "trial", "epoch", "time", "value", "test_error"]
    return incumbents[columns].round({"time": 2, "value": 5, "test_error": 5})


def with_regret(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``regret``: 0 is the best configuration of the grid, 1 the median one."""
    best = comparing.best_configuration(load_curves("mnist_cnn_noise"))
    curves = load_curves()
    typical = curves.loc[curves["epoch"] == EPOCHS, "test_error"].median()
    return comparing.normalised_regret(table, best["test_error"], typical)


def at_trainings(incumbents: pd.DataFrame, trainings: list[float]) -> pd.DataFrame:
    """Return incumbents and their regret after so many ``trainings``' worth of time."""
    table = comparing.at_times(incumbents, [seconds_of(number) for number in trainings])
    return with_regret(table).assign(trainings=(table["time"] / seconds_of(1)).round(6))


def regrets(incumbents: pd.DataFrame) -> pd.DataFrame:
    """Return each method's regret in per cent, median and quartiles, a column for each budget."""
    table = at_trainings(incumbents, BUDGETS)
    found = comparing.summarise(table, "regret", by=["method", "trainings"])
    percent = 100 * found[["lower_quartile", "median", "upper_quartile"]]
    found["regret"] = [f"{middle:.1f} ({low:.1f} to {high:.1f})" for low, middle, high in percent.to_numpy()]
    return found.pivot(index="method", columns="trainings", values="regret").loc[list(METHODS)]


def ranks(incumbents: pd.DataFrame) -> pd.DataFrame:
    """Return each method's average rank, a column for each budget."""
    table = comparing.average_ranks(at_trainings(incumbents, BUDGETS))
    table["trainings"] = (table["time"] / seconds_of(1)).round(6)
    return table.pivot(index="method", columns="trainings", values="average_rank").loc[list(METHODS)].round(2)


def differences(incumbents: pd.DataFrame) -> pd.DataFrame:
    """Return by how much the methods' test errors differ from the recommended one's, in percentage points."""
    table = comparing.paired_differences(at_trainings(incumbents, BUDGETS), RECOMMENDED)
    table.insert(1, "trainings", (table.pop("time") / seconds_of(1)).round(6))
    table[["difference", "low", "high"]] *= 100
    return table.round({"difference": 3, "low": 3, "high": 3, "p_value": 4, "p_adjusted": 4})


def time_saved(incumbents: pd.DataFrame) -> pd.DataFrame:
    """Return the time each method needs for the median regret that Optuna's default has at each budget.

    It is a share of the time that the default itself needs. NaN: not reached in the time there is.
    """
    grid = [number / 4 for number in range(1, 4 * max(BUDGETS) + 1)]
    found = comparing.summarise(at_trainings(incumbents, grid), "regret", by=["method", "trainings"])
    medians = found.pivot(index="trainings", columns="method", values="median")
    first = {budget: (medians <= medians.loc[budget, DEFAULT]).apply(_first_true) for budget in BUDGETS}
    table = pd.DataFrame(first).loc[list(METHODS)]
    return (table / table.loc[DEFAULT]).round(2)


def _first_true(reached: pd.Series) -> float:
    return reached.idxmax() if reached.any() else float("nan")


def main() -> None:
    """Run the comparison, write it, and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1 for one a processor")
    parser.add_argument("--out", type=Path, default=DATA / "method_comparison.csv.gz")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    incumbents = compare(seeds, arguments.jobs)
    incumbents.to_csv(arguments.out, index=False, compression={"method": "gzip", "mtime": 0})
    print_tables(incumbents)


def print_tables(incumbents: pd.DataFrame) -> None:
    """Print what the comparison found."""
    n_methods, n_seeds = incumbents["method"].nunique(), incumbents["seed"].nunique()
    distance = comparing.critical_difference(n_methods, n_seeds)
    show("Regret in %, median (quartiles), after so many full trainings' worth of time", regrets(incumbents))
    show(f"Average rank (methods differ from {distance:.2f} on)", ranks(incumbents))
    show(f"Test error less that of {RECOMMENDED!r}, percentage points", differences(incumbents))
    show(
        f"Time needed for the regret of {DEFAULT} at each budget, as a share of its own",
        time_saved(incumbents),
    )


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table under a title."""
    print(f"\n{title}\n{table.to_string(index=table.index.name is not None)}")


if __name__ == "__main__":
    main()
