"""Train a small network on MNIST with MXNet, one dictionary of metrics an epoch.

Import ``train`` and iterate over it, or run the file as a script. Copied into a project of one's own, or sent to a
cloud job, it needs NumPy, MXNet and ``mxnet_compat.py`` beside it, and Python 3.8 or later.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple, Union

import numpy as np

PRELOAD = ("hpo_helpers.mxnet_compat", "hpo_helpers.datasets:load_mnist")
"""What a launcher may have ready before it forks: modules, and ``module:function`` to call once."""

Pair = Tuple[np.ndarray, np.ndarray]


def _mxnet() -> Any:
    """Return MXNet; nothing is imported before something is trained."""
    if __package__:
        from .mxnet_compat import mx
    else:
        from mxnet_compat import mx
    return mx


# The network ---------------------------------------------------------------------------------------------------------


def build_network(network: str = "cnn", *, n_channels: int = 8, dropout: float = 0.0) -> Any:
    """Return an untrained network for images of shape (n, 1, 28, 28), its ten outputs without softmax.

    ``"cnn"``: two convolutions, each with a pooling, and one hidden layer. ``"mlp"``: 784-128-64-10.
    """
    nn = _mxnet().gluon.nn
    net = nn.HybridSequential()
    if network == "cnn":
        net.add(
            nn.Conv2D(n_channels, kernel_size=5, activation="relu", in_channels=1),
            nn.MaxPool2D(2),
            nn.Conv2D(2 * n_channels, kernel_size=5, activation="relu", in_channels=n_channels),
            nn.MaxPool2D(2),
            nn.Dense(64, activation="relu", in_units=32 * n_channels),
            nn.Dropout(dropout),
            nn.Dense(10, in_units=64),
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


# The data ------------------------------------------------------------------------------------------------------------


def batches(images: Any, labels: Any, batch_size: int, random_state: np.random.RandomState) -> Iterator[Tuple[Any, Any]]:
    """Yield batches in random order, all of one size: the remainder waits for another epoch."""
    n_used = len(labels) - len(labels) % batch_size
    order = _mxnet().nd.array(random_state.permutation(len(labels))[:n_used], dtype="int32")
    images, labels = images.take(order), labels.take(order)
    for start in range(0, n_used, batch_size):
        yield images[start : start + batch_size], labels[start : start + batch_size]


def evaluate(net: Any, images: Any, labels: Any, batch_size: int = 500) -> float:
    """Return the share of images that the network gets wrong."""
    n_wrong = 0.0
    for start in range(0, len(labels), batch_size):
        outputs = net(images[start : start + batch_size])
        n_wrong = n_wrong + (outputs.argmax(axis=1) != labels[start : start + batch_size]).sum()
    return float(n_wrong.asscalar()) / len(labels)


def train(
    *,
    network: str = "cnn",
    epochs: int = 27,
    learning_rate: float = 0.1,
    momentum: float = 0.5,
    batch_size: int = 32,
    n_channels: int = 8,
    dropout: float = 0.0,
    weight_decay: float = 1e-4,
    seed: int = 0,
    data: Any = None,
    checkpoint: Optional[str] = None,
) -> Iterator[Dict[str, float]]:
    return _train(locals())

def _train(s):
    mx = _mxnet()
    data = s["data"]
    if data is None:
        from hpo_helpers.datasets import load_mnist
        data = load_mnist()
    (train_images, train_labels), *held_out = [(mx.nd.array(images), mx.nd.array(labels)) for images, labels in data]
    net = build_network(s["network"], n_channels=s["n_channels"], dropout=s["dropout"])
    mx.random.seed(s["seed"])
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize(static_alloc=True, static_shape=True)
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": s["learning_rate"], "momentum": s["momentum"], "wd": s["weight_decay"]}, kvstore=None)
    for epoch in range(1, s["epochs"] + 1):
        start = time.perf_counter()
        rs = np.random.RandomState([s["seed"], epoch])
        mx.random.seed(rs.randint(2**31 - 1))
        for images, labels in batches(train_images, train_labels, s["batch_size"], rs):
            with mx.autograd.record():
                l = loss(net(images), labels)
            l.backward()
            trainer.step(s["batch_size"])
        valid, test = (evaluate(net, i, l) for i, l in held_out)
        yield {"epoch": epoch, "valid_error": valid, "test_error": test, "seconds": time.perf_counter() - start}

if __name__ == "__main__":
    for m in train():
        print(" ".join(f"{k}={v}" for k, v in m.items()), flush=True)
