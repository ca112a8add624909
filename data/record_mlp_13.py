"""Record real runs of methods on a second problem: an MLP with 13 hyperparameters, one of them conditional.

    HPO_HELPERS_MNIST=/folder/of/the/four/files python data/record_mlp_13.py     # about a day on one core
    python data/record_mlp_13.py --merge          # what is whole so far, into mnist_mlp_13.csv.gz

A run is one method under one seed: trainings one after the other, 1,350 epochs in all (50 full trainings where
nothing is stopped early), then its incumbent, the lowest validation error after 27 epochs, trained anew under
five further seeds. Training i of run s has the network's seed 10,000 s + i, and refit k 10,000 s + 9,000 + k,
whatever the method: methods differ by what they propose alone, and what two of them propose alike (their first
trials are the same random ones) is trained once.

Interrupt it at any time. A run is a file in ``mlp_13_runs/``, written anew after each training, and one process
at a time has it: a second one (``--backwards`` begins from the end of the list) shares the work. A run that was
interrupted goes on: a fresh sampler with its seed proposes the same again and is told what is recorded.

What becomes of the momentum, which the trials under Adam lack? Univariate TPE models each hyperparameter by
itself, the momentum from the trials under SGD. Multivariate TPE models the other 12 jointly, and the momentum,
a group of its own, by itself. A Gaussian process fills it in at random. CMA-ES adapts a covariance matrix over the 9
numbers that all trials have; to its independent sampler, random search, it leaves the momentum and the three
choices.
"""

import argparse
import fcntl
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import optuna
import pandas as pd
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from hpo_helpers.gaussian_process import GaussianProcessSampler
from hpo_helpers.spaces import MNIST_MLP_13

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))
from mnist_mlp_13 import EVALUATED, FULL_LENGTH, parts, train  # noqa: E402

RUNS, WHOLE = HERE / "mlp_13_runs", HERE / "mnist_mlp_13.csv.gz"
N_REFITS = 5
OF_THE_RUN = {"method", "seed", "trial", "state"}  # columns that are no part of a training
NAMES = list(train.__kwdefaults__)  # of the hyperparameters
#: What one would type first: the arguments that `train` has by default.
DEFAULT = {name: train.__kwdefaults__[name] for name in NAMES if name != "momentum"}


class Method(NamedTuple):
    """How configurations are proposed, and which trainings are stopped early."""

    sampler: Callable[..., BaseSampler]  # of the seed
    pruner: Callable[[], BasePruner] = NopPruner
    epochs: int = 50 * FULL_LENGTH  # in all
    first: tuple[dict, ...] = ()


univariate_tpe = partial(TPESampler, multivariate=False)
multivariate_tpe = partial(TPESampler, multivariate=True, group=True)
# Ten random trials begin, as in TPE, among them some under Adam. After a single one under SGD the momentum would
# be one of the numbers; the first trial under Adam would end that, and all would be random from then on.
cma_es = partial(CmaEsSampler, n_startup_trials=10, warn_independent_sampling=False)
halving = partial(SuccessiveHalvingPruner, min_resource=1, reduction_factor=3)
hyperband = partial(HyperbandPruner, min_resource=1, max_resource=FULL_LENGTH, reduction_factor=3)

METHODS = {
    "random": Method(RandomSampler),
    "multivariate TPE": Method(multivariate_tpe),
    "Gaussian process": Method(GaussianProcessSampler),
    "random + successive halving": Method(RandomSampler, halving),
    "multivariate TPE + Hyperband": Method(multivariate_tpe, hyperband),
    "CMA-ES": Method(cma_es),
    "univariate TPE": Method(univariate_tpe),
    "multivariate TPE + successive halving": Method(multivariate_tpe, halving),
    "random + Hyperband": Method(RandomSampler, hyperband),
    "default alone": Method(RandomSampler, epochs=FULL_LENGTH, first=(DEFAULT,)),
}
#: The gate; the default; what stops early and a Gaussian process under the gate's seeds; then all methods, seed by
#: seed, so that an interruption leaves whole comparisons.
GATE, SEARCHES = range(1000, 1010), list(METHODS)[:-1]
JOBS = dict.fromkeys([
    *itertools.product(SEARCHES[:2], GATE),
    *itertools.product(["default alone"], range(20)),
    *itertools.product(SEARCHES[3:5], GATE),
    *(("Gaussian process", seed) for seed in GATE),
    *((method, seed) for seed in [*GATE, *range(10)] for method in SEARCHES),
])


def run(method: str, seed: int, path: Path, train: Callable = train) -> pd.DataFrame:
    """Run a method, or go on with it, and return its rows; the file holds those of each training that ended."""
    recorded = by_training(path)
    elsewhere = [by_training(other) for other in path.parent.glob(f"*_{seed}.csv")]
    rows = []
    for training in trainings(method, seed, partial(curve, recorded=recorded, elsewhere=elsewhere, train=train)):
        rows += [{"method": method, "seed": seed, **row} for row in training]
        if training[0]["network_seed"] not in recorded:
            write(pd.DataFrame(rows), path)
    return pd.DataFrame(rows)


def trainings(method: str, seed: int, curve: Callable[..., Iterator[dict]]) -> Iterator[list[dict]]:
    """Yield the rows of each training: of what the sampler proposes, then of the refits."""
    how, name, spent = METHODS[method], f"{method}-{seed}", 0  # by its name Hyperband draws the brackets
    study = optuna.create_study(study_name=name, sampler=how.sampler(seed=seed), pruner=how.pruner())
    for params in how.first:
        study.enqueue_trial(params)
    while spent < how.epochs:
        trial = study.ask()
        params = MNIST_MLP_13(trial)
        epochs = max(epoch for epoch in EVALUATED if epoch <= how.epochs - spent)
        rows = []
        for row in curve(10_000 * seed + trial.number, params, epochs):
            rows.append(row)
            trial.report(row["valid_error"], row["epoch"])
            if trial.should_prune():
                break
        spent += row["epoch"]
        if row["epoch"] == FULL_LENGTH:
            told = study.tell(trial, row["valid_error"])
        else:  # stopped, or at the end of the budget
            told = study.tell(trial, state=TrialState.PRUNED)
        yield [{"trial": trial.number, "state": told.state.name.lower(), **row} for row in rows]
    incumbent = study.best_trial  # the earliest of equal ones
    for refit in range(N_REFITS):
        rows = curve(10_000 * seed + 9_000 + refit, incumbent.params, FULL_LENGTH)
        yield [{"trial": incumbent.number, "state": "refit", **row} for row in rows]


def by_training(path: Path) -> dict[int, list[dict]]:
    """Return the rows of a run's file by the seed of the network."""
    rows = read(path).to_dict("records") if path.exists() else []
    return {key: list(group) for key, group in itertools.groupby(rows, lambda row: row["network_seed"])}


def curve(network_seed: int, params: dict, epochs: int, recorded: dict, elsewhere: list, train: Callable) -> Iterator:
    """Yield the rows of a training: those that this run has recorded, else another's, and what training adds."""
    known = recorded.get(network_seed, [])
    if known and params_of(known[0]) != params:
        raise ValueError(f"training {network_seed}: recorded {params_of(known[0])}, proposed {params}; delete the file")
    same = (run[network_seed] for run in elsewhere if network_seed in run)
    known = known or max((rows for rows in same if params_of(rows[0]) == params), key=len, default=[])
    known = [row for row in known if row["epoch"] <= epochs]
    yield from ({name: value for name, value in row.items() if name not in OF_THE_RUN} for row in known)
    if network_seed in recorded or len(known) > EVALUATED.index(epochs):
        return
    start, values = time.process_time(), {name: params.get(name) for name in NAMES}
    for done, errors in enumerate(train(epochs, network_seed, **params)):
        seconds = round(time.process_time() - start, 3)
        if done >= len(known):
            yield {"network_seed": network_seed, **values, **errors, "seconds": seconds}
        start = time.process_time()


def params_of(row: dict) -> dict:
    """Return the configuration of a row: without the momentum under Adam."""
    return {name: row[name] for name in NAMES if pd.notna(row[name])}


#: A proposal must be recognised by its last digit.
read = partial(pd.read_csv, float_precision="round_trip")


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table into a file that is never seen half written, the same bytes for the same table."""
    unfinished = path.with_suffix(".unfinished")
    compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
    table.to_csv(unfinished, index=False, compression=compression)
    unfinished.replace(path)


def is_mine(lock) -> bool:
    """Claim a run unless another process has it; the claim ends with the process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def whole_runs() -> dict[tuple[str, int], pd.DataFrame]:
    """Return the rows of every run that is whole, merged before or in a file of its own."""
    tables = [read(path) for path in [*RUNS.glob("*.csv"), WHOLE] if path.exists()]
    runs = {job: rows for table in tables for job, rows in table.groupby(["method", "seed"])}
    refits = {job: rows[rows["state"] == "refit"]["network_seed"].nunique() for job, rows in runs.items()}
    return {job: rows for job, rows in runs.items() if refits[job] == N_REFITS}


def record(jobs: list[tuple[str, int]]) -> None:
    """Do what is not recorded and not being recorded."""
    RUNS.mkdir(exist_ok=True)
    for method, seed in jobs:
        path = RUNS / f"{method.replace(' + ', '_').replace(' ', '_')}_{seed}.csv"
        with open(path.with_suffix(".lock"), "w") as lock:
            if is_mine(lock) and (method, seed) not in whole_runs():
                table = run(method, seed, path)
                print(time.strftime("%d %H:%M"), method, seed, f"{table['seconds'].sum():.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Record runs of methods on the MLP with 13 hyperparameters.")
    parser.add_argument("--backwards", action="store_true", help="begin from the end of the list")
    parser.add_argument("--merge", action="store_true", help="gather the runs that are whole into one table")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if arguments.merge:
        runs = whole_runs()
        return write(pd.concat(runs[job] for job in JOBS if job in runs), WHOLE)
    if "valid_error" not in parts():
        raise SystemExit("HPO_HELPERS_MNIST must name the folder of MNIST's files: runs are judged on them")
    record(list(reversed(JOBS)) if arguments.backwards else list(JOBS))


if __name__ == "__main__":
    main()
