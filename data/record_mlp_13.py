"""Record real runs of methods on a second problem: an MLP with 13 hyperparameters, one of them conditional.

    HPO_HELPERS_MNIST=/folder/of/the/four/files python data/record_mlp_13.py     # about ten hours on one core
    python data/record_mlp_13.py --merge          # what is whole so far, into mnist_mlp_13.csv.gz
    python data/record_mlp_13.py --gate           # what the first comparison came to

A run is one method under one seed: trainings one after the other, 1,350 epochs in all (50 full trainings where
nothing is stopped early), then its incumbent, the lowest validation error after 27 epochs, trained anew under
five further seeds. Training i of run s has the network's seed 10,000 s + i, and refit k 10,000 s + 9,000 + k,
whatever the method: methods differ by what they propose alone.

Interrupt it at any time. A run is a file in ``mlp_13_runs/``, written anew after each training, and a file is
taken by one process at a time: a second process (``--backwards`` begins from the end of the list) shares the
work. A run that was interrupted goes on: the sampler, deterministic by its seed, is asked again from the first
training on and told what is recorded, so that nothing is trained twice.
"""

import argparse
import contextlib
import fcntl
import functools
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from hpo_helpers.spaces import MNIST_MLP_13

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))
from mnist_mlp_13 import EVALUATED, FULL_LENGTH, parts, train  # noqa: E402

RUNS, WHOLE = HERE / "mlp_13_runs", HERE / "mnist_mlp_13.csv.gz"

N_REFITS = 5
FIRST_REFIT = 9_000  # more than any run has trainings
GATE_SEEDS = range(1000, 1010)
SEEDS = range(20)

NAMES = list(train.__kwdefaults__)  # of the hyperparameters

#: What one would type first: the arguments that `train` has by default.
DEFAULT = {name: train.__kwdefaults__[name] for name in NAMES if name != "momentum"}


@dataclass(frozen=True)
class Method:
    """How configurations are proposed, and which trainings are stopped early."""

    sampler: Callable[[int], BaseSampler]  # of the seed
    pruner: Callable[[], BasePruner] = NopPruner
    epochs: int = 50 * FULL_LENGTH  # in all
    first: tuple[dict, ...] = ()


def univariate_tpe(seed: int) -> BaseSampler:
    """Model each hyperparameter by itself: the momentum from the trials under SGD, which alone have one."""
    return TPESampler(seed=seed, multivariate=False)


def multivariate_tpe(seed: int) -> BaseSampler:
    """Model the 12 hyperparameters that all trials have jointly, and the momentum, a group of its own, by itself."""
    return TPESampler(seed=seed, multivariate=True, group=True)


def cma_es(seed: int) -> BaseSampler:
    """Adapt a covariance matrix over the 9 numbers that all trials have.

    Categories, and the momentum, which some trials lack, are left to its independent sampler: they stay random.
    Ten random trials begin, as in TPE. After the one that Optuna begins with, the momentum might be among the
    numbers; the first trial under Adam would end that, and all would be random from then on.
    """
    return CmaEsSampler(seed=seed, n_startup_trials=10, warn_independent_sampling=False)


def halving() -> BasePruner:
    """Let the best third go on after 1, 3 and 9 epochs."""
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def hyperband() -> BasePruner:
    """Halve in four brackets, which begin after 1, 3, 9 and 27 epochs."""
    return HyperbandPruner(min_resource=1, max_resource=FULL_LENGTH, reduction_factor=3)


RANDOM, TPE = "random", "multivariate TPE"
METHODS = {
    RANDOM: Method(RandomSampler),
    TPE: Method(multivariate_tpe),
    "univariate TPE": Method(univariate_tpe),
    "CMA-ES": Method(cma_es),
    # A Gaussian process goes here.
    "random + successive halving": Method(RandomSampler, halving),
    "multivariate TPE + successive halving": Method(multivariate_tpe, halving),
    "random + Hyperband": Method(RandomSampler, hyperband),
    "multivariate TPE + Hyperband": Method(multivariate_tpe, hyperband),
    "default alone": Method(RandomSampler, epochs=FULL_LENGTH, first=(DEFAULT,)),
}
#: The gate, the default, and all others seed by seed, so that an interruption leaves whole comparisons.
JOBS = [
    *((method, seed) for seed in GATE_SEEDS for method in (RANDOM, TPE)),
    *(("default alone", seed) for seed in SEEDS),
    *((method, seed) for seed in SEEDS for method in METHODS if method != "default alone"),
]


def run(method: str, seed: int, path: Path, train: Callable = train) -> pd.DataFrame:
    """Run a method, or go on with it, and return its rows; the file holds those of each training that ended."""
    rows = read(path).to_dict("records") if path.exists() else []
    recorded = {key: list(group) for key, group in itertools.groupby(rows, lambda row: row["network_seed"])}
    table: list[dict] = []
    for rows in trainings(method, seed, recorded, train):
        table += [{"method": method, "seed": seed, **row} for row in rows]
        if rows[0]["network_seed"] not in recorded:
            write(pd.DataFrame(table), path)
    return pd.DataFrame(table)


def trainings(
    method: str, seed: int, recorded: dict[int, list[dict]], train: Callable
) -> Iterator[list[dict]]:
    """Yield the rows of each training, recorded or new: those that the sampler proposes, then the refits."""
    how, spent, complete = METHODS[method], 0, []
    # Hyperband draws a trial's bracket by the study's name.
    study = optuna.create_study(study_name=f"{method}-{seed}", sampler=how.sampler(seed), pruner=how.pruner())
    for params in how.first:
        study.enqueue_trial(params)
    while spent < how.epochs:
        trial = study.ask()
        params = MNIST_MLP_13(trial)
        epochs = max(epoch for epoch in EVALUATED if epoch <= how.epochs - spent)
        rows = []
        for row in curve(10_000 * seed + trial.number, params, epochs, recorded, train):
            rows.append(row)
            trial.report(row["valid_error"], row["epoch"])
            if row["epoch"] < FULL_LENGTH and trial.should_prune():
                break
        spent += row["epoch"]
        if row["epoch"] == FULL_LENGTH:
            study.tell(trial, row["valid_error"])
            complete.append((row["valid_error"], trial.number, params))
        else:  # stopped, or at the end of the budget
            study.tell(trial, state=TrialState.PRUNED)
        state = study.trials[trial.number].state.name.lower()
        yield [{"trial": trial.number, "state": state, **row} for row in rows]
    _, number, params = min(complete, key=lambda found: found[:2])
    for refit in range(N_REFITS):
        rows = curve(10_000 * seed + FIRST_REFIT + refit, params, FULL_LENGTH, recorded, train)
        yield [{"trial": number, "state": "refit", **row} for row in rows]


def curve(network_seed: int, params: dict, epochs: int, recorded: dict, train: Callable) -> Iterator[dict]:
    """Yield the rows of a training: those that are recorded, else what training gives."""
    if network_seed in recorded:
        yield from replayed(recorded[network_seed], network_seed, params)
        return
    values = {name: params.get(name) for name in NAMES}
    start = time.process_time()
    for errors in train(epochs, network_seed, **params):
        seconds = round(time.process_time() - start, 3)
        yield {"network_seed": network_seed, **values, **errors, "seconds": seconds}
        start = time.process_time()


def replayed(rows: list[dict], network_seed: int, params: dict) -> Iterator[dict]:
    """Yield recorded rows; ValueError if they are of other hyperparameters than those that are proposed now."""
    for row in rows:
        found = {name: row[name] for name in NAMES if pd.notna(row[name])}
        if found != params:
            message = f"training {network_seed} is recorded with {found}, and {params} is proposed now"
            raise ValueError(f"{message}: delete the run's file, or go on with the versions that began it")
        yield {name: row[name] for name in row if name not in ("method", "seed", "trial", "state")}


#: A proposal must be recognised by its last digit.
read = functools.partial(pd.read_csv, float_precision="round_trip")


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table into a file that is never seen half written, the same bytes for the same table."""
    unfinished = path.with_name(f".unfinished.{path.name}")
    compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    table.to_csv(unfinished, index=False, compression=compression)
    os.replace(unfinished, path)


def path_of(method: str, seed: int) -> Path:
    return RUNS / f"{method.replace(' + ', '_').replace(' ', '_')}_{seed}.csv"


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Say whether this process has the run to itself; the claim ends with the process, however that ends."""
    with open(path.with_suffix(".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_whole(table: pd.DataFrame) -> bool:
    return ((table["state"] == "refit") & (table["epoch"] == FULL_LENGTH)).sum() == N_REFITS


def read_whole() -> pd.DataFrame:
    """Return all runs that are whole, merged before or in files of their own, in the order of `JOBS`."""
    tables = [read(path) for path in [*RUNS.glob("*.csv"), WHOLE] if path.exists()]
    runs = {
        key: rows for table in tables for key, rows in table.groupby(["method", "seed"]) if is_whole(rows)
    }
    return pd.concat([runs[job] for job in JOBS if job in runs], ignore_index=True)


def record(backwards: bool) -> None:
    """Do what is not recorded and not being recorded."""
    if "valid_error" not in parts():
        raise SystemExit(
            "HPO_HELPERS_MNIST must name the folder of MNIST's four files: the runs are judged on them"
        )
    RUNS.mkdir(exist_ok=True)
    done = set(read(WHOLE).groupby(["method", "seed"]).groups) if WHOLE.exists() else set()
    for method, seed in reversed(JOBS) if backwards else JOBS:
        path = path_of(method, seed)
        with claimed(path) as mine:
            if mine and (method, seed) not in done and not (path.exists() and is_whole(read(path))):
                table = run(method, seed, path)
                print(time.strftime("%d %H:%M"), method, seed, f"{table['seconds'].sum():.0f} s", flush=True)


def gate(table: pd.DataFrame) -> str:
    """Compare multivariate TPE with random search by the criterion that data/README.md laid down beforehand."""
    from scipy.stats import permutation_test, t

    refits = table[
        (table["state"] == "refit") & (table["epoch"] == FULL_LENGTH) & table["seed"].isin(GATE_SEEDS)
    ]
    means = refits.groupby(["method", "seed"])["test_error"].mean()
    gains = 100 * (means[RANDOM] - means[TPE]).dropna().to_numpy()
    n, error = len(gains), gains.std(ddof=1) / np.sqrt(len(gains))
    half = t.ppf(0.975, n - 1) * error
    p_value = permutation_test((gains,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    detectable = (t.ppf(0.975, n - 1) + t.ppf(0.8, n - 1)) * error
    return (
        f"{n} seeds, test error {100 * means[RANDOM].mean():.2f} % and {100 * means[TPE].mean():.2f} %: a gain of "
        f"{gains.mean():.2f} points ({gains.mean() - half:.2f} to {gains.mean() + half:.2f}), p = {p_value:.3f}; "
        f"a gain of {detectable:.2f} would have been found four times out of five"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Record runs of methods on the MLP with 13 hyperparameters.")
    parser.add_argument("--backwards", action="store_true", help="begin from the end of the list")
    parser.add_argument("--merge", action="store_true", help="gather the runs that are whole into one table")
    parser.add_argument("--gate", action="store_true", help="print what the first comparison came to")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if arguments.gate:
        print(gate(read_whole()))
    elif arguments.merge:
        write(read_whole(), WHOLE)
    else:
        record(arguments.backwards)


if __name__ == "__main__":
    main()
