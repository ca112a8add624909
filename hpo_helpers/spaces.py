"""What is searched: named search spaces, each a dict of Optuna distributions."""

from __future__ import annotations

from optuna.distributions import FloatDistribution, IntDistribution

#: The convolutional network of `train_mnist`, trained with stochastic gradient descent.
MNIST_CNN = {
    "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.95),
    "batch_size": IntDistribution(16, 128, log=True),
    "n_channels": IntDistribution(4, 16, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
}
