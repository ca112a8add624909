"""Record what lesson 07 says of evolutionary optimisers over the recorded curves, at equal time, many seeds.

    python data/record_lesson_07.py          # about 5 minutes on one core; nothing is trained

All of it is replayed in virtual time, under the seeds of ``benchmarks/methods.py`` and with its workers, so
that the runs can be set beside those of ``method_comparison.csv.gz``. It may be interrupted: run again, it goes
on with the methods that the file lacks.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import optuna
import pandas as pd
from optuna.pruners import NopPruner
from optuna.samplers import NSGAIISampler, RandomSampler

from hpo_helpers.comparing import anytime
from hpo_helpers.curves import NoisyCurves
from hpo_helpers.datasets import load_curves
from hpo_helpers.evolution import evolve, real_coded
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.tuning import tune

PATH = Path(__file__).resolve().parent / "lesson_07_methods.csv.gz"

EPOCHS = 27
N_WORKERS = 4
TRAININGS = 60  # full ones of an average configuration, that there is time for
POPULATION_SIZE = 8  # two trials a worker
SEEDS = range(6000, 6050)

Search = Callable[[optuna.Study, ReplayLauncher, int, float], object]


def by_inspyred(name: str, **settings) -> Search:
    """Return a search by one of inspyred's optimisers, with operators for real genes."""

    def search(study, launcher, seed, timeout):
        from inspyred import ec, swarm

        optimiser = real_coded(getattr(swarm if name == "PSO" else ec, name)(Random(seed)))
        limits = {"epochs": EPOCHS, "timeout": timeout, "pop_size": POPULATION_SIZE}
        evolve(study, MNIST_CNN, launcher, optimiser, **limits, **settings)

    return search


def by_sampler(new_sampler: Callable[[int], optuna.samplers.BaseSampler]) -> Search:
    """Return a search by one of Optuna's samplers."""

    def search(study, launcher, seed, timeout):
        study.sampler = new_sampler(seed)
        tune(study, MNIST_CNN, launcher, epochs=EPOCHS, timeout=timeout, progress=False)

    return search


SEARCHES: dict[str, Search] = {
    "GA": by_inspyred("GA", num_elites=1),
    "PSO": by_inspyred("PSO", neighborhood_size=5),
    "DEA": by_inspyred("DEA"),
    "NSGA-II": by_sampler(lambda seed: NSGAIISampler(population_size=POPULATION_SIZE, seed=seed)),
}


def seconds_of(trainings: float) -> float:
    """Return how long the workers take together for so many full trainings of an average configuration."""
    return trainings * load_curves().groupby("configuration")["seconds"].sum().mean() / N_WORKERS


def run(method: str, seed: int, trainings: float = TRAININGS) -> pd.DataFrame:
    """Return the incumbents of one run."""
    study = optuna.create_study(study_name=f"{method}-{seed}", sampler=RandomSampler(seed), pruner=NopPruner())
    with ReplayLauncher(N_WORKERS, curves=NoisyCurves(seed)) as launcher:
        SEARCHES[method](study, launcher, seed, seconds_of(trainings))
    table = anytime(study).drop(columns=["seconds", "valid_error"]).assign(method=method, seed=seed)
    params = dict.fromkeys(table.columns[table.columns.str.startswith("params_")], 6)
    return table.round({"time": 2, "value": 5, "test_error": 5} | params)


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tables = [pd.read_csv(PATH)] if PATH.exists() else []
    done = set(tables[0]["method"]) if tables else set()
    for method in SEARCHES:
        if method not in done:
            tables += [run(method, seed) for seed in SEEDS]
            pd.concat(tables).to_csv(PATH, index=False, compression={"method": "gzip", "mtime": 0})
            print(method)


if __name__ == "__main__":
    main()
