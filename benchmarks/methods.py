"""Compare methods of hyperparameter optimization over many seeds, at equal time on virtual workers.

    make bench                  # or: python benchmarks/methods.py

Each seed is another realisation of the noise in the recorded curves, the same for every method. The
incumbents of all runs are written to ``data/method_comparison.csv.gz``; the tables
that sum them up are printed. Interrupt it at any time: seeds that are in the file already are not run again.
Move the file away to run all, which takes some twenty minutes on two processors.
"""

import argparse
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler

from hpo_helpers import comparing
from hpo_helpers.curves import NoisyCurves, RecordedCurves
from hpo_helpers.datasets import load_curves
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.train_mnist import train

EPOCHS = 27  # of a full training
N_WORKERS = 4
BUDGETS = (5, 10, 20, 60)  # in full trainings
SEEDS_AT_A_TIME = 10
DEFAULT = "TPE + Hyperband"
RECOMMENDED = "univariate TPE + successive halving, default first"

#: Trained before anything else by methods that say so: what the training script does when it is told nothing.
#: These defaults were written before any curve was recorded. A space that lacks one of the names ignores it.
FIRST = [{name: inspect.signature(train).parameters[name].default for name in MNIST_CNN}]

Method = Callable[[int], optuna.Study]  # a fresh study for a seed

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class Setting:
    """Which recording is tuned over, by how many workers, and under which seeds."""

    recording: str
    n_workers: int
    seeds: range  #: from 1000 on, as methods were chosen under lower ones

    def curves(self) -> RecordedCurves:
        """Return the recorded curves, over those hyperparameters of the CNN that this network has too."""
        table = load_curves(self.recording)
        return RecordedCurves(table, {name: MNIST_CNN[name] for name in MNIST_CNN if name in table})


CNN = Setting("mnist_cnn_curves", N_WORKERS, range(1000, 1050))
SETTINGS = {
    "cnn": CNN,
    "cnn, 16 workers": Setting("mnist_cnn_curves", 16, range(1000, 1030)),
    "mlp": Setting("mnist_mlp_curves", N_WORKERS, range(1000, 1030)),
}


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


METHODS: dict[str, Method] = {
    "random search": random_search,
    "TPE": tpe,
    "CMA-ES": cma_es,
    "random search + successive halving": random_halving,
    DEFAULT: tpe_hyperband,
    "univariate TPE + successive halving": univariate_halving,
    RECOMMENDED: default_first,
}


@functools.cache
def training_seconds(recording: str) -> float:
    """Return how long a full training of an average configuration takes."""
    return float(load_curves(recording).groupby("configuration")["seconds"].sum().mean())


def seconds_of(trainings: float, setting: Setting = CNN) -> float:
    """Return how long the workers take together for so many full trainings of an average configuration."""
    return trainings * training_seconds(setting.recording) / setting.n_workers


def compare(setting: Setting, seeds: Sequence[int], n_jobs: int, methods: dict[str, Method] = METHODS) -> pd.DataFrame:
    """Run methods under some seeds; `comparing.run_methods` says what is returned."""
    curves = setting.curves()

    # The MLP has no noise recording of its own: its curves are disturbed by the CNN's residuals.
    def launcher(seed: int) -> ReplayLauncher:
        return ReplayLauncher(setting.n_workers, curves=NoisyCurves(seed, curves=curves))

    times = {"epochs": EPOCHS, "timeout": seconds_of(max(BUDGETS), setting)}
    settings = {"space": curves.space, "launcher": launcher, **times}
    incumbents = comparing.run_methods(methods, seeds, n_jobs=n_jobs, **settings)
    columns = ["method", "seed", "trial", "epoch", "time", "value", "test_error"]
    return incumbents[columns].round({"time": 2, "value": 5, "test_error": 5})


@functools.cache
def best_error(recording: str) -> float:
    """Return the test error of the best configuration: the one that validation chooses."""
    if recording == CNN.recording:
        return comparing.best_configuration(load_curves("mnist_cnn_noise"))["test_error"]
    # Trained under one seed only: the mean of the last epochs stands for that of several trainings.
    curves = load_curves(recording)
    last = curves[curves["epoch"] > EPOCHS - 3].groupby("configuration")[["valid_error", "test_error"]].mean()
    return float(last.loc[last["valid_error"].idxmin(), "test_error"])


@functools.cache
def typical_error(recording: str) -> float:
    """Return the median test error of all configurations, trained to the end."""
    curves = load_curves(recording)
    return float(curves.loc[curves["epoch"] == EPOCHS, "test_error"].median())


def with_regret(table: pd.DataFrame, setting: Setting = CNN) -> pd.DataFrame:
    """Add the column ``regret``: 0 is the best configuration of the grid, 1 the median one."""
    return comparing.normalised_regret(table, best_error(setting.recording), typical_error(setting.recording))


def at_trainings(incumbents: pd.DataFrame, trainings: Sequence[float], setting: Setting = CNN) -> pd.DataFrame:
    """Return incumbents and their regret after so many ``trainings``' worth of time."""
    table = comparing.at_times(incumbents, [seconds_of(number, setting) for number in trainings])
    table["trainings"] = (table["time"] / seconds_of(1, setting)).round(6)
    return with_regret(table, setting)


def regrets(table: pd.DataFrame) -> pd.DataFrame:
    """Return each method's regret in per cent, median and quartiles, a column for each budget."""
    found = comparing.summarise(table, "regret", by=["method", "trainings"])
    percent = 100 * found[["lower_quartile", "median", "upper_quartile"]]
    found["regret"] = [f"{middle:.1f} ({low:.1f} to {high:.1f})" for low, middle, high in percent.to_numpy()]
    return found.pivot(index="method", columns="trainings", values="regret").loc[list(METHODS)]


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Return each method's average rank, a column for each budget."""
    found = comparing.average_ranks(table.assign(time=table["trainings"]))
    found = found.rename(columns={"time": "trainings"})
    return found.pivot(index="method", columns="trainings", values="average_rank").loc[list(METHODS)].round(2)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return by how much the methods' test errors differ from the recommended one's, in percentage points."""
    found = comparing.paired_differences(table.assign(time=table["trainings"]), RECOMMENDED)
    found[["difference", "low", "high"]] *= 100
    found = found.rename(columns={"time": "trainings"})
    return found.round({"difference": 3, "low": 3, "high": 3, "p_value": 4, "p_adjusted": 4})


def time_saved(table: pd.DataFrame) -> pd.DataFrame:
    """Return the time each method needs for the median regret that Optuna's default has at each budget.

    It is a share of the time that the default itself needs. NaN: not reached in the time there is.
    """
    found = comparing.summarise(table, "regret", by=["method", "trainings"])
    medians = found.pivot(index="trainings", columns="method", values="median")
    first = {budget: (medians <= medians.loc[budget, DEFAULT]).apply(_first_true) for budget in BUDGETS}
    shares = pd.DataFrame(first).loc[list(METHODS)]
    return (shares / shares.loc[DEFAULT]).round(2)


def _first_true(reached: pd.Series) -> float:
    return reached.idxmax() if reached.any() else float("nan")


def main() -> None:
    """Run what the file lacks of every setting, and print the tables of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1 for one a processor")
    parser.add_argument("--out", type=Path, default=DATA / "method_comparison.csv.gz")
    arguments = parser.parse_args()
    for name, setting in SETTINGS.items():
        run_missing(name, setting, arguments.out, arguments.jobs)
        table = pd.read_csv(arguments.out)
        print_tables(name, setting, table[table["setting"] == name])


def run_missing(name: str, setting: Setting, out: Path, n_jobs: int) -> None:
    """Run the seeds of a setting that the file lacks, and add them there, some at a time."""
    done = [pd.read_csv(out)] if out.exists() else []
    finished = {seed for table in done for seed in table.loc[table["setting"] == name, "seed"]}
    missing = [seed for seed in setting.seeds if seed not in finished]
    for start in range(0, len(missing), SEEDS_AT_A_TIME):
        found = compare(setting, missing[start : start + SEEDS_AT_A_TIME], n_jobs)
        found.insert(0, "setting", name)
        done.append(found)
        pd.concat(done).to_csv(out, index=False, compression={"method": "gzip", "mtime": 0})


def print_tables(name: str, setting: Setting, incumbents: pd.DataFrame) -> None:
    """Print what the comparison found in one setting."""
    table = at_trainings(incumbents, BUDGETS, setting)
    quarters = at_trainings(incumbents, [number / 4 for number in range(1, 4 * max(BUDGETS) + 1)], setting)
    distance = comparing.critical_difference(len(METHODS), incumbents["seed"].nunique())
    best, typical = best_error(setting.recording), typical_error(setting.recording)
    print(f"\n{name}: {setting}")
    print(f"Test error of the best configuration {best:.4f}, of the median one {typical:.4f}")
    show("Regret in %, median (quartiles), after so many full trainings' worth of time", regrets(table))
    show(f"Average rank (methods differ from {distance:.2f} on)", ranks(table))
    show(f"Test error less that of {RECOMMENDED!r}, percentage points", differences(table))
    show(f"Share of the time that {DEFAULT} needs for its median regret at each budget", time_saved(quarters))


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table under a title."""
    print(f"\n{title}\n{table.to_string(index=table.index.name is not None)}", flush=True)


if __name__ == "__main__":
    main()
