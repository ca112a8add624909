"""The learning curve of any configuration, from those that were recorded over a grid."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution

from hpo_helpers.datasets import load_curves
from hpo_helpers.spaces import MNIST_CNN, to_unit_cube

METRICS = ("valid_error", "test_error", "seconds")


class RecordedCurves:
    """Answer for any configuration of a search space from its recorded neighbours.

    Between the levels of the grid, the logarithm of each metric is interpolated linearly in every hyperparameter, on
    the scale on which that one is searched. ``data/README.md`` says how far this is from what training gives.

    Parameters
    ----------
    table
        A recording over a full grid, as `datasets.load_curves` returns it; the CNN's if not given.
    space
        The search space. Its bounds are those of the grid.
    method
        ``"linear"``, or ``"nearest"`` to answer with the nearest configuration of the grid.

    Raises
    ------
    ValueError
        If the recording is no full grid, or does not reach to the bounds of `space`.

    Examples
    --------
    >>> curves = RecordedCurves()
    >>> params = {"learning_rate": 0.1, "momentum": 0.5, "batch_size": 64, "n_channels": 8, "dropout": 0.2}
    >>> [metrics["epoch"] for metrics in curves(params)][-1]
    27
    """

    def __init__(
        self,
        table: pd.DataFrame | None = None,
        space: Mapping[str, BaseDistribution] | None = None,
        *,
        method: str = "linear",
    ) -> None:
        self.space = dict(MNIST_CNN if space is None else space)
        table = load_curves() if table is None else table
        _check_hull(table, self.space)
        self.n_epochs = int(table["epoch"].max())
        self._interpolate = _interpolator(table, self.space, method)

    def __call__(self, params: Mapping[str, Any]) -> list[dict[str, float]]:
        """Return the curve of a configuration: one dict an epoch, like those that `train_mnist.train` yields.

        Raises
        ------
        ValueError
            If a hyperparameter is missing, unknown, or lies outside its range.
        """
        return self._metrics(self._logarithms(params))

    def _logarithms(self, params: Mapping[str, Any]) -> np.ndarray:
        """Return the logarithms of all metrics, shape (epochs, metrics)."""
        if set(params) != set(self.space):
            raise ValueError(f"a configuration has {sorted(self.space)}, got {dict(params)}")
        try:
            point = list(to_unit_cube(self.space, params).values())
        except ValueError as error:
            raise ValueError(f"nothing is recorded for {dict(params)}: {error}") from error
        return self._interpolate(point)[0]

    def _metrics(self, logarithms: np.ndarray) -> list[dict[str, float]]:
        rows = np.exp(logarithms).tolist()
        return [{"epoch": epoch, **dict(zip(METRICS, row))} for epoch, row in enumerate(rows, start=1)]


class NoisyCurves:
    """Recorded curves as another seed of the network could have given them.

    A configuration's curve is multiplied by one drawn from the noise recording: how far one training under one seed
    was from the mean of its configuration, over all epochs and for all metrics together. It is drawn among the
    seeds of that recorded configuration whose mean curve is nearest. The draw depends on the configuration and on
    `seed` alone, so the same configuration gets the same curve however often it is asked for.

    Parameters
    ----------
    seed
        Seed of the draws: one for each repetition of an experiment.
    curves
        The curves to be disturbed; the CNN's if not given.
    noise
        A recording of some configurations under many seeds; `load_curves("mnist_cnn_noise")` if not given.
    """

    def __init__(
        self, seed: int, *, curves: RecordedCurves | None = None, noise: pd.DataFrame | None = None
    ) -> None:
        self.seed = seed
        self._curves = curves or cnn_curves()
        self._means, self._residuals = _cnn_noise() if noise is None else _split_noise(noise)

    def __call__(self, params: Mapping[str, Any]) -> list[dict[str, float]]:
        """Return the curve of a configuration, with noise, as `RecordedCurves` does."""
        logarithms = self._curves._logarithms(params)
        nearest = np.abs(self._means - logarithms[:, 0]).mean(axis=1).argmin()
        random = np.random.default_rng([self.seed, *_words(params)])
        residual = self._residuals[nearest, random.integers(self._residuals.shape[1])]
        return self._curves._metrics(logarithms + residual)


@functools.cache
def cnn_curves() -> RecordedCurves:
    """Return the curves of the CNN, read once per process."""
    return RecordedCurves()


def _words(params: Mapping[str, Any]) -> list[int]:
    """Turn a configuration into whole numbers that a random generator takes as its seed."""
    return [zlib.crc32(f"{name}={float(params[name])!r}".encode()) for name in sorted(params)]


def _check_hull(table: pd.DataFrame, space: Mapping[str, BaseDistribution]) -> None:
    for name, distribution in space.items():
        low, high = table[name].min(), table[name].max()
        if low > distribution.low or high < distribution.high:
            raise ValueError(f"{name!r} is recorded in [{low}, {high}], but searched by {distribution!r}")


def _interpolator(table: pd.DataFrame, space: Mapping[str, BaseDistribution], method: str):
    """Return a function from points of the unit cube to the logarithms of the curves' metrics."""
    from scipy.interpolate import RegularGridInterpolator

    table = table.sort_values([*space, "epoch"])
    levels = {name: np.sort(table[name].unique()) for name in space}
    shape = [*map(len, levels.values()), table["epoch"].nunique(), len(METRICS)]
    if len(table) != math.prod(shape[:-1]):
        raise ValueError(f"a full grid of these levels has {math.prod(shape[:-1])} rows, got {len(table)}")
    axes = [[to_unit_cube({name: space[name]}, {name: x})[name] for x in levels[name]] for name in space]
    return RegularGridInterpolator(axes, np.log(_positive(table)).reshape(shape), method=method)


def _split_noise(noise: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return each configuration's mean curve of validation errors, and every run's residual, as logarithms.

    Shapes (configurations, epochs) and (configurations, seeds, epochs, metrics).
    """
    noise = noise.sort_values(["configuration", "seed", "epoch"])
    shape = [noise[name].nunique() for name in ("configuration", "seed", "epoch")]
    logarithms = np.log(_positive(noise)).reshape(*shape, len(METRICS))
    residuals = logarithms - logarithms.mean(axis=1, keepdims=True)
    residuals[..., METRICS.index("seconds")] = 0  # a processor's moods are no noise of the network
    return logarithms.mean(axis=1)[..., 0], residuals


@functools.cache
def _cnn_noise() -> tuple[np.ndarray, np.ndarray]:
    return _split_noise(load_curves("mnist_cnn_noise"))


def _positive(table: pd.DataFrame) -> np.ndarray:
    """Return the metrics with 0 of 1,000 images counted as half an image, since 0 has no logarithm."""
    return np.maximum(table[list(METRICS)].to_numpy(float), 0.0005)
