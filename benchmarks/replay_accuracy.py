"""Measure how close the replay comes to training, at the 81 recorded configurations that lie off the grid.

    python benchmarks/replay_accuracy.py

Two ways to answer are compared, the nearest configuration of the grid and interpolation between its neighbours, by
how far their validation errors are from the trained ones, and how well they rank the configurations.
"""

import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from hpo_helpers.curves import cnn_curves
from hpo_helpers.datasets import load_curves
from hpo_helpers.spaces import MNIST_CNN, to_unit_cube

EPOCHS = (1, 3, 9, 27)


def main() -> None:
    print(accuracy().to_string(index=False))
    print(f"\nMedian deviation of one training from the mean of its seeds, at 27 epochs: {noise():.0%}")


def accuracy() -> pd.DataFrame:
    """Return a row for each way to answer and each of some epochs."""
    trained = load_curves("mnist_cnn_81_curves")
    rows = []
    for way, answer in (("nearest", answer_nearest), ("linear", cnn_curves())):
        answers = answer_all(answer, trained)
        for epoch in EPOCHS:
            rows.append({"way": way, "epoch": epoch, **deviation(answers, trained, epoch)})
    return pd.DataFrame(rows)


def answer_nearest(params: dict[str, float]) -> list[dict[str, float]]:
    """Return the curve of the nearest configuration of the grid, on each hyperparameter's scale."""
    nearest = {}
    for name, recorded in levels().items():
        place = functools.partial(to_unit_cube, {name: MNIST_CNN[name]})
        nearest[name] = min(recorded, key=lambda level: abs(place({name: level})[name] - place(params)[name]))
    return cnn_curves()(nearest)


@functools.cache
def levels() -> dict[str, np.ndarray]:
    """Return the recorded values of each hyperparameter."""
    return {name: load_curves()[name].unique() for name in MNIST_CNN}


def answer_all(curves: Callable, trained: pd.DataFrame) -> pd.DataFrame:
    configurations = trained.drop_duplicates("configuration").set_index("configuration")[list(MNIST_CNN)]
    tables = {number: pd.DataFrame(curves(row.to_dict())) for number, row in configurations.iterrows()}
    return pd.concat(tables, names=["configuration"]).reset_index("configuration")


def deviation(answers: pd.DataFrame, trained: pd.DataFrame, epoch: int) -> dict[str, str]:
    """Return how far the answers are from training, as a factor, and how well they rank."""
    answer, truth = (
        table[table["epoch"] == epoch].set_index("configuration")["valid_error"] for table in (answers, trained)
    )
    distance = np.abs(np.log(answer / truth))
    return {
        "median deviation": f"{np.expm1(distance.median()):.0%}",
        "mean deviation": f"{np.expm1(distance.mean()):.0%}",
        "rank correlation": f"{answer.corr(truth, method='spearman'):.3f}",
        "among the better half": f"{half(answer, truth).corr(half(truth, truth), method='spearman'):.3f}",
    }


def half(errors: pd.Series, truth: pd.Series) -> pd.Series:
    return errors[truth <= truth.median()]


def noise() -> float:
    """Return by how much two trainings of one configuration differ: the floor of any answer's deviation."""
    last = load_curves("mnist_cnn_noise").query("epoch == 27")
    mean = last.groupby("configuration")["valid_error"].transform("mean")
    return np.expm1(np.abs(np.log(last["valid_error"] / mean)).median())


if __name__ == "__main__":
    main()
