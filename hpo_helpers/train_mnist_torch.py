"""Train a small network on MNIST with PyTorch: ``train_mnist.py`` for where MXNet has no package.

It has the same hyperparameters, networks, checks and printed lines; its errors are the same within noise, as
its weights are drawn by another generator. In Python, ``train`` yields a dict after each epoch; as a script,
``python train_mnist_torch.py --learning-rate 0.1 --epochs 3`` prints a line after each.

The file needs Python 3.8, NumPy and PyTorch, and may be copied as it is into a project of one's own.
"""

from __future__ import annotations

import argparse
import contextlib
import numbers
import os
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np

#: What a launcher may have ready before it forks; the first optimizer would import it, for two seconds.
PRELOAD = ("torch._dynamo", "hpo_helpers.datasets:load_mnist")

CHECKPOINT, MODEL = "checkpoint.pt", "model.pt"


def build_network(network: str = "cnn", n_channels: int = 16, dropout: float = 0.5) -> Any:
    """Return a network from images, shape (n, 1, 28, 28), to scores, shape (n, 10).

    It is that of ``train_mnist``; ``load_state_dict(torch.load("model.pt"))`` sets what ``train`` has saved.
    """
    from torch import nn

    if network == "cnn":
        return nn.Sequential(
            *(nn.Conv2d(1, n_channels, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(n_channels, 2 * n_channels, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(2 * n_channels * 4 * 4, 128), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(128, 10),
        )
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(64, 10),
    )


def evaluate(net: Any, images: Any, labels: Any, batch_size: int = 250) -> float:
    """Return the share of images that the network takes for another digit, in [0, 1]; NaN counts as a 0."""
    import torch

    net.eval()
    with torch.inference_mode():
        pairs = zip(images.split(batch_size), labels.split(batch_size))
        n_wrong = sum((net(batch).argmax(dim=1) != answers).sum() for batch, answers in pairs)
    return n_wrong.item() / len(labels)


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
    """Train a network by stochastic gradient descent with momentum; yield a dict after each epoch.

    Parameters and metrics are those of ``train_mnist.train``. It trains on a CUDA GPU where PyTorch finds
    one, else in one thread: there a seed gives the same errors again, bit for bit, on the same kind of
    processor, also where runs advance in turns or go on from the folder ``checkpoint``. PyTorch's random
    state and number of threads are the caller's own after each epoch.
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
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_part, valid_part, test_part = (
        (torch.tensor(images, device=device), torch.tensor(labels, device=device, dtype=torch.int64))
        for images, labels in parts
    )
    settings = {name: hyperparameters[name] for name in ("momentum", "weight_decay")}
    net = _new_network(hyperparameters).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=hyperparameters["learning_rate"], **settings)
    history = _load_checkpoint(checkpoint, hyperparameters, epochs, net, optimizer)
    _save(model_dir, MODEL, net.state_dict())
    yield from map(dict, history)
    for epoch in range(len(history) + 1, epochs + 1):
        start = time.perf_counter()
        with _alone(hyperparameters["seed"], epoch) as random_state:
            _train_epoch(net, optimizer, *train_part, hyperparameters["batch_size"], random_state)
            metrics = {"epoch": epoch, "valid_error": evaluate(net, *valid_part)}
            metrics["test_error"] = evaluate(net, *test_part)
        metrics["seconds"] = time.perf_counter() - start
        history.append(metrics)
        state = {"run": hyperparameters, "history": history}
        _save(checkpoint, CHECKPOINT, {**state, "net": net.state_dict(), "sgd": optimizer.state_dict()})
        _save(model_dir, MODEL, net.state_dict())
        yield dict(metrics)


@contextlib.contextmanager
def _alone(seed, epoch):
    """For one epoch, or for the weights (0): seed PyTorch, in one thread; yield what orders the images."""
    import torch

    random_state, n_threads = np.random.RandomState([seed, epoch]), torch.get_num_threads()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(random_state.randint(2**31 - 1))
        torch.set_num_threads(1)
        try:
            yield random_state
        finally:
            torch.set_num_threads(n_threads)


def _new_network(hyperparameters):
    import torch

    with _alone(hyperparameters["seed"], 0):
        net = build_network(**{name: hyperparameters[name] for name in ("network", "n_channels", "dropout")})
        for layer in net:
            if hasattr(layer, "weight"):  # begin as MXNet's networks do
                torch.nn.init.xavier_uniform_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    return net.to(memory_format=torch.channels_last)  # a third faster on a processor


def _train_epoch(net, optimizer, images, labels, batch_size, random_state):
    import torch

    net.train()
    n_used = len(labels) // batch_size * batch_size  # all batches have one size
    order = torch.from_numpy(random_state.permutation(len(labels))[:n_used]).to(images.device)
    for batch, answers in zip(images[order].split(batch_size), labels[order].split(batch_size)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(batch), answers).backward()
        optimizer.step()


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
    """Return the training, validation and test part: images (n, 1, 28, 28) and labels (n,).

    ``data`` is three such pairs, or a folder with ``mnist.npz``, as ``datasets.save_npz`` writes it. Without
    it, it is the folder that ``SM_CHANNEL_TRAINING`` names, else ``datasets.load_mnist()``.
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
    if not (folder / "mnist.npz").is_file():
        raise ValueError(f"a folder of data must hold mnist.npz, got {str(folder)!r}")
    with np.load(folder / "mnist.npz") as arrays:
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


def _save(folder, name, content):
    """Save a file that appears under its own name only once it is whole."""
    if folder is not None:
        import torch

        Path(folder).mkdir(parents=True, exist_ok=True)
        unfinished = Path(folder) / f".unfinished.{name}"
        torch.save(content, unfinished)
        os.replace(unfinished, Path(folder) / name)


def _load_checkpoint(folder, run, epochs, net, optimizer):
    """Go on from the checkpoint, if there is one; return its metrics."""
    if folder is None or not (Path(folder) / CHECKPOINT).exists():
        return []
    import torch

    path = Path(folder) / CHECKPOINT
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["run"] != run:
        raise ValueError(f"{path} is another run's, {saved['run']} instead of {run}: delete it")
    if len(saved["history"]) > epochs:
        raise ValueError(f"{path} has {len(saved['history'])} epochs, more than epochs={epochs}")
    net.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["sgd"])
    return saved["history"]


LINE = "epoch={epoch} valid_error={valid_error:.4f} test_error={test_error:.4f} seconds={seconds:.2f}"


def _parser():
    parser = argparse.ArgumentParser(description="Train a network on MNIST.", allow_abbrev=False)
    for name, default in train.__kwdefaults__.items():
        flags = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        if name in HYPERPARAMETERS:
            help = f"{HYPERPARAMETERS[name][2]} (default: {default})"
            parser.add_argument(*flags, type=type(default), default=default, help=help)
        else:
            parser.add_argument(*flags, metavar="FOLDER")
    parser.set_defaults(model_dir=os.environ.get("SM_MODEL_DIR") or None)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says and print one line per epoch."""
    options = vars(_parser().parse_args(arguments))
    try:
        for metrics in train(**options):
            print(LINE.format(**metrics), flush=True)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"train_mnist_torch: error: {error}")


if __name__ == "__main__":
    main()
