"""Train a small network on MNIST with MXNet: one dictionary of metrics per epoch.

In Python, ``train`` yields them::

    for metrics in train(learning_rate=0.1, epochs=3):
        print(metrics["epoch"], metrics["valid_error"])

As a script, the same is one line per epoch::

    python train_mnist.py --learning-rate 0.1 --epochs 3

    epoch=3 valid_error=0.0520 test_error=0.0520 seconds=0.34

Where Amazon SageMaker runs the script, the folders of the data and of the saved parameters come from
``SM_CHANNEL_TRAINING`` and ``SM_MODEL_DIR``. The file needs NumPy, MXNet, ``mxnet_compat.py`` beside it and
Python 3.8 or later, nothing else, and may be copied into a project of one's own as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import inspect
import io
import json
import math
import numbers
import os
import sys
import time
import zlib
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence, Tuple

import numpy as np

#: What a launcher may have ready before it forks: modules to import, ``module:function`` to call once.
PRELOAD = ("hpo_helpers.mxnet_compat", "hpo_helpers.datasets:load_mnist")

Part = Tuple[np.ndarray, np.ndarray]  # images and labels


def _import_mxnet() -> Any:
    """Import MXNet by the file beside this one, in a package or in a bare folder."""
    if __package__:
        from .mxnet_compat import mx
    else:
        from mxnet_compat import mx
    return mx


# Build the network


def build_network(network: str = "cnn", n_channels: int = 16, dropout: float = 0.5) -> Any:
    """Return a network that maps images, shape (n, 1, 28, 28), to scores of the ten digits, shape (n, 10).

    Its weights are not set yet: ``initialize`` sets them at random, ``load_parameters("model.params")`` to
    what ``train`` has saved.

    Parameters
    ----------
    network
        ``"cnn"``: two convolutions, each followed by a pooling, and one hidden layer. ``"mlp"``: two hidden
        layers, 784-128-64-10.
    n_channels
        Channels of the first convolution; the second has twice as many. The MLP has none.
    dropout
        Share of each hidden layer's outputs that is dropped in training.

    Returns
    -------
    mxnet.gluon.nn.HybridSequential
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


# Make batches, evaluate


def batches(images: Any, labels: Any, batch_size: int, order: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Yield batches in the given order, all of one size: what remains at its end is left out.

    Parameters
    ----------
    images, labels
        MXNet arrays of equal length.
    batch_size
        Images in each batch.
    order
        A permutation of the rows. With a new one each epoch, every image gets its turn.

    Yields
    ------
    tuple
        ``batch_size`` images and their labels: views of one shuffled copy, which costs less than a copy per
        batch.
    """
    n_used = len(order) // batch_size * batch_size
    rows = _import_mxnet().nd.array(order[:n_used], dtype="int32")
    images, labels = images.take(rows), labels.take(rows)
    for start in range(0, n_used, batch_size):
        yield images[start : start + batch_size], labels[start : start + batch_size]


def evaluate(net: Any, images: Any, labels: Any, batch_size: int = 250) -> float:
    """Return the share of images that the network takes for another digit.

    A network that has diverged gives NaN as its scores. It then counts as having answered 0, so that its
    error is about 0.9 and never NaN.

    Parameters
    ----------
    net
        A network as from ``build_network``.
    images, labels
        MXNet arrays of equal length.
    batch_size
        Images at a time: limits memory, does not change the result.

    Returns
    -------
    float
        Error in [0, 1].
    """
    n_wrong = 0.0
    for start in range(0, len(labels), batch_size):
        predicted = net(images[start : start + batch_size]).argmax(axis=1)
        n_wrong = n_wrong + (predicted != labels[start : start + batch_size]).sum()
    return n_wrong.asscalar().item() / len(labels)


# Train


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

    Stop iterating, and it stops training. A seed gives the same errors again, bit for bit, on the same kind
    of processor with the same version of MXNet. The random numbers of each epoch come from the seed and the
    number of the epoch alone, so that runs may be interrupted, or advance in turns.

    Parameters
    ----------
    network
        ``"cnn"`` or ``"mlp"``, see ``build_network``.
    epochs
        Number of passes over the training part.
    learning_rate
        Step size, above 0.
    momentum
        Share of the last step that is repeated, in [0, 1).
    batch_size
        Images per step.
    n_channels
        Channels of the CNN's first convolution.
    dropout
        Share of the hidden layers' outputs that is dropped in training, in [0, 1).
    weight_decay
        Factor of the weights that is added to the gradient (L2 regularization), 0 or more.
    seed
        Of the weights, of the order of the images and of dropout: 0 to 2**32 - 1.
    data
        See ``load_data``.
    checkpoint
        Folder in which each epoch is saved, and from which an interrupted run goes on. The epochs that it
        holds are yielded again first, as they were; ``epochs`` may be raised from one run to the next.
    model_dir
        Folder in which ``model.params`` is saved after each epoch.

    Yields
    ------
    dict
        ``epoch``, counted from 1; ``valid_error`` and ``test_error``, the shares of images taken for another
        digit; ``seconds``, the wall-clock time of this epoch's training and evaluation.

    Raises
    ------
    ValueError
        On a hyperparameter out of its range, data that do not fit, or a checkpoint that is damaged or another
        run's. It is raised at the call, a bad checkpoint when the iteration starts.
    ImportError
        When the iteration starts, if MXNet cannot be imported.
    """
    hyperparameters = {
        "network": _checked("network", network),
        "learning_rate": _checked("learning_rate", learning_rate),
        "momentum": _checked("momentum", momentum),
        "batch_size": _checked("batch_size", batch_size),
        "n_channels": _checked("n_channels", n_channels),
        "dropout": _checked("dropout", dropout),
        "weight_decay": _checked("weight_decay", weight_decay),
        "seed": _checked("seed", seed),
    }
    epochs = _checked("epochs", epochs)
    parts = load_data(data)
    n_train = len(parts[0][1])
    if batch_size > n_train:
        raise ValueError(
            f"batch_size must be at most {n_train}, the number of training images, got {batch_size!r}"
        )
    # A generator of its own does the work, so that the checks above do not wait for the first iteration.
    return _epochs(hyperparameters, epochs, parts, checkpoint, model_dir)


def _epochs(
    hyperparameters: dict[str, Any], epochs: int, parts: Sequence[Part], checkpoint: Any, model_dir: Any
) -> Iterator[dict[str, Any]]:
    mx = _import_mxnet()
    train_part, valid_part, test_part = (
        (mx.nd.array(images), mx.nd.array(labels, dtype="float32")) for images, labels in parts
    )
    net, trainer = _new_run(hyperparameters)
    # A checkpoint must not go on with other images; their labels tell.
    run = dict(hyperparameters, training_labels=zlib.crc32(parts[0][1].astype(np.uint8).tobytes()))
    history = _load_checkpoint(checkpoint, run, epochs, net, trainer)
    if history:
        _save_model(model_dir, net)
    for metrics in history:
        yield dict(metrics)
    for epoch in range(len(history) + 1, epochs + 1):
        start = time.perf_counter()
        _train_epoch(
            net, trainer, *train_part, hyperparameters["batch_size"], _seeded(hyperparameters["seed"], epoch)
        )
        errors = {"valid_error": evaluate(net, *valid_part), "test_error": evaluate(net, *test_part)}
        history.append({"epoch": epoch, **errors, "seconds": time.perf_counter() - start})
        _save_checkpoint(checkpoint, run, history, net, trainer)
        _save_model(model_dir, net)
        yield dict(history[-1])


def _seeded(seed: int, epoch: int) -> np.random.RandomState:
    """Seed MXNet for one epoch, 0 being the initial weights, and return the state that orders its images."""
    random_state = np.random.RandomState([seed, epoch])
    _import_mxnet().random.seed(random_state.randint(2**31 - 1))
    return random_state


def _new_run(hyperparameters: dict[str, Any]) -> tuple[Any, Any]:
    """Return an initialized network and its trainer."""
    mx = _import_mxnet()
    _seeded(hyperparameters["seed"], 0)
    net = build_network(**{name: hyperparameters[name] for name in ("network", "n_channels", "dropout")})
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    sgd = {name: hyperparameters[name] for name in ("learning_rate", "momentum")}
    sgd["wd"] = hyperparameters["weight_decay"]
    return net, mx.gluon.Trainer(net.collect_params(), "sgd", sgd, kvstore=None)


def _train_epoch(
    net: Any, trainer: Any, images: Any, labels: Any, batch_size: int, random_state: np.random.RandomState
) -> None:
    mx = _import_mxnet()
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize(static_alloc=True, static_shape=True)
    for batch, batch_labels in batches(images, labels, batch_size, random_state.permutation(len(labels))):
        with mx.autograd.record():
            losses = loss(net(batch), batch_labels)
        losses.backward()
        trainer.step(batch_size)


# Check the hyperparameters


#: What each hyperparameter must be: kind, range, and both in words. MXNet's numbers end at 3.4e38.
RANGES: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "network": (str, lambda value: value in ("cnn", "mlp"), "'cnn' or 'mlp'"),
    "epochs": (numbers.Integral, lambda value: value >= 1, "a whole number of at least 1"),
    "learning_rate": (numbers.Real, lambda value: 0 < value < 1e38, "a number above 0 and below 1e38"),
    "momentum": (numbers.Real, lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "batch_size": (numbers.Integral, lambda value: value >= 1, "a whole number of at least 1"),
    "n_channels": (numbers.Integral, lambda value: value >= 1, "a whole number of at least 1"),
    "dropout": (numbers.Real, lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "weight_decay": (numbers.Real, lambda value: 0 <= value < 1e38, "a number from 0 to below 1e38"),
    "seed": (numbers.Integral, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1"),
}


def _checked(name: str, value: Any) -> Any:
    """Return the value as Python's own type, NumPy's being accepted too, or raise ValueError."""
    kind, holds, description = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, kind) or not holds(value):
        raise ValueError(f"{name} must be {description}, got {value!r}")
    return {str: str, numbers.Integral: int, numbers.Real: float}[kind](value)


# Read the data


def load_data(data: Any = None) -> list[Part]:
    """Return the training, validation and test part, each a pair of images and labels.

    Parameters
    ----------
    data
        Three such pairs; or a folder with ``mnist.npz`` or MNIST's four IDX files, packed (``.gz``) or not;
        or None: the folder that ``SM_CHANNEL_TRAINING`` names, else the 5,000 images of
        ``hpo_helpers.datasets.load_mnist()``. Of the IDX files, validation takes the last sixth of the
        training images, MNIST's last 10,000.

    Returns
    -------
    list
        Images of shape (n, 1, 28, 28), float32 in [0, 1] (bytes are divided by 255), and labels of shape
        (n,).

    Raises
    ------
    ValueError
        If there are no data, or they are not MNIST's kind, or a file is damaged.
    """
    if data is None:
        data = os.environ.get("SM_CHANNEL_TRAINING") or _load_package_data()
    parts = _read_folder(Path(data)) if isinstance(data, (str, os.PathLike)) else data
    if len(parts) != 3:
        raise ValueError(
            f"data must be three pairs, for training, validation and test, got {len(parts)} parts"
        )
    return [_checked_part(name, *part) for name, part in zip(("training", "validation", "test"), parts)]


def _load_package_data() -> Sequence[Part]:
    try:
        from hpo_helpers.datasets import load_mnist
    except ImportError as error:
        raise ValueError(
            "there is nothing to train on: pass data=, or let SM_CHANNEL_TRAINING name a folder with "
            f"mnist.npz or the four IDX files of MNIST ({error})"
        ) from error
    return load_mnist()


def _checked_part(name: str, images: Any, labels: Any) -> Part:
    images, labels = np.asarray(images), np.asarray(labels)
    if labels.ndim != 1 or len(labels) == 0 or len(images) != len(labels) or images.size != 784 * len(labels):
        raise ValueError(
            f"the {name} part must be images of 28 x 28 pixels with one label each, got the shapes "
            f"{images.shape} and {labels.shape}"
        )
    if not np.isin(labels, range(10)).all():
        raise ValueError(
            f"the labels of the {name} part must be whole numbers from 0 to 9, got {np.unique(labels)}"
        )
    if images.dtype == np.uint8:
        images = np.divide(images, 255, dtype=np.float32)
    return images.reshape(-1, 1, 28, 28).astype(np.float32, copy=False), labels


def _read_folder(folder: Path) -> Sequence[Part]:
    if not folder.is_dir():
        raise ValueError(f"the folder of the data does not exist: got {str(folder)!r}")
    if (folder / "mnist.npz").is_file():
        return _read_npz(folder / "mnist.npz")
    (images, labels), test = (
        (_read_idx(folder, f"{part}-images-idx3-ubyte"), _read_idx(folder, f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    )
    n_train = len(labels) - len(labels) // 6
    return [(images[:n_train], labels[:n_train]), (images[n_train:], labels[n_train:]), test]


def _read_npz(path: Path) -> Sequence[Part]:
    arrays = _load_npz(path)
    try:
        return [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "valid", "test")]
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}; hpo_helpers.datasets.save_npz writes it whole") from error


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """Read one file of MNIST: two zero bytes, the type, the number of dimensions, their sizes, the values.

    The format is described on the data set's home page, http://yann.lecun.com/exdb/mnist/.
    """
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} must hold mnist.npz, or {name} or {name}.gz and its like")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({error})") from error
    n_dimensions = 3 if "images" in name else 1
    if content[:4] != bytes([0, 0, 8, n_dimensions]):
        raise ValueError(
            f"{path} is no IDX file of bytes in {n_dimensions} dimensions, it begins {content[:4]!r}"
        )
    start = 4 + 4 * n_dimensions
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} is truncated or damaged: {len(content)} bytes instead of {start + math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


# Save and resume


CHECKPOINT = "checkpoint.npz"


def _save_model(folder: Any, net: Any) -> None:
    if folder is None:
        return
    mx = _import_mxnet()
    with _whole_file(Path(folder) / "model.params") as unfinished:
        try:
            net.save_parameters(str(unfinished))
            mx.nd.load(str(unfinished))  # saving alone does not notice when the last bytes find no room
        except mx.MXNetError as error:
            raise OSError("is the disk full?") from error


def _save_checkpoint(
    folder: Any, run: dict[str, Any], history: list[dict[str, Any]], net: Any, trainer: Any
) -> None:
    """Save what the next epoch needs. Random states are not among it, as each epoch is seeded anew."""
    if folder is None:
        return
    arrays = {f"parameter_{i}": parameter.data() for i, parameter in enumerate(net.collect_params().values())}
    # The public way to the momenta is a pickle, and a checkpoint may come from elsewhere.
    momenta = trainer._updaters[0].states
    arrays.update({f"momentum_{i}": state for i, state in momenta.items() if state is not None})
    texts = {"run": json.dumps(run), "history": json.dumps(history)}
    content = io.BytesIO()  # in memory first, as NumPy leaves a broken ZipFile behind where the disk is full
    np.savez(content, **texts, **{name: array.asnumpy() for name, array in arrays.items()})
    with _whole_file(Path(folder) / CHECKPOINT) as unfinished:
        unfinished.write_bytes(content.getvalue())


def _load_checkpoint(
    folder: Any, run: dict[str, Any], epochs: int, net: Any, trainer: Any
) -> list[dict[str, Any]]:
    """Set weights and momenta to the checkpoint's, if there is one, and return its epochs' metrics."""
    if folder is None or not (Path(folder) / CHECKPOINT).exists():
        return []
    path = Path(folder) / CHECKPOINT
    arrays = _load_npz(path)
    if "run" not in arrays or "history" not in arrays:
        raise ValueError(f"{path} is no checkpoint of train_mnist: delete it or name another folder")
    saved, history = json.loads(str(arrays["run"])), json.loads(str(arrays["history"]))
    differing = [
        f"{name}={saved.get(name)!r} instead of {run[name]!r}" for name in run if saved.get(name) != run[name]
    ]
    if differing:
        raise ValueError(
            f"{path} is another run's, with {', '.join(differing)}: delete it or name another folder"
        )
    if len(history) > epochs:
        raise ValueError(
            f"{path} has {len(history)} epochs, more than epochs={epochs!r}: delete it or raise epochs"
        )
    _restore(arrays, net, trainer)
    return history


def _restore(arrays: dict[str, np.ndarray], net: Any, trainer: Any) -> None:
    nd, updater = _import_mxnet().nd, trainer._updaters[0]
    for i, parameter in enumerate(net.collect_params().values()):
        parameter.set_data(nd.array(arrays[f"parameter_{i}"]))
        if f"momentum_{i}" in arrays:
            updater.states[i] = nd.array(arrays[f"momentum_{i}"])
            updater.states_synced[i] = True


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a file, or raise ValueError if it is damaged."""
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged file fails in many ways inside zipfile and NumPy
        raise ValueError(
            f"{path} is damaged or no .npz file: delete it or put a whole one there ({error})"
        ) from error


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Give a name to write to; the file appears under its own name only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()


# The command line


LINE = "epoch={epoch} valid_error={valid_error:.4f} test_error={test_error:.4f} seconds={seconds:.2f}"

HELP = {
    "network": "cnn or mlp",
    "epochs": "passes over the training images",
    "learning_rate": "step size",
    "momentum": "share of the last step that is repeated",
    "batch_size": "images per step",
    "n_channels": "channels of the first convolution",
    "dropout": "share of the hidden layers' outputs that is dropped in training",
    "weight_decay": "factor of the weights that is added to the gradient",
    "seed": "of everything random",
    "data": "folder with mnist.npz or the four IDX files (default: $SM_CHANNEL_TRAINING, else 5,000 images)",
    "checkpoint": "folder to save each epoch in, and to go on from",
    "model_dir": "folder to save model.params in (default: $SM_MODEL_DIR)",
}


def _parser() -> argparse.ArgumentParser:
    """Make one argument of each parameter of ``train``, to be written with hyphens or with underscores."""
    parser = argparse.ArgumentParser(description="Train a small network on MNIST.", allow_abbrev=False)
    for name, parameter in inspect.signature(train).parameters.items():
        flags = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        if parameter.default is None:
            parser.add_argument(*flags, metavar="FOLDER", help=HELP[name])
        else:
            help = f"{HELP[name]} (default: {parameter.default})"
            parser.add_argument(*flags, type=type(parameter.default), default=parameter.default, help=help)
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
