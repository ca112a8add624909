"""Compare methods of hyperparameter optimization over many seeds, at equal time on virtual workers.

    make bench                  # or: python benchmarks/methods.py

Each seed is another realisation of the noise in the recorded curves, the same for every method. Methods choose
by these noisy errors, as in life; what they chose is judged by its test error after a full training without
noise. The incumbents of all runs are written to ``data/method_comparison.csv.gz``, with their configurations; the
tables that sum them up are printed. Interrupt it at any time: seeds that are in the file already are not run
again. Move the file away to run all, which takes about an hour on two processors.
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
from hpo_helpers.curves import NoisyCurves, RecordedCurves, expected_errors
from hpo_helpers.datasets import load_curves
from hpo_helpers.gaussian_process import GaussianProcessSampler
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.train_mnist import train
from hpo_helpers.tuning import tune

EPOCHS = 27  # of a full training
N_WORKERS = 4
BUDGETS = (5, 10, 20, 60)  # in full trainings
SEEDS_AT_A_TIME = 10
RECOMMENDED = "univariate TPE + successive halving"
ALONE, KEPT = "default alone", "random search + successive halving, default never stopped"

#: What the training script does when it is told nothing. These defaults were written before any curve was
#: recorded. A space that lacks one of the names ignores it.
FIRST = [{name: inspect.signature(train).parameters[name].default for name in MNIST_CNN}]

Method = Callable[[int], optuna.Study]  # a fresh study for a seed

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class Setting:
    """Which recording is tuned over, by how many workers, under which seeds; who trains the default first."""

    recording: str
    n_workers: int
    seeds: range  #: from 6000 on, as methods were chosen under lower ones
    default_first: bool = False  #: all methods, or none

    def curves(self) -> RecordedCurves:
        """Return the recorded curves, over those hyperparameters of the CNN that this network has too."""
        table = load_curves(self.recording)
        return RecordedCurves(table, {name: MNIST_CNN[name] for name in MNIST_CNN if name in table})


CNN = Setting("mnist_cnn_curves", N_WORKERS, range(6000, 6100))
SETTINGS = {
    "cnn": CNN,
    "cnn, default first": Setting("mnist_cnn_curves", N_WORKERS, range(6000, 6050), default_first=True),
    "cnn, 16 workers": Setting("mnist_cnn_curves", 16, range(6000, 6030)),
    "mlp": Setting("mnist_mlp_curves", N_WORKERS, range(6000, 6030)),
}


def new_study(name: str, seed: int, sampler: BaseSampler, pruner: BasePruner) -> optuna.Study:
    """Return a study with its name and seed in its name."""
    return optuna.create_study(study_name=f"{name}-{seed}", sampler=sampler, pruner=pruner)


def beginning_with(first: list[dict[str, Any]], method: Method) -> Method:
    """Return a method that trains some configurations first."""

    def begun(seed: int) -> optuna.Study:
        study = method(seed)
        for params in first:
            study.enqueue_trial(params)
        return study

    return begun


def random_search(seed: int) -> optuna.Study:
    """Draw every configuration at random, and train it to the end."""
    return new_study("random", seed, RandomSampler(seed), NopPruner())


def tpe(seed: int) -> optuna.Study:
    """Search by tree-structured Parzen estimators with Optuna's settings, and train to the end."""
    return new_study("tpe", seed, TPESampler(seed=seed), NopPruner())


def cma_es(seed: int) -> optuna.Study:
    """Search by an evolution strategy that adapts its covariance matrix, and train to the end."""
    return new_study("cma-es", seed, CmaEsSampler(seed=seed, warn_independent_sampling=False), NopPruner())


def gaussian_process(seed: int) -> optuna.Study:
    """Search by the expected improvement under a Gaussian process, and train to the end."""
    return new_study("gaussian-process", seed, GaussianProcessSampler(seed), NopPruner())


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


class AllButTheFirst(BasePruner):
    """Stop what another pruner stops, but never the first trial."""

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study, trial):
        return trial.number > 0 and self._pruner.prune(study, trial)


def kept_default(seed: int) -> optuna.Study:
    """Draw at random, halve successively all but the default."""
    return new_study("random-halving", seed, RandomSampler(seed), AllButTheFirst(successive_halving()))


METHODS: dict[str, Method] = {
    "random search": random_search,
    "TPE": tpe,
    "CMA-ES": cma_es,
    "Gaussian process": gaussian_process,
    "random search + successive halving": random_halving,
    "TPE + Hyperband": tpe_hyperband,
    RECOMMENDED: univariate_halving,
}


def methods_of(setting: Setting) -> dict[str, Method]:
    """Return the methods that a setting compares; what becomes of the default matters where all train it.

    The Gaussian process takes most of the time: it runs on the CNN alone.
    """
    if setting is CNN:
        return METHODS
    methods = {name: method for name, method in METHODS.items() if method is not gaussian_process}
    if not setting.default_first:
        return methods
    return {name: beginning_with(FIRST, method) for name, method in {**methods, KEPT: kept_default}.items()}


@functools.cache
def training_seconds(recording: str) -> float:
    """Return how long a full training of an average configuration takes."""
    return float(load_curves(recording).groupby("configuration")["seconds"].sum().mean())


def seconds_of(trainings: float, setting: Setting = CNN) -> float:
    """Return how long the workers take together for so many full trainings of an average configuration."""
    return trainings * training_seconds(setting.recording) / setting.n_workers


def compare(
    setting: Setting, seeds: Sequence[int], n_jobs: int, methods: dict[str, Method] | None = None
) -> pd.DataFrame:
    """Run methods under some seeds; `comparing.run_methods` says what is returned."""
    curves = setting.curves()

    # The MLP has no noise recording of its own: its curves are disturbed by the CNN's residuals.
    def launcher(seed: int) -> ReplayLauncher:
        return ReplayLauncher(setting.n_workers, curves=NoisyCurves(seed, curves=curves))

    limits = {"epochs": EPOCHS, "timeout": seconds_of(max(BUDGETS), setting)}
    settings = {"space": curves.space, "launcher": launcher, "n_jobs": n_jobs}
    found = comparing.run_methods(methods or methods_of(setting), seeds, **settings, **limits)
    alone = pd.concat([default_alone(seed, launcher, curves.space) for seed in seeds])
    return rounded(pd.concat([found, alone], ignore_index=True), curves.space)


def default_alone(seed: int, launcher: Callable[[int], ReplayLauncher], space: comparing.Space) -> pd.DataFrame:
    """Train the default once, and return its incumbents: the lowest errors so far, epoch by epoch."""
    study = beginning_with(FIRST, random_search)(seed)
    with launcher(seed) as opened:
        tune(study, space, opened, epochs=EPOCHS, n_trials=1, progress=False)
    return comparing.anytime(study).assign(method=ALONE, seed=seed)


def rounded(incumbents: pd.DataFrame, space: comparing.Space) -> pd.DataFrame:
    """Keep what is recorded, to as many digits as matter."""
    columns = ["method", "seed", "trial", "epoch", "time", "value", "test_error"]
    params = incumbents[[f"params_{name}" for name in space]].map(lambda value: float(f"{value:.5g}"))
    return incumbents[columns].round({"time": 2, "value": 5, "test_error": 5}).join(params)


def at_trainings(incumbents: pd.DataFrame, trainings: Sequence[float], setting: Setting = CNN) -> pd.DataFrame:
    """Return incumbents and their errors without noise after so many ``trainings``' worth of time."""
    table = comparing.at_times(incumbents, [seconds_of(number, setting) for number in trainings])
    table["trainings"] = (table["time"] / seconds_of(1, setting)).round(6)
    return expected_errors(table, setting.curves())


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """Return each method's error in per cent, the mean and its standard error, a column for each budget."""
    groups = (100 * table["expected_error"]).groupby([table["method"], table["trainings"]], sort=False)
    cells = groups.agg(lambda found: f"{found.mean():.2f} ± {found.sem():.2f}")
    return cells.unstack("trainings")


def differences(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return by how much the methods' errors differ from a baseline's, in percentage points."""
    found = comparing.paired_differences(table.assign(time=table["trainings"]), baseline, value="expected_error")
    found[["difference", "low", "high", "detectable"]] *= 100
    return found.rename(columns={"time": "trainings"}).round(3)


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
    print(f"\n{name}: {setting}")
    show("Test error without noise in %, mean ± standard error, after so many full trainings' worth", errors(table))
    for baseline in ("random search", ALONE):
        show(f"The same less that of {baseline!r}, in percentage points", differences(table, baseline))


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table under a title."""
    print(f"\n{title}\n{table.to_string(index=table.index.name is not None)}", flush=True)


if __name__ == "__main__":
    main()
