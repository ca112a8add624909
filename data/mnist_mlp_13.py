"""Train a multilayer perceptron with 13 hyperparameters on 3,000 images of MNIST.

    print(*train(epochs=27, seed=0, learning_rate=0.003, shift=1), sep="\n")

Its search space is ``spaces.MNIST_MLP_13``. The defaults were never tuned: they are what one would type first.
"""

import functools
import math
import os
from collections.abc import Iterator

import numpy as np

from hpo_helpers.datasets import load_mnist
from hpo_helpers.mxnet_compat import mx
from hpo_helpers.train_mnist import evaluate

FULL_LENGTH = 27  # epochs
EVALUATED = (1, 3, 9, 27)
ERROR_OF_GUESSING = 0.9


def train(
    epochs: int,
    seed: int,
    *,
    n_layers: int = 2,
    width: int = 128,
    activation: str = "relu",
    optimizer: str = "adam",
    momentum: float = 0.0,  # of "sgd"; Adam does without
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    weight_decay: float = 1e-7,
    dropout_input: float = 0.0,
    dropout_hidden: float = 0.0,
    init_scale: float = 1.0,  # factor of Xavier's first weights
    schedule: str = "constant",  # or "cosine": the rate falls to 0 over 27 epochs, however many are trained
    shift: int = 0,  # each epoch moves each image by up to so many pixels, along both axes
) -> Iterator[dict]:
    """Train; the seed decides the first weights, the order of the images, dropout and shifts.

    Stop iterating, and it stops training. A network that has diverged counts as guessing from then on.

    Yields
    ------
    dict
        ``epoch`` (1, 3, 9, 27); ``valid_error_1000`` and ``test_error_1000``, on the images of ``load_mnist()``;
        ``valid_error`` and ``test_error``, on 10,000 each, where ``HPO_HELPERS_MNIST`` names their folder.
    """
    images, labels = load_mnist().train
    seeded(seed, 0)
    net = build_network(n_layers, width, activation, dropout_input, dropout_hidden)
    net.initialize(mx.init.Xavier(magnitude=3 * init_scale**2))
    weights, gradients = in_one_array(net)
    losses_of = Losses(net)
    losses_of.hybridize(static_alloc=True, static_shape=True)
    settings = {"learning_rate": learning_rate, "wd": weight_decay, "rescale_grad": 1 / batch_size}
    if optimizer == "sgd":
        settings["momentum"] = momentum
    optimizer = mx.optimizer.create(optimizer, **settings)
    update = mx.optimizer.get_updater(optimizer)

    windows = all_shifts(images[:, 0], shift)
    n_batches = len(labels) // batch_size  # the images that remain get their turn in the next epoch's order
    for epoch in range(1, epochs + 1):
        random_state = seeded(seed, epoch)
        order = random_state.permutation(len(labels))[: n_batches * batch_size]
        down, right = random_state.randint(0, 2 * shift + 1, size=(2, len(order)))
        batches = mx.nd.array(windows[order, down, right].reshape(n_batches, batch_size, 784))
        digits = mx.nd.array(labels[order].reshape(n_batches, batch_size), dtype="float32")
        for batch in range(n_batches if is_finite(weights) else 0):
            if schedule == "cosine":
                progress = (epoch - 1 + batch / n_batches) / FULL_LENGTH
                optimizer.set_learning_rate(learning_rate * 0.5 * (1 + math.cos(math.pi * progress)))
            with mx.autograd.record():
                losses = losses_of(batches[batch], digits[batch])
            losses.backward()
            update(0, gradients, weights)
        if epoch in EVALUATED:
            yield {"epoch": epoch, **errors(net, weights)}


class Losses(mx.gluon.HybridBlock):
    """The network with its loss, so that a batch is one call."""

    def __init__(self, net):
        super().__init__()
        self.net, self.loss = net, mx.gluon.loss.SoftmaxCrossEntropyLoss()

    def hybrid_forward(self, F, images, labels):
        return self.loss(self.net(images), labels)


def in_one_array(net) -> tuple:
    """Move all weights of a network into one array, and their gradients into another.

    The optimizer then takes one step a batch instead of two a layer: the same numbers in two thirds of the time.
    """
    parameters = list(net.collect_params().values())
    size = sum(parameter.data().size for parameter in parameters)
    weights, gradients, start = mx.nd.zeros(size), mx.nd.zeros(size), 0
    for parameter in parameters:
        values = parameter.data()
        place = slice(start, start + values.size)
        parameter._data = [weights[place].reshape(values.shape)]
        parameter._grad = [gradients[place].reshape(values.shape)]
        parameter.data()[:] = values
        mx.autograd.mark_variables(parameter.list_data(), parameter.list_grad())
        start = place.stop
    return weights, gradients


def seeded(seed: int, epoch: int) -> np.random.RandomState:
    """Seed MXNet for one epoch, 0 being the first weights; return what draws the order and the shifts."""
    random_state = np.random.RandomState([seed, epoch])
    mx.random.seed(random_state.randint(2**31 - 1))
    return random_state


def build_network(n_layers, width, activation, dropout_input, dropout_hidden):
    """Return a network from 784 pixels to the scores of ten digits."""
    nn = mx.gluon.nn
    net = nn.HybridSequential()
    net.add(nn.Dropout(dropout_input))
    for layer in range(n_layers):
        net.add(nn.Dense(width, activation=activation, in_units=width if layer else 784))
        net.add(nn.Dropout(dropout_hidden))
    net.add(nn.Dense(10, in_units=width))
    return net


def all_shifts(images: np.ndarray, pixels: int) -> np.ndarray:
    """Return a view of each image moved by up to so many pixels, down or up and right or left; paper fills the margin.

    Axes: image, move down, move right, row, column.
    """
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels)))
    return np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))


def is_finite(weights) -> bool:
    """Say whether all weights are numbers."""
    return bool(np.isfinite(weights.asnumpy()).all())


def errors(net, weights) -> dict[str, float]:
    """Return the share of images of each part that the network takes for another digit."""
    if not is_finite(weights):
        return dict.fromkeys(parts(), ERROR_OF_GUESSING)
    return {name: evaluate(net, *part, batch_size=1000) for name, part in parts().items()}


@functools.cache
def parts() -> dict[str, tuple]:
    """Return the images on which errors are measured, and their labels."""
    few = load_mnist()
    found = {"valid_error_1000": few.valid, "test_error_1000": few.test}
    if os.environ.get("HPO_HELPERS_MNIST"):  # never downloaded in passing
        all_images = load_mnist(full=True)
        found = {"valid_error": all_images.valid, "test_error": all_images.test, **found}
    return {name: (mx.nd.array(x.reshape(-1, 784)), mx.nd.array(y)) for name, (x, y) in found.items()}
