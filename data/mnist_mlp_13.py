"""Train a multilayer perceptron with 13 hyperparameters on 3,000 images of MNIST.

    for row in train(epochs=27, seed=0, learning_rate=0.003, shift=1):
        print(row["epoch"], row["valid_error_1000"])

Its search space is ``spaces.MNIST_MLP_13``. What the arguments are by default was never tuned: it is what one
would type first. ``python data/mnist_mlp_13.py`` trains that.
"""

import functools
import math
import os
from collections.abc import Iterator

import numpy as np

from hpo_helpers.datasets import load_mnist
from hpo_helpers.mxnet_compat import mx

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
    momentum: float = 0.0,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    weight_decay: float = 1e-7,
    dropout_input: float = 0.0,
    dropout_hidden: float = 0.0,
    init_scale: float = 1.0,
    schedule: str = "constant",
    shift: int = 0,
) -> Iterator[dict]:
    """Train, and yield the errors after the epochs 1, 3, 9 and 27. Stop iterating, and it stops training.

    A diverged network counts as guessing from then on, and is trained no further.

    Parameters
    ----------
    epochs
        Number of passes over the training images.
    seed
        Of the first weights, the order of the images, dropout and shifts.
    momentum
        Of stochastic gradient descent; Adam does without.
    init_scale
        Factor of the first weights, 1 being Xavier's.
    schedule
        ``"cosine"``: the learning rate falls to 0 over 27 epochs, however many are trained.
    shift
        In each epoch an image is moved by up to so many pixels, along each axis.

    Yields
    ------
    dict
        ``epoch``; ``valid_error_1000`` and ``test_error_1000``, shares of the 1,000 images each of
        ``load_mnist()``. Where ``HPO_HELPERS_MNIST`` names the folder of the whole MNIST, also
        ``valid_error`` and ``test_error``, shares of its 10,000 validation and 10,000 test images.
    """
    images, labels = load_mnist().train
    seeded(seed, 0)
    net = build_network(n_layers, width, activation, dropout_input, dropout_hidden)
    net.initialize(mx.init.Xavier(magnitude=3 * init_scale**2))
    net.hybridize(static_alloc=True, static_shape=True)
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize(static_alloc=True, static_shape=True)
    settings = {"learning_rate": learning_rate, "wd": weight_decay}
    if optimizer == "sgd":
        settings["momentum"] = momentum
    trainer = mx.gluon.Trainer(net.collect_params(), optimizer, settings, kvstore=None)

    n_batches = len(labels) // batch_size  # the images that remain get their turn in the next epoch's order
    diverged = False
    for epoch in range(1, epochs + 1):
        random_state = seeded(seed, epoch)
        order = random_state.permutation(len(labels))[: n_batches * batch_size]
        moved = mx.nd.array(shifted(images[order, 0], shift, random_state).reshape(len(order), -1))
        digits = mx.nd.array(labels[order], dtype="float32")
        for batch in range(0 if diverged else n_batches):
            if schedule == "cosine":
                progress = (epoch - 1 + batch / n_batches) / FULL_LENGTH
                trainer.set_learning_rate(learning_rate * 0.5 * (1 + math.cos(math.pi * progress)))
            rows = slice(batch * batch_size, (batch + 1) * batch_size)
            with mx.autograd.record():
                losses = loss(net(moved[rows]), digits[rows])
            losses.backward()
            trainer.step(batch_size)
        if epoch in EVALUATED:
            diverged = diverged or not is_finite(net)
            yield {"epoch": epoch, **(dict.fromkeys(parts(), ERROR_OF_GUESSING) if diverged else errors(net))}


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


def shifted(images: np.ndarray, pixels: int, random_state: np.random.RandomState) -> np.ndarray:
    """Move each image by up to so many pixels, down or up and right or left; paper fills the margin."""
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))
    down, right = random_state.randint(0, 2 * pixels + 1, size=(2, len(images)))
    return windows[np.arange(len(images)), down, right]


def is_finite(net) -> bool:
    """Say whether all weights are numbers."""
    return all(np.isfinite(weights.data().asnumpy()).all() for weights in net.collect_params().values())


def errors(net) -> dict[str, float]:
    """Return the share of images of each part that the network takes for another digit."""
    return {
        name: float((predicted(net, images) != labels).mean()) for name, (images, labels) in parts().items()
    }


def predicted(net, images) -> np.ndarray:
    """Return the digit that each image is taken for."""
    starts = range(0, len(images), 1000)  # all at once would take much memory
    return np.concatenate([net(images[start : start + 1000]).argmax(axis=1).asnumpy() for start in starts])


@functools.cache
def parts() -> dict[str, tuple]:
    """Return the images on which errors are measured, and their labels."""
    few = load_mnist()
    found = {"valid_error_1000": few.valid, "test_error_1000": few.test}
    if os.environ.get("HPO_HELPERS_MNIST"):  # never downloaded in passing
        all_images = load_mnist(full=True)
        found = {"valid_error": all_images.valid, "test_error": all_images.test, **found}
    return {name: (mx.nd.array(images.reshape(-1, 784)), labels) for name, (images, labels) in found.items()}


if __name__ == "__main__":
    for row in train(FULL_LENGTH, seed=0):
        print(*(f"{name}={value:.4g}" for name, value in row.items()), flush=True)
