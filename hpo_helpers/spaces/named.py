"""The search spaces of the lessons, each a dict of Optuna distributions."""

from optuna.distributions import FloatDistribution, IntDistribution

#: The convolutional network of `train_mnist`, trained with stochastic gradient descent.
MNIST_CNN = {
    "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.95),
    "batch_size": IntDistribution(16, 128, log=True),
    "n_channels": IntDistribution(4, 16, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
}

#: The multilayer perceptron of `train_mnist`, with how long it is trained among what is searched.
MNIST_MLP = {
    "learning_rate": FloatDistribution(0.01, 0.2),
    "epochs": IntDistribution(10, 50),
}

#: XGBoost, as Amazon SageMaker's algorithm of that name offers it for tuning.
XGBOOST = {
    "alpha": FloatDistribution(0, 1000),
    "colsample_bylevel": FloatDistribution(0.1, 1),
    "colsample_bytree": FloatDistribution(0.5, 1),
    "eta": FloatDistribution(0.1, 0.5),
    "gamma": FloatDistribution(0, 5),
    "lambda": FloatDistribution(0, 1000),
    "max_delta_step": IntDistribution(0, 10),
    "max_depth": IntDistribution(0, 10),
    "min_child_weight": FloatDistribution(0, 120),
    "num_round": IntDistribution(1, 4000),
    "subsample": FloatDistribution(0.5, 1),
}
