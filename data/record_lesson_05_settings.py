"""Record what lesson 05 says of settings: TPE + Hyperband with one thing changed at a time, over many seeds.

    python data/record_lesson_05_settings.py          # about half an hour on one core; nothing is trained

All of it is replayed from the recorded curves, in virtual time. Each incumbent's configuration is kept, so that
it can be judged without noise. It may be interrupted: run again, it goes on with what the file lacks.
"""

from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from hpo_helpers.comparing import at_times, run_methods
from hpo_helpers.curves import NoisyCurves
from hpo_helpers.datasets import load_curves
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN

PATH = Path(__file__).resolve().parent / "lesson_05_settings.csv.gz"

EPOCHS = 27
N_WORKERS = 4
BUDGETS = (5, 20)  # in full trainings of an average configuration
SEEDS = range(6000, 6100)

Sampler = Callable[[int], BaseSampler]
Pruner = Callable[[], BasePruner]


def tpe(**settings) -> Sampler:
    """Return what makes TPE with some settings from a seed."""
    return lambda seed: TPESampler(seed=seed, **settings)


def hyperband(min_resource: int = 1, max_resource: int | str = EPOCHS, **settings) -> Pruner:
    """Return what makes Hyperband with some settings."""
    return lambda: HyperbandPruner(min_resource, max_resource, **settings)


#: The first is what all others are compared with; each of them changes one thing.
SETTINGS: dict[str, tuple[Sampler, Pruner]] = {
    "TPE + Hyperband": (tpe(), hyperband()),
    "no pruner": (tpe(), NopPruner),
    "successive halving": (tpe(), lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)),
    "reduction_factor=2": (tpe(), hyperband(reduction_factor=2)),
    "reduction_factor=4": (tpe(), hyperband(reduction_factor=4)),
    "min_resource=3": (tpe(), hyperband(min_resource=3)),
    "random sampler": (RandomSampler, hyperband()),
    "multivariate=False": (tpe(multivariate=False), hyperband()),
    "n_startup_trials=30": (tpe(n_startup_trials=30), hyperband()),
    "constant_liar=False": (tpe(constant_liar=False), hyperband()),
    'max_resource="auto"': (tpe(), hyperband(max_resource="auto")),
    "bootstrap_count=3": (tpe(), hyperband(bootstrap_count=3)),
}


def seconds_of(trainings: float) -> float:
    """Return how long the workers take together for so many full trainings of an average configuration."""
    return trainings * load_curves().groupby("configuration")["seconds"].sum().mean() / N_WORKERS


def launch(seed: int) -> ReplayLauncher:
    """Return workers over curves that are disturbed as another seed of the network would have been."""
    return ReplayLauncher(N_WORKERS, curves=NoisyCurves(seed))


def compare(setting: str, seeds=SEEDS) -> pd.DataFrame:
    """Return the incumbents of one setting: one row for each seed and budget."""
    sampler, pruner = SETTINGS[setting]

    def study(seed: int) -> optuna.Study:
        name = f"settings-{seed}"  # the same brackets for all settings
        return optuna.create_study(study_name=name, sampler=sampler(seed), pruner=pruner())

    times = {seconds_of(trainings): trainings for trainings in BUDGETS}
    incumbents = run_methods(
        {setting: study}, seeds, space=MNIST_CNN, launcher=launch, epochs=EPOCHS, timeout=max(times), n_jobs=1
    )
    table = at_times(incumbents, times).rename(columns={"method": "setting"})
    table["trainings"] = table["time"].map(times)
    columns = ["setting", "seed", "trainings", "epoch", "value", "test_error"]
    return table[[*columns, *(f"params_{name}" for name in MNIST_CNN)]]


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tables = [pd.read_csv(PATH)] if PATH.exists() else []
    done = {run for table in tables for run in zip(table["setting"], table["seed"])}
    for seeds in (SEEDS[:50], SEEDS[50:]):  # so that a recording cut short compares the same seeds
        for setting in SETTINGS:
            if (setting, seeds[0]) not in done:
                tables.append(compare(setting, seeds))
                table = pd.concat(tables, ignore_index=True)
                table.to_csv(
                    PATH, index=False, float_format="%.6g", compression={"method": "gzip", "mtime": 0}
                )
                print(setting, seeds, flush=True)


if __name__ == "__main__":
    main()
