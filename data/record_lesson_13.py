"""Record what lesson 13 says of transfer, failures, boosting, a program in awk, and both twins.

    python data/record_lesson_13.py          # about 10 minutes on one core

It may be interrupted: run again, it goes on with what the files lack. Each twin is recorded where its library is.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split

from hpo_helpers.comparing import anytime, reports
from hpo_helpers.curves import NoisyCurves, RecordedCurves
from hpo_helpers.datasets import load_curves
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.tuning import tune

FOLDER = Path(__file__).resolve().parent

# Transfer: from a study of the MLP to one of the CNN, over the recorded curves. One worker, time for 20 trainings.

SEEDS = range(13000, 13020)
DEFAULT = {"learning_rate": 0.1, "momentum": 0.5, "batch_size": 64, "dropout": 0.5}
MLP = {name: MNIST_CNN[name] for name in DEFAULT}
TRAINING = {name: load_curves(name).groupby("configuration")["seconds"].sum().mean() for name in ("mnist_cnn_curves", "mnist_mlp_curves")}
START: dict[str, Callable[[optuna.Study, optuna.Study], None]] = {
    "best three": lambda study, earlier: enqueue_best(study, earlier),
    "all trials": lambda study, earlier: study.add_trials(finished(earlier, 1.0)),
    "all trials, scaled": lambda study, earlier: study.add_trials(
        finished(earlier, study.trials[0].value / earlier.trials[0].value)
    ),
}
TRANSFERS = ["nothing", "default", *(f"default, {name}" for name in START)]


def new_study(name: str, seed: int) -> optuna.Study:
    """Return a study with the method that did best on the CNN."""
    sampler, pruner = TPESampler(multivariate=False, seed=seed), SuccessiveHalvingPruner(1, 3)
    return optuna.create_study(study_name=f"{name}-{seed}", sampler=sampler, pruner=pruner)


@functools.cache
def mlp_curves() -> RecordedCurves:
    return RecordedCurves(load_curves("mnist_mlp_curves"), MLP)


@functools.cache
def earlier_study(seed: int) -> optuna.Study:
    """Tune the MLP, the default first."""
    study = new_study("earlier", seed)
    study.enqueue_trial(DEFAULT)
    curves = NoisyCurves(seed, curves=mlp_curves())
    with ReplayLauncher(1, curves=curves) as launcher:
        tune(study, MLP, launcher, epochs=27, timeout=20 * TRAINING["mnist_mlp_curves"], progress=False)
    return study


def complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that were trained to the end, the best first."""
    trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    return sorted(trials, key=lambda trial: trial.value)


def enqueue_best(study: optuna.Study, earlier: optuna.Study) -> None:
    """Let the new study begin with the three best configurations of the earlier one."""
    for trial in complete(earlier)[:3]:
        study.enqueue_trial(trial.params)


def finished(earlier: optuna.Study, factor: float) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of the earlier study, their values times a factor, without what `tune` wrote."""
    return [
        optuna.trial.create_trial(params=t.params, distributions=t.distributions, value=factor * t.value)
        for t in complete(earlier)
    ]


def transferred(method: str, seed: int) -> pd.DataFrame:
    """Return the incumbents of a study of the CNN that begins with something."""
    study = new_study("later", seed)
    default, _, way = method.partition(", ")
    with ReplayLauncher(1, curves=NoisyCurves(seed)) as launcher:
        if default == "default":
            study.enqueue_trial(DEFAULT | {"n_channels": 16})
            tune(study, MNIST_CNN, launcher, epochs=27, n_trials=1, progress=False)
        if way:
            START[way](study, earlier_study(seed))
        tune(study, MNIST_CNN, launcher, epochs=27, timeout=20 * TRAINING["mnist_cnn_curves"], progress=False)
    return anytime(study).drop(columns=["seconds", "valid_error", "epoch"])


# Failures: a training that ends above 50 % counts as failed, in a space where nearly half do. 40 trials, one by one.

STEEP = {"learning_rate": FloatDistribution(0.1, 1, log=True), "momentum": FloatDistribution(0.5, 0.95)}
FAILURES = ["random search", "TPE, told FAIL", "TPE, told 90 %"]


def failing(method: str, seed: int) -> pd.DataFrame:
    """Return which of 40 trials failed (x), and the lowest error."""
    sampler: BaseSampler = RandomSampler(seed) if method == "random search" else TPESampler(seed=seed)
    study, curves = optuna.create_study(sampler=sampler), NoisyCurves(seed)
    marks, best = "", 1.0
    for _ in range(40):
        trial = study.ask(MNIST_CNN | STEEP)
        error = curves(trial.params)[-1]["valid_error"]
        failed = error > 0.5
        if failed and method == "TPE, told FAIL":
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, 0.9 if failed else error)
        marks, best = marks + ".x"[failed], min(best, error)
    return pd.DataFrame([{"failures": marks, "valid_error": best}])


# Boosting: 20 splits of a table with 442 rows.

BOOSTING = {
    "learning_rate": FloatDistribution(0.01, 1, log=True),
    "max_leaf_nodes": IntDistribution(2, 32, log=True),
    "min_samples_leaf": IntDistribution(5, 100, log=True),
    "l2_regularization": FloatDistribution(1e-3, 100, log=True),
    "max_features": FloatDistribution(0.3, 1),
}
SPLITS = range(20)
RUNGS = (3, 9, 27, 81)


def rmse(model, X, y) -> float:
    """Return the root of the mean squared error, to four digits: no last one shall decide."""
    return round(float(np.sqrt(np.mean((model.predict(X) - y) ** 2))), 4)


def rounds_of(params, X, y) -> Iterator[tuple[int, HistGradientBoostingRegressor]]:
    """Boost on, from rung to rung."""
    model = HistGradientBoostingRegressor(**params, early_stopping=False, warm_start=True, random_state=0)
    for rounds in RUNGS:
        yield rounds, model.set_params(max_iter=rounds).fit(X, y)


def boosted(method: str, seed: int) -> pd.DataFrame:
    """Return the test error of a model, chosen on validation rows and fitted on all rows but the test ones."""
    X, y = load_diabetes(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=110, random_state=seed)
    X_train, X_valid, y_train, y_valid = train_test_split(X, y, test_size=110, random_state=seed)
    if method == "ridge regression":
        model = RidgeCV(np.logspace(-3, 2, 20))
    elif method == "default":
        model = HistGradientBoostingRegressor(early_stopping=False, random_state=0)
    else:
        study = new_study("boosting", seed)

        def objective(trial: optuna.Trial) -> float:
            params = {name: trial._suggest(name, distribution) for name, distribution in BOOSTING.items()}
            best = float("inf")
            for rounds, model in rounds_of(params, X_train, y_train):
                error = rmse(model, X_valid, y_valid)
                trial.report(error, rounds)
                if error >= best:
                    break
                best = error
                trial.set_user_attr("rounds", rounds)
                if rounds < RUNGS[-1] and trial.should_prune():
                    raise optuna.TrialPruned
            return best

        study.optimize(objective, n_trials=40)
        rounds = study.best_trial.user_attrs["rounds"]
        model = HistGradientBoostingRegressor(**study.best_params, max_iter=rounds, early_stopping=False, random_state=0)
    return pd.DataFrame([{"test_error": rmse(model.fit(X, y), X_test, y_test)}])


# The awk program: the lesson's own cells.


def lesson_awk() -> pd.DataFrame:
    """Run the lesson's cells that tune a program in awk, and return what they found."""
    cells = nbformat.read(FOLDER.parent / "notebooks" / "13_your_own_project.ipynb", as_version=4).cells
    wanted, names = ("imports", "imports-2", "new-study", "awk", "awk-files", "awk-study"), {}
    for cell in [cell for cell in cells if cell.id in wanted]:
        exec(cell.source, names)
    return names["found"].drop(columns="time")


# The twins: one study by each that is installed, and its incumbent trained anew.

TWINS = {"mxnet": "hpo_helpers.train_mnist", "torch": "hpo_helpers.train_mnist_torch"}


def by_twin(library: str) -> pd.DataFrame:
    """Return what 20 trials by a twin found, and the test error of their incumbent under five further seeds."""
    train = importlib.import_module(TWINS[library]).train
    study = new_study("network", 13)
    with LocalLauncher(train, 1, fixed={"seed": 0}) as launcher:
        tune(study, MNIST_CNN, launcher, epochs=9, n_trials=20, progress=False)
    best = anytime(study).iloc[-1]
    params = study.trials[int(best["trial"])].params
    tests = pd.Series([list(train(**params, seed=seed, epochs=9))[-1]["test_error"] for seed in range(1, 6)])
    row = {"twin": library, "epochs": len(reports(study)), "valid_error": best["value"], "test_error": tests.mean()}
    return pd.DataFrame([row | {"standard_error": tests.sem()} | params])


EXPERIMENTS = {
    "boosting": (boosted, ["ridge regression", "default", "tuned"], SPLITS),
    "failures": (failing, FAILURES, SEEDS),
    "transfer": (transferred, TRANSFERS, SEEDS),
}


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table, the same bytes for the same rows."""
    table.to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name, (run, methods, seeds) in EXPERIMENTS.items():
        path = FOLDER / f"lesson_13_{name}.csv.gz"
        tables = [pd.read_csv(path)] if path.exists() else []
        done = set(zip(tables[0]["method"], tables[0]["seed"], strict=True)) if tables else set()
        for method, seed in [run for run in product(methods, seeds) if run not in done]:
            tables.append(run(method, seed).round(6).assign(method=method, seed=seed))
            write(pd.concat(tables), path)
            print(method, seed, flush=True)
    write(lesson_awk(), FOLDER / "lesson_13_awk.csv.gz")
    path = FOLDER / "lesson_13_twins.csv.gz"
    tables = [pd.read_csv(path)] if path.exists() else []
    recorded = list(tables[0]["twin"]) if tables else []
    for library in [name for name in TWINS if name not in recorded and importlib.util.find_spec(name)]:
        tables.append(by_twin(library).round(6))
        write(pd.concat(tables), path)


if __name__ == "__main__":
    main()
