"""Repeat a published comparison of search methods on MNIST, with a validation set, many seeds and standard errors.

    HPO_HELPERS_MNIST=/folder/of/the/four/files python benchmarks/mnist_mlp.py

The task is that of the published one: the network 784-128-64-10, plain stochastic gradient descent in batches of 100,
the learning rate in [0.01, 0.2] and the number of epochs in [10, 50] to be chosen, on all 70,000 images.

Learning curves are recorded once, over a fine grid of learning rates, each under several seeds; networks train on
50,000 images. Interrupt it at any time: it goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from hpo_helpers.datasets import load_mnist
from hpo_helpers.train_mnist import train

DATA = Path(__file__).resolve().parent.parent / "data"
sys.path.append(str(DATA))
from recording import record  # noqa: E402

EPOCHS = 50
LEARNING_RATES = [round(rate, 2) for rate in np.linspace(0.01, 0.2, 20)]
N_CURVES = 3  # of each learning rate
#: What the published network had besides: no momentum, no dropout, no weight decay.
FIXED = {"network": "mlp", "batch_size": 100, "momentum": 0.0, "dropout": 0.0, "weight_decay": 0.0}


def main() -> None:
    record("mnist_70000_curves", curve_runs(), EPOCHS, FIXED, train_on_50000)


def curve_runs() -> pd.DataFrame:
    """Return one row a run: every learning rate several times, no two of them with the same seed."""
    rates = pd.DataFrame({"configuration": range(len(LEARNING_RATES)), "learning_rate": LEARNING_RATES})
    runs = rates.merge(pd.DataFrame({"seed": range(N_CURVES)}), how="cross")
    return runs.assign(seed=runs["configuration"] + 100 * runs["seed"])


def train_on_50000(**arguments) -> Iterator[dict]:
    """Train on 50,000 images; 10,000 more validate."""
    return train(data=load_mnist(full=True), **arguments)


if __name__ == "__main__":
    main()
