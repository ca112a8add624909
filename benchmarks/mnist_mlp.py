"""Repeat a published comparison of search methods on MNIST: validated, over many seeds, with standard errors.

    HPO_HELPERS_MNIST=/folder/of/the/four/files python benchmarks/mnist_mlp.py

The task is that of the published one: the network 784-128-64-10, plain stochastic gradient descent in batches
of 100, the learning rate in [0.01, 0.2] and the number of epochs in [10, 50] to be chosen, on all 70,000 images.

1. *Curves.* Networks train on 50,000 images and are validated on 10,000 others, for 50 epochs, at 20 learning
   rates, each under three seeds. Since the learning rate stays the same throughout, a shorter training is the
   beginning of a longer one.
2. *Searches.* Every method searches over these curves, under many seeds: 30 jobs, three at a time. A job is
   answered by the nearest learning rate, under one of its three seeds. The multi-fidelity search has 270 epochs
   instead, three tenths of what 30 jobs of random lengths take on average.
3. *Refits.* What a search chose by its validation error is trained anew on all 60,000 images, from other first
   weights, and only then tested on the 10,000 test images.

Curves and refits need the images, and hours; they are recorded in ``data/``, and only what is not there is
trained. Interrupt it at any time: it goes on where it stopped. Searches are replayed within minutes.
"""

import random
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler, TPESampler

from hpo_helpers.comparing import paired_differences, reports
from hpo_helpers.datasets import MNIST, load_mnist
from hpo_helpers.evolution import evolve, real_coded
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.train_mnist import train
from hpo_helpers.tuning import tune

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"
sys.path += [str(HERE), str(DATA)]
from methods import FIRST, new_study, successive_halving, univariate_tpe  # noqa: E402
from recording import read_finished, record, train_all, train_timed  # noqa: E402

EPOCHS = 50
#: The search space as published: how long is trained is among what is searched.
MNIST_MLP = {"learning_rate": FloatDistribution(0.01, 0.2), "epochs": IntDistribution(10, EPOCHS)}
LEARNING_RATES = [round(rate, 2) for rate in np.linspace(0.01, 0.2, 20)]
N_CURVES = 3  # of each learning rate
#: What the published network had besides: no momentum, no dropout, no weight decay.
FIXED = {"network": "mlp", "batch_size": 100, "momentum": 0.0, "dropout": 0.0, "weight_decay": 0.0}

N_WORKERS = 3
N_GENERATIONS = 10
BUDGET = 270  # epochs of the multi-fidelity search; 30 jobs of 10 to 50 epochs have 900 on average
SEEDS = range(30)  # of searches
REFIT_SEEDS = range(10)  # the searches whose choice is trained anew
FIRST_REFIT_SEED = 1000  # of the networks; the curves have seeds below 220

#: Test accuracies as published, one run each. The published searches chose by these very 10,000 images.
PUBLISHED = {"random search": 0.9792, "Bayesian optimization": 0.9789, "PSO": 0.9795, "PAES": 0.9783}

Found = tuple[optuna.Study, int]  # a search's trials, and how many configurations it asked for
Choice = dict[str, Any]  # learning_rate, epochs, and the valid_error by which they were chosen


def main() -> None:
    """Record the curves if they are not there, search, train what was found anew, and print what came out."""
    curves = record_curves()
    searches = pd.DataFrame([search(name, seed, curves) for name in METHODS for seed in SEEDS])
    save(with_refits(searches, read_refits()), "mnist_70000_searches")  # training what is missing takes hours
    refits = record_refits(searches)
    table = with_refits(searches, refits)
    save(table, "mnist_70000_searches")
    print(summary(table).to_string(), differences(table).to_string(index=False), sep="\n\n")


# Curves


def record_curves() -> pd.DataFrame:
    """Return the learning curves; train those that are not recorded."""
    if not (DATA / "mnist_70000_curves.csv.gz").exists():
        load_mnist(full=True)  # says what is missing before anything is started
    return record("mnist_70000_curves", curve_runs(), EPOCHS, FIXED, train_on_50000)


def curve_runs() -> pd.DataFrame:
    """Return one row a run: every learning rate several times, no two of them with the same seed."""
    rates = pd.DataFrame({"configuration": range(len(LEARNING_RATES)), "learning_rate": LEARNING_RATES})
    runs = rates.merge(pd.DataFrame({"seed": range(N_CURVES)}), how="cross")
    return runs.assign(seed=runs["configuration"] + 100 * runs["seed"])


def train_on_50000(**arguments) -> Iterator[dict]:
    """Train on 50,000 images; 10,000 more validate."""
    return train(data=load_mnist(full=True), **arguments)


class NearestCurves:
    """Answer for any learning rate with a curve of the nearest recorded one.

    Which of its curves is drawn depends on `seed` and the learning rate alone, so that a search sees the same
    curve however often it asks, and another search another one. An epoch takes one second: the clock counts
    epochs. The test error stays out of it.

    Parameters
    ----------
    seed
        Of the search.
    table
        The recorded curves.
    """

    def __init__(self, seed: int, table: pd.DataFrame) -> None:
        self._seed = seed
        self._curves = {
            rate: [run["valid_error"].tolist() for _, run in runs.sort_values("epoch").groupby("seed")]
            for rate, runs in table.groupby("learning_rate")
        }

    def __call__(self, params: Mapping[str, float]) -> list[dict[str, float]]:
        rate = params["learning_rate"]
        curves = self._curves[min(self._curves, key=lambda recorded: abs(recorded - rate))]
        drawn = np.random.default_rng([self._seed, zlib.crc32(repr(rate).encode())]).integers(len(curves))
        return [{"valid_error": error, "seconds": 1.0} for error in curves[drawn]]


# Searches


def search(method: str, seed: int, curves: pd.DataFrame) -> dict[str, Any]:
    """Search once, and return a row of the table: what was chosen, and what it took."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    find, choose = METHODS[method]
    with ReplayLauncher(N_WORKERS, curves=NearestCurves(seed, curves)) as launcher:
        study, n_evaluations = find(seed, launcher)
    choice = choose(study)
    return {
        "method": method,
        "seed": seed,
        **choice,
        "learning_rate": round(choice["learning_rate"], 6),
        "n_evaluations": n_evaluations,
        "n_distinct": len({tuple(trial.params.values()) for trial in study.trials}),
        "epochs_spent": sum(trial.last_step or 0 for trial in study.trials),
    }


def random_search(seed: int, launcher: ReplayLauncher) -> Found:
    return run_jobs(new_study("random", seed, RandomSampler(seed), NopPruner()), launcher)


def tpe(seed: int, launcher: ReplayLauncher) -> Found:
    return run_jobs(new_study("tpe", seed, TPESampler(seed=seed), NopPruner()), launcher)


def run_jobs(study: optuna.Study, launcher: ReplayLauncher) -> Found:
    """Train as many configurations as the generations of the others have, three at a time."""
    tune(study, MNIST_MLP, launcher, epochs=EPOCHS, n_trials=N_GENERATIONS * N_WORKERS, progress=False)
    return study, len(study.trials)


def genetic_algorithm(seed: int, launcher: ReplayLauncher) -> Found:
    from inspyred.ec import GA

    return run_generations(GA, seed, launcher, num_elites=1)


def particle_swarm(seed: int, launcher: ReplayLauncher) -> Found:
    from inspyred.swarm import PSO

    return run_generations(PSO, seed, launcher)


def paes(seed: int, launcher: ReplayLauncher) -> Found:
    from inspyred.ec.emo import PAES

    return run_generations(PAES, seed, launcher, cost=lambda trial: trial.last_step, max_archive_size=30)


def run_generations(make: Callable, seed: int, launcher: ReplayLauncher, **settings) -> Found:
    """Evolve; a configuration that comes again is evaluated again, but not trained again."""
    study = new_study(make.__name__, seed, RandomSampler(seed), NopPruner())
    sizes = {"generations": N_GENERATIONS, "pop_size": N_WORKERS}
    optimiser = real_coded(make(random.Random(seed)))
    evaluated = evolve(study, MNIST_MLP, launcher, optimiser, epochs=EPOCHS, **sizes, **settings)
    return study, sum(map(len, evaluated))


def multi_fidelity(seed: int, launcher: ReplayLauncher) -> Found:
    """Search the learning rate alone: a training of 50 epochs shows what fewer would have given.

    It begins with the learning rate that `train` has by default.
    """
    space = {"learning_rate": MNIST_MLP["learning_rate"]}
    first = {name: FIRST[0][name] for name in space}
    study = new_study("multi-fidelity", seed, univariate_tpe(seed), successive_halving())
    study.enqueue_trial(first)
    tune(study, space, launcher, epochs=EPOCHS, timeout=BUDGET / N_WORKERS, progress=False)
    return study, len(study.trials)


def best_job(study: optuna.Study) -> Choice:
    """Choose the job that ended with the lowest validation error, the first of them if several did."""
    trial = study.best_trial
    return {**trial.params, "valid_error": trial.value}


def best_of_front(study: optuna.Study) -> Choice:
    """Choose from the Pareto front the lowest validation error: of equal ones, the shortest training."""
    trial = min(study.trials, key=lambda trial: (trial.value, trial.last_step))
    return {**trial.params, "valid_error": trial.value}


def incumbent(study: optuna.Study) -> Choice:
    """Choose the report with the lowest validation error, and its epoch as the length: 10 epochs or more."""
    table = reports(study)
    best = table[table["epoch"] >= MNIST_MLP["epochs"].low].sort_values(["value", "time", "trial"]).iloc[0]
    rate = study.trials[int(best["trial"])].params["learning_rate"]
    return {"learning_rate": rate, "epochs": int(best["epoch"]), "valid_error": best["value"]}


MULTI_FIDELITY = "univariate TPE + successive halving, default first"
#: How each method searches, and how it chooses what is trained anew: laid down before the first search was run.
METHODS = {
    "random search": (random_search, best_job),
    "GA": (genetic_algorithm, best_job),
    "PSO": (particle_swarm, best_job),
    "PAES": (paes, best_of_front),
    "TPE": (tpe, best_job),
    MULTI_FIDELITY: (multi_fidelity, incumbent),
}


# Refits


def record_refits(searches: pd.DataFrame) -> pd.DataFrame:
    """Train what the first searches chose anew, and return one row a run and epoch.

    Seed by seed, so that an interruption leaves whole comparisons.
    """
    whole, unfinished = DATA / "mnist_70000_refits.csv.gz", DATA / "mnist_70000_refits.csv"
    if whole.exists():
        return pd.read_csv(whole)
    load_mnist(full=True)  # says what is missing before anything is started
    done = read_finished(unfinished, EPOCHS)
    runs = pd.concat([refit_runs(searches), done[["configuration", "seed"]].drop_duplicates()])
    waiting = runs.drop_duplicates(["configuration", "seed"], keep=False).astype({"epochs": int})
    for rows in train_all("mnist_70000_refits", waiting, EPOCHS, FIXED, train_on_60000):
        rows = rows.drop(columns="valid_error")
        rows.to_csv(unfinished, mode="a", index=False, header=not unfinished.exists())
    save(read_refits(), "mnist_70000_refits")
    unfinished.unlink()
    return pd.read_csv(whole)


def refit_runs(searches: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run, in the order of seeds. Methods share first weights: they differ by their choice."""
    runs = searches[searches["seed"].isin(REFIT_SEEDS)].sort_values("seed", kind="stable")
    number = {method: position for position, method in enumerate(METHODS)}
    runs = runs.assign(configuration=runs["method"].map(number), seed=FIRST_REFIT_SEED + runs["seed"])
    return runs[["configuration", "seed", "learning_rate", "epochs"]]


def train_on_60000(**arguments) -> Iterator[dict]:
    """Train on all 60,000 images that are not for testing; the validation error means nothing then."""
    mnist = load_mnist(full=True)
    images, labels = (np.concatenate(parts) for parts in zip(mnist.train, mnist.valid, strict=True))
    few = images[:100], labels[:100]
    return train_timed(train, data=MNIST((images, labels), few, mnist.test), **arguments)


def read_refits() -> pd.DataFrame:
    """Return what is trained anew so far."""
    for path in (DATA / "mnist_70000_refits.csv.gz", DATA / "mnist_70000_refits.csv"):
        if path.exists():
            return pd.read_csv(path).sort_values(["seed", "configuration", "epoch"], ignore_index=True)
    return pd.DataFrame(columns=["configuration", "seed", "epochs", "epoch", "test_error"])


def with_refits(searches: pd.DataFrame, refits: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``test_accuracy``: that of the refit after its last epoch, NaN where there is none."""
    last = refits[refits["epoch"] == refits["epochs"]]
    methods, seeds = last["configuration"].map(dict(enumerate(METHODS))), last["seed"] - FIRST_REFIT_SEED
    found = last.assign(method=methods, seed=seeds, test_accuracy=1 - last["test_error"])
    found = found[["method", "seed", "test_accuracy"]].astype({"seed": int, "test_accuracy": float})
    return searches.merge(found, how="left", on=["method", "seed"])


# What came out


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each method: means over the seeds that were trained anew, with the standard error."""
    groups = table.dropna(subset="test_accuracy").groupby("method", sort=False)
    found = groups.agg(
        seeds=("seed", "size"),
        test_accuracy=("test_accuracy", "mean"),
        standard_error=("test_accuracy", "sem"),
        epochs_spent=("epochs_spent", "mean"),
        n_evaluations=("n_evaluations", "mean"),
        n_distinct=("n_distinct", "mean"),
        learning_rate=("learning_rate", "mean"),
        epochs=("epochs", "mean"),
    )
    digits = {"test_accuracy": 4, "standard_error": 4, "learning_rate": 3}
    found = found.round({name: digits.get(name, 1) for name in found})
    return found.assign(published=found.index.map(PUBLISHED | {"TPE": PUBLISHED["Bayesian optimization"]}))


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return by how much each method's test error differs from the multi-fidelity search's, seed by seed."""
    errors = table.dropna(subset="test_accuracy").assign(time=0.0)
    errors = errors.assign(test_error=1 - errors["test_accuracy"])
    return paired_differences(errors, MULTI_FIDELITY).drop(columns="time").round(5)


def save(table: pd.DataFrame, name: str) -> None:
    """Write a table into ``data/``, the same bytes at every call."""
    rounded = table.round({"valid_error": 4, "test_error": 4, "test_accuracy": 4})
    rounded.to_csv(DATA / f"{name}.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})


if __name__ == "__main__":
    main()
