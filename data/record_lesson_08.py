"""Record what lesson 08 says over 20 repetitions: ways to tune a classifier by few images, and their worth.

    python data/record_lesson_08.py          # about 5 minutes on two cores

Each repetition draws 200 images of threes and fives anew; the other 800 serve to test. Everything else that is
random (the cut into folds, the sampler) takes the repetition's number as its seed.
"""

import statistics
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from joblib import Parallel, delayed
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import TPESampler
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from hpo_helpers.datasets import load_mnist

PATH = Path(__file__).resolve().parent / "lesson_08_repetitions.csv.gz"

SPACE = {
    "regularization_type": CategoricalDistribution(["l1", "l2"]),
    "regularization_amount": FloatDistribution(1e-8, 1, log=True),
}
REPETITIONS = range(20)
N_IMAGES = 200
N_SUGGESTIONS = 20

Data = tuple[np.ndarray, np.ndarray]  #: images and whether each shows a five
Folds = Sequence[tuple[np.ndarray, np.ndarray]]  #: the rows that train, and those that validate


def threes_and_fives() -> Data:
    """Return all 1,000 images, of shape (1000, 784), and whether each shows a five."""
    images, labels = (np.concatenate(parts) for parts in zip(*load_mnist(), strict=True))
    rows = np.isin(labels, (3, 5))
    return images[rows].reshape(-1, 784), (labels[rows] == 5).astype(int)


def draw(seed: int) -> tuple[Data, Data]:
    """Return 200 images at random, as many of each digit, and the other 800."""
    images, is_five = threes_and_fives()
    random = np.random.RandomState(seed)
    digits = [random.permutation(np.flatnonzero(is_five == five)) for five in (0, 1)]
    few = np.concatenate([rows[: N_IMAGES // 2] for rows in digits])
    others = np.setdiff1d(np.arange(len(is_five)), few)
    return (images[few], is_five[few]), (images[others], is_five[others])


def fit(images: np.ndarray, is_five: np.ndarray, params: dict[str, Any]) -> LogisticRegression:
    """Fit a logistic regression. The amount is per image: the same whether 160 or 200 images are fitted."""
    model = LogisticRegression(
        C=1 / (params["regularization_amount"] * len(is_five)),
        solver="liblinear",
        max_iter=1000,
        random_state=0,
    )
    if model.l1_ratio is None:  # scikit-learn before 1.8
        model.set_params(penalty=params["regularization_type"])
    else:
        model.set_params(l1_ratio=float(params["regularization_type"] == "l1"))
    return model.fit(images, is_five)


def auc(model: LogisticRegression, data: Data) -> float:
    """Return the share of pairs of a three and a five that the model orders rightly."""
    # Rounded, as configurations often tie, and the last digit would decide between them.
    return round(float(roc_auc_score(data[1], model.decision_function(data[0]))), 6)


def cut(data: Data, k: int, seed: int) -> Folds:
    """Cut images into k folds at random, each digit spread evenly over them."""
    return list(StratifiedKFold(k, shuffle=True, random_state=seed).split(*data))


def part(data: Data, rows: np.ndarray) -> Data:
    return data[0][rows], data[1][rows]


def evaluate(data: Data, folds: Folds, params: dict[str, Any]) -> Iterator[float]:
    """Yield the AUC of each fold."""
    for training, validating in folds:
        yield auc(fit(*part(data, training), params), part(data, validating))


def tune(
    data: Data, folds: Folds, seed: int, n_trials: int = N_SUGGESTIONS, pruner: BasePruner | None = None
) -> optuna.Study:
    """Suggest, evaluate the folds, observe. A pruned trial is told the mean of the folds it had."""
    study = optuna.create_study(
        study_name=f"lesson-08-{seed}",
        direction="maximize",
        sampler=TPESampler(seed=seed),
        pruner=pruner or NopPruner(),
    )
    for _ in range(n_trials):
        trial = study.ask(SPACE)
        values = []
        for fold, value in enumerate(evaluate(data, folds, trial.params)):
            values.append(value)
            trial.report(value, fold)
            if fold + 1 < len(folds) and trial.should_prune():
                break
        study.tell(trial, statistics.fmean(values))
    return study


def values_of(trial: optuna.trial.FrozenTrial) -> list[float]:
    """Return what a trial's folds gave."""
    return list(trial.intermediate_values.values())


def corrected_standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean as Nadeau and Bengio correct it, NaN for a single fold."""
    return pd.Series(values).sem() * (1 + len(values) / max(len(values) - 1, 1)) ** 0.5


def nested(data: Data, seed: int) -> list[float]:
    """Tune anew in each of 5 folds, by its training part alone, and evaluate on its validation part."""
    values = []
    for training, validating in cut(data, 5, seed):
        inner = part(data, training)
        best = tune(inner, cut(inner, 5, seed), seed).best_params
        values.append(auc(fit(*inner, best), part(data, validating)))
    return values


def simplest_within_one_standard_error(data: Data, study: optuna.Study) -> optuna.trial.FrozenTrial:
    """Return the trial with fewest weights of those less than a corrected standard error below the best."""
    least = study.best_value - corrected_standard_error(values_of(study.best_trial))
    good = [trial for trial in study.trials if trial.value >= least]
    return min(good, key=lambda trial: (n_weights(fit(*data, trial.params)), -trial.value))


def n_weights(model: LogisticRegression) -> int:
    """Return the number of weights that are not 0, of 784."""
    return int(np.count_nonzero(model.coef_))


def repeat(seed: int) -> pd.DataFrame:
    """Return one repetition: one row for each way to tune."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the pruner
    data, untouched = draw(seed)
    five, ten = (cut(data, k, seed) for k in (5, 10))
    studies = {
        "5 folds": tune(data, five, seed),
        "hold-out": tune(data, five[:1], seed, n_trials=5 * N_SUGGESTIONS),
        "5 folds, pruned": tune(data, five, seed, pruner=WilcoxonPruner()),
        "10 folds": tune(data, ten, seed),
        "10 folds, pruned": tune(data, ten, seed, pruner=WilcoxonPruner()),
    }
    chosen = {way: (study.best_trial.params, values_of(study.best_trial)) for way, study in studies.items()}
    simplest = simplest_within_one_standard_error(data, studies["5 folds"])
    default = {"regularization_type": "l2", "regularization_amount": 1 / N_IMAGES}  # scikit-learn's C=1
    chosen["one standard error"] = simplest.params, values_of(simplest)
    chosen["nested"] = studies["5 folds"].best_params, nested(data, seed)
    chosen["not tuned"] = default, list(evaluate(data, five, default))
    n_fits = {way: count_fits(study) for way, study in studies.items()}
    n_fits |= {"one standard error": n_fits["5 folds"], "nested": 5 * n_fits["5 folds"] + 5, "not tuned": 0}
    rows = []
    for way, (params, values) in chosen.items():
        row = {"repetition": seed, "way": way, "fits": n_fits[way], **params}
        rows.append(row | judge(data, untouched, params, values))
    return pd.DataFrame(rows)


def count_fits(study: optuna.Study) -> int:
    """Return the number of folds that the trials of a study had."""
    return sum(len(trial.intermediate_values) for trial in study.trials)


def judge(data: Data, untouched: Data, params: dict[str, Any], values: Sequence[float]) -> dict[str, float]:
    """Return what the folds say of a configuration, and its AUC on untouched images, fitted to all the data."""
    model = fit(*data, params)
    return {
        "estimate": statistics.fmean(values),
        "standard_error": pd.Series(values).sem(),
        "corrected_standard_error": corrected_standard_error(values),
        "test_auc": auc(model, untouched),
        "weights": n_weights(model),
    }


def main() -> None:
    table = pd.concat(Parallel(n_jobs=2)(delayed(repeat)(seed) for seed in REPETITIONS), ignore_index=True)
    table.round(6).to_csv(PATH, index=False, compression={"method": "gzip", "mtime": 0})


if __name__ == "__main__":
    main()
