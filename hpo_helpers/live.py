"""What a lesson trains with on this machine, and where its workers run."""

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hpo_helpers.jobs import Launcher


def find_train() -> Callable[..., Iterable[Mapping[str, Any]]] | None:
    """Return `train` for MXNet where that is installed, else for PyTorch, else None; import neither."""
    if importlib.util.find_spec("mxnet") is not None:
        from hpo_helpers.train_mnist import train
    elif importlib.util.find_spec("torch") is not None:
        from hpo_helpers.train_mnist_torch import train
    else:
        return None
    return train


def new_launcher(
    train: Callable[..., Iterable[Mapping[str, Any]]], n_workers: int | None = None, **options: Any
) -> Launcher:
    """Return a `LocalLauncher` or, where processes cannot fork as on Windows, a `ClusterLauncher`.

    `options` are those of a `LocalLauncher`; `preload` is for that one alone.
    """
    if hasattr(os, "fork"):
        from hpo_helpers.jobs.local import LocalLauncher

        return LocalLauncher(train, n_workers, **options)
    from hpo_helpers.jobs.cluster import ClusterLauncher

    options.pop("preload", None)
    return ClusterLauncher(train, n_workers, **options)
