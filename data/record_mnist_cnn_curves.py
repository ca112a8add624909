"""Record the learning curves that every comparison of the series replays.

    python data/record_mnist_cnn_curves.py          # about two hours on 2 cores

Three tables: a full grid of the CNN, its best and some poorer configurations under many seeds, and a smaller grid
of another network on which nothing is chosen. Interrupt it at any time: every finished configuration lies in
``data/NAME.csv``, and the next run goes on from there. A table that is whole is compressed to ``data/NAME.csv.gz``.
"""

import itertools

import numpy as np
import pandas as pd
from recording import record

EPOCHS = 27

# Learning rates are close to each other, as the error depends on them most. Steps of the momentum m grow smaller
# towards its upper end, as what counts is 1 / (1 - m). Dropout hardly matters.
CNN_GRID = {
    "learning_rate": [float(f"{rate:.4g}") for rate in np.geomspace(1e-3, 1, 14)],
    "momentum": [0.0, 0.5, 0.8, 0.95],
    "batch_size": [16, 45, 128],
    "n_channels": [4, 8, 16],
    "dropout": [0.0, 0.5],
}
MLP_GRID = {
    "learning_rate": [float(f"{rate:.4g}") for rate in np.geomspace(1e-3, 1, 10)],
    "momentum": [0.0, 0.5, 0.8, 0.95],
    "batch_size": [16, 45, 128],
    "dropout": [0.0, 0.25, 0.5],
}

# The noise is measured at the best configurations, among which a tuner has to decide, and at poorer ones.
N_BEST = 6
POORER = (0.03, 0.1, 0.25, 0.5, 0.75, 0.9)  # quantiles of the validation error
NOISE_SEEDS = range(2000, 2020)  # none of the grid's


def main() -> None:
    grid = record("mnist_cnn_curves", grid_of(CNN_GRID), EPOCHS, {"network": "cnn"})
    record("mnist_cnn_noise", noise_of(grid), EPOCHS, {"network": "cnn"})
    record("mnist_mlp_curves", grid_of(MLP_GRID), EPOCHS, {"network": "mlp"})


def grid_of(levels: dict[str, list]) -> pd.DataFrame:
    """Combine all levels: one row a configuration, each trained with a seed of its own, its number."""
    configurations = pd.DataFrame(itertools.product(*levels.values()), columns=list(levels))
    configurations.insert(0, "configuration", range(len(configurations)))
    return configurations.assign(seed=configurations["configuration"])


def noise_of(grid: pd.DataFrame) -> pd.DataFrame:
    """Choose configurations of the grid, from best to poor, and give each of them many seeds."""
    # Averaged over the last epochs: the best of a thousand single errors is the luckiest one.
    last = grid[grid["epoch"] > EPOCHS - 3]
    ranked = last.groupby("configuration")["valid_error"].mean().sort_values(kind="stable").index
    ranks = [*range(N_BEST), *(int(quantile * len(ranked)) for quantile in POORER)]
    chosen = grid[grid["epoch"] == 1].set_index("configuration").loc[ranked[ranks]].reset_index()
    names = [name for name in CNN_GRID]
    seeds = pd.DataFrame({"seed": list(NOISE_SEEDS)})
    return chosen[["configuration", *names]].merge(seeds, how="cross")


if __name__ == "__main__":
    main()
