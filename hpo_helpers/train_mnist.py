"""Train a small network on MNIST with MXNet: one dictionary of metrics per epoch.

In Python, ``train`` yields them::

    for metrics in train(learning_rate=0.1, epochs=3):
        print(metrics["epoch"], metrics["valid_error"])

As a script, the same is one line per epoch::

    python train_mnist.py --learning-rate 0.1 --epochs 3

    epoch=3 valid_error=0.0520 test_error=0.0520 seconds=0.34

The file needs Python 3.8, NumPy, MXNet and ``mxnet_compat.py`` beside it, and may be copied as it
is into a project of one's own, or into a job of Amazon SageMaker, whose variables it knows.
"""

from __future__ import annotations

import argparse
import json
import numbers
import os
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np

#: What a launcher may have ready before it forks: modules, or functions to call.
PRELOAD = ("hpo_helpers.mxnet_compat", "hpo_helpers.datasets:load_mnist")

CHECKPOINT = "checkpoint.npz"


def _import_mxnet():
    """Import MXNet by the file beside this one, in a package or in a bare folder."""
    if __package__:
        from .mxnet_compat import mx
    else:
        from mxnet_compat import mx
    return mx


def build_network(network: str = "cnn", n_channels: int = 16, dropout: float = 0.5) -> Any:
    """Return a network from images, shape (n, 1, 28, 28), to scores, shape (n, 10).

    ``"cnn"``: two convolutions of ``n_channels`` and twice as many channels, and one hidden layer;
    ``"mlp"``: two hidden layers. ``dropout`` is the share of a hidden layer's outputs that is
    dropped in training. ``load_parameters("model.params")`` sets weights that ``train`` has saved.
    """
    nn = _import_mxnet().gluon.nn
    net = nn.HybridSequential()
    if network == "cnn":
        net.add(
            nn.Conv2D(n_channels, kernel_size=5, activation="relu", in_channels=1),
            nn.MaxPool2D(2),
            nn.Conv2D(2 * n_channels, kernel_size=5, activation="relu", in_channels=n_channels),
            nn.MaxPool2D(2),
            nn.Dense(128, activation="relu", in_units=2 * n_channels * 4 * 4),
            nn.Dropout(dropout),
            nn.Dense(10, in_units=128),
        )
    else:
        net.add(
            nn.Dense(128, activation="relu", in_units=784),
            nn.Dropout(dropout),
            nn.Dense(64, activation="relu", in_units=128),
            nn.Dropout(dropout),
            nn.Dense(10, in_units=64),
        )
    return net


def batches(images: Any, labels: Any, batch_size: int, order: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Yield batches of one size of images and labels, MXNet arrays, by a permutation of rows."""
    n_used = len(order) // batch_size * batch_size
    rows = _import_mxnet().nd.array(order[:n_used], dtype="int32")
    images, labels = images.take(rows), labels.take(rows)
    for start in range(0, n_used, batch_size):
        yield images[start : start + batch_size], labels[start : start + batch_size]


def evaluate(net: Any, images: Any, labels: Any, batch_size: int = 250) -> float:
    """Return the share of images that the network takes for another digit, in [0, 1].

    A network that has diverged scores NaN, which counts as having answered 0.
    """
    n_wrong = 0.0
    for start in range(0, len(labels), batch_size):
        predicted = net(images[start : start + batch_size]).argmax(axis=1)
        n_wrong = n_wrong + (predicted != labels[start : start + batch_size]).sum()
    return n_wrong.asscalar().item() / len(labels)


def train(
    *,
    network: str = "cnn",
    epochs: int = 27,
    learning_rate: float = 0.1,
    momentum: float = 0.5,
    batch_size: int = 64,
    n_channels: int = 16,
    dropout: float = 0.5,
    weight_decay: float = 1e-4,
    seed: int = 0,
    data: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    model_dir: str | os.PathLike[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Train a network by stochastic gradient descent with momentum.

    Stop iterating, and it stops training. A seed gives the same errors again, bit for bit, on the
    same kind of processor, also where runs are interrupted or advance in turns.

    Parameters
    ----------
    network, n_channels, dropout
        See ``build_network``.
    epochs
        Number of passes over the training part.
    learning_rate
        Step size, above 0.
    momentum
        Share of the last step that is repeated, in [0, 1).
    batch_size
        Images per step.
    weight_decay
        Factor of L2 regularization, 0 or more.
    seed
        Of the weights, of the order of the images and of dropout: 0 to 2**32 - 1.
    data
        See ``load_data``.
    checkpoint
        Folder in which each epoch is saved, and from which an interrupted run goes on, after it
        has yielded the epochs again that it holds. ``epochs`` may be raised.
    model_dir
        Folder in which ``model.params`` is saved after each epoch.

    Yields
    ------
    dict
        ``epoch``, from 1; ``valid_error`` and ``test_error``, the shares of images taken for another
        digit; ``seconds``, the wall-clock time of this epoch, evaluation included.
    """
    given = locals()  # the parameters by name, as nothing else is there yet
    hyperparameters = {name: _checked(name, given[name]) for name in HYPERPARAMETERS}
    epochs = hyperparameters.pop("epochs")
    parts = load_data(data)
    n_train = len(parts[0][1])
    if batch_size > n_train:
        raise ValueError(f"batch_size must be at most {n_train} (the training part), got {batch_size!r}")
    # A generator of its own, so that the checks do not wait.
    return _epochs(hyperparameters, epochs, parts, checkpoint, model_dir)


def _epochs(hyperparameters, epochs, parts, checkpoint, model_dir):
    mx = _import_mxnet()
    train_part, valid_part, test_part = (
        (mx.nd.array(images), mx.nd.array(labels, dtype="float32")) for images, labels in parts
    )
    net, trainer = _new_run(hyperparameters)
    history = _load_checkpoint(checkpoint, hyperparameters, epochs, net, trainer)
    if history:
        _save_model(model_dir, net)
    yield from map(dict, history)
    for epoch in range(len(history) + 1, epochs + 1):
        start = time.perf_counter()
        random_state = _seeded(hyperparameters["seed"], epoch)
        _train_epoch(net, trainer, *train_part, hyperparameters["batch_size"], random_state)
        metrics = {"epoch": epoch, "valid_error": evaluate(net, *valid_part)}
        metrics["test_error"] = evaluate(net, *test_part)
        metrics["seconds"] = time.perf_counter() - start
        history.append(metrics)
        _save_checkpoint(checkpoint, hyperparameters, history, net, trainer)
        _save_model(model_dir, net)
        yield dict(metrics)


def _seeded(seed, epoch):
    """Seed MXNet for one epoch, or for the weights (0); return what orders the images."""
    random_state = np.random.RandomState([seed, epoch])
    _import_mxnet().random.seed(random_state.randint(2**31 - 1))
    return random_state


def _new_run(hyperparameters):
    mx = _import_mxnet()
    _seeded(hyperparameters["seed"], 0)
    shape = ("network", "n_channels", "dropout")
    net = build_network(**{name: hyperparameters[name] for name in shape})
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    sgd = {name: hyperparameters[name] for name in ("learning_rate", "momentum")}
    sgd["wd"] = hyperparameters["weight_decay"]
    return net, mx.gluon.Trainer(net.collect_params(), "sgd", sgd, kvstore=None)


def _train_epoch(net, trainer, images, labels, batch_size, random_state):
    mx = _import_mxnet()
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize(static_alloc=True, static_shape=True)
    order = random_state.permutation(len(labels))
    for batch, batch_labels in batches(images, labels, batch_size, order):
        with mx.autograd.record():
            losses = loss(net(batch), batch_labels)
        losses.backward()
        trainer.step(batch_size)


#: What each hyperparameter must be: kind, range, both in words.
HYPERPARAMETERS = {
    "network": (str, lambda x: x in ("cnn", "mlp"), "'cnn' or 'mlp'"),
    "epochs": (numbers.Integral, lambda x: x >= 1, "a whole number of at least 1"),
    "learning_rate": (numbers.Real, lambda x: 0 < x < 1e38, "a number above 0 and below 1e38"),
    "momentum": (numbers.Real, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "batch_size": (numbers.Integral, lambda x: x >= 1, "a whole number of at least 1"),
    "n_channels": (numbers.Integral, lambda x: x >= 1, "a whole number of at least 1"),
    "dropout": (numbers.Real, lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "weight_decay": (numbers.Real, lambda x: 0 <= x < 1e38, "a number from 0 to below 1e38"),
    "seed": (numbers.Integral, lambda x: 0 <= x < 2**32, "a whole number from 0 to 2**32 - 1"),
}


def _checked(name, value):
    """Return the value as Python's own type; NumPy's are accepted too."""
    kind, holds, description = HYPERPARAMETERS[name]
    if isinstance(value, bool) or not isinstance(value, kind) or not holds(value):
        raise ValueError(f"{name} must be {description}, got {value!r}")
    return {str: str, numbers.Integral: int, numbers.Real: float}[kind](value)


def load_data(data: Any = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training, validation and test part, each a pair of images and labels.

    Parameters
    ----------
    data
        Three such pairs; or a folder with ``mnist.npz``, as ``datasets.save_npz`` writes it; or
        None: the folder that ``SM_CHANNEL_TRAINING`` names, else ``datasets.load_mnist()``.

    Returns
    -------
    list
        Images of shape (n, 1, 28, 28), float32 (bytes are divided by 255), and labels (n,).
    """
    if data is None:
        data = os.environ.get("SM_CHANNEL_TRAINING") or _load_5000()
    parts = _read_folder(Path(data)) if isinstance(data, (str, os.PathLike)) else data
    if len(parts) != 3:
        raise ValueError(f"data must be training, validation and test, got {len(parts)} parts")
    names = ("training", "validation", "test")
    return [_checked_part(name, *part) for name, part in zip(names, parts)]


def _load_5000():
    try:
        from hpo_helpers.datasets import load_mnist
    except ImportError as error:
        wanted = "pass data=, or let SM_CHANNEL_TRAINING name a folder with mnist.npz"
        raise ValueError(f"there is nothing to train on: {wanted} ({error})") from error
    return load_mnist()


def _read_folder(folder):
    path = folder / "mnist.npz"
    if not path.is_file():
        raise ValueError(f"a folder of data must hold mnist.npz, got {str(folder)!r}")
    with np.load(path) as arrays:
        return [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "valid", "test")]


def _checked_part(name, images, labels):
    images, labels = np.asarray(images), np.asarray(labels)
    n_images = len(images)
    if labels.shape != (n_images,) or images.size != 784 * n_images or not n_images:
        found = f"the shapes {images.shape} and {labels.shape}"
        raise ValueError(f"the {name} part must be images of 28 x 28 and a label each, got {found}")
    if not np.isin(labels, range(10)).all():
        raise ValueError(f"the {name} labels must be digits from 0 to 9, got {np.unique(labels)}")
    if images.dtype == np.uint8:
        images = np.divide(images, 255, dtype=np.float32)
    return images.reshape(-1, 1, 28, 28).astype(np.float32, copy=False), labels


def _save_model(folder, net):
    if folder is not None:
        _write_whole(Path(folder) / "model.params", lambda path: _save_parameters(net, path))


def _save_parameters(net, path):
    mx = _import_mxnet()
    try:
        net.save_parameters(path)
        mx.nd.load(path)  # saving does not notice when the last bytes find no room
    except mx.MXNetError as error:
        raise OSError(f"{path} could not be written: is the disk full?") from error


def _write_whole(path, write):
    """Write a file that appears under its own name only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished.{path.name}")
    write(str(unfinished))
    os.replace(unfinished, path)


def _save_checkpoint(folder, run, history, net, trainer):
    """Save what the next epoch needs; no random state, as each epoch is seeded anew."""
    if folder is None:
        return
    content = {"state": json.dumps({"run": run, "history": history})}
    for i, parameter in enumerate(net.collect_params().values()):
        content[f"parameter_{i}"] = parameter.data().asnumpy()
    # The public way to the momenta is a pickle, and a checkpoint may be anybody's.
    for i, momentum in trainer._updaters[0].states.items():
        if momentum is not None:
            content[f"momentum_{i}"] = momentum.asnumpy()
    _write_whole(Path(folder) / CHECKPOINT, lambda path: np.savez(path, **content))


def _load_checkpoint(folder, run, epochs, net, trainer):
    """Go on from the checkpoint, if there is one; return its metrics."""
    if folder is None or not (Path(folder) / CHECKPOINT).exists():
        return []
    path = Path(folder) / CHECKPOINT
    with np.load(path) as file:
        arrays = dict(file)
    saved = json.loads(str(arrays["state"]))
    if saved["run"] != run:
        raise ValueError(f"{path} is another run's, {saved['run']} instead of {run}: delete it")
    if len(saved["history"]) > epochs:
        raise ValueError(f"{path} has {len(saved['history'])} epochs, more than epochs={epochs}")
    _restore(arrays, net, trainer)
    return saved["history"]


def _restore(arrays, net, trainer):
    nd, updater = _import_mxnet().nd, trainer._updaters[0]
    for i, parameter in enumerate(net.collect_params().values()):
        parameter.set_data(nd.array(arrays[f"parameter_{i}"]))
        if f"momentum_{i}" in arrays:
            updater.states[i] = nd.array(arrays[f"momentum_{i}"])
            updater.states_synced[i] = True


LINE = "epoch={epoch} valid_error={valid_error:.4f} test_error={test_error:.4f} seconds={seconds:.2f}"

FOLDERS = {
    "data": "folder with mnist.npz (default: $SM_CHANNEL_TRAINING, else 5,000 images)",
    "checkpoint": "folder to save each epoch in, and to go on from",
    "model_dir": "folder to save model.params in (default: $SM_MODEL_DIR)",
}


def _parser():
    parser = argparse.ArgumentParser(description="Train a network on MNIST.", allow_abbrev=False)
    for name, default in train.__kwdefaults__.items():
        flags = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        if name in FOLDERS:
            parser.add_argument(*flags, metavar="FOLDER", help=FOLDERS[name])
        else:
            help = f"{HYPERPARAMETERS[name][2]} (default: {default})"
            parser.add_argument(*flags, type=type(default), default=default, help=help)
    parser.set_defaults(model_dir=os.environ.get("SM_MODEL_DIR") or None)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says and print one line per epoch."""
    options = vars(_parser().parse_args(arguments))
    try:
        for metrics in train(**options):
            print(LINE.format(**metrics), flush=True)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"train_mnist: error: {error}")


if __name__ == "__main__":
    main()
