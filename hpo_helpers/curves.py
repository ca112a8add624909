"""The learning curve of any configuration, from those that were recorded over a grid."""

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

Space = Mapping[str, BaseDistribution]

METRICS = ["valid_error", "test_error", "seconds"]


class RecordedCurves:
    """Answer for any configuration of a search space from its recorded neighbours.

    Between the levels of the grid, the logarithm of each metric is interpolated linearly on the
    hyperparameters' scales. ``data/README.md`` says how close that comes to training.

    Parameters
    ----------
    table
        A recording over a full grid, as `load_curves` returns it; the CNN's if not given.
    space
        The search space. Its bounds must be those of the grid.
    """

    def __init__(self, table: pd.DataFrame | None = None, space: Space | None = None) -> None:
        self.space = dict(MNIST_CNN if space is None else space)
        table = load_curves() if table is None else table
        for name, distribution in self.space.items():
            low, high = table[name].min(), table[name].max()
            if low > distribution.low or high < distribution.high:
                recorded = f"{name!r} is recorded in [{low}, {high}]"
                raise ValueError(f"{recorded}, but searched by {distribution!r}")
        self._interpolate = _interpolator(table, self.space)

    def __call__(self, params: Mapping[str, Any]) -> list[dict[str, float]]:
        """Return a configuration's curve, as `train` yields it."""
        return _metrics(self._logarithms(params))

    def _logarithms(self, params):
        """Return the logarithms of all metrics, shape (epochs, metrics)."""
        if set(params) != set(self.space):
            raise ValueError(f"a configuration has {sorted(self.space)}, got {dict(params)}")
        return self._interpolate(list(to_unit_cube(self.space, params).values()))


class NoisyCurves:
    """Recorded curves as another seed of the network could have given them.

    A curve is multiplied by how far one training of ``load_curves("mnist_cnn_noise")`` was from
    its configuration's mean: of the nearest one, drawn by `seed` and the configuration alone,
    to six digits.

    Parameters
    ----------
    seed
        Seed of the draws: one for each repetition of an experiment.
    curves
        The curves to be disturbed; the CNN's if not given.
    """

    def __init__(self, seed: int, *, curves: RecordedCurves | None = None) -> None:
        self.seed = seed
        self._curves = curves or cnn_curves()

    def __call__(self, params: Mapping[str, Any]) -> list[dict[str, float]]:
        """Return a configuration's curve, with noise."""
        logarithms = self._curves._logarithms(params)
        means, residuals = _noise()
        nearest = np.abs(means - logarithms[:, 0]).mean(axis=1).argmin()
        texts = (f"{name}={float(params[name]):.6g}" for name in sorted(params))
        words = [zlib.crc32(text.encode()) for text in texts]
        random = np.random.default_rng([self.seed, *words])
        number = random.integers(residuals.shape[1])
        return _metrics(logarithms + residuals[nearest, number])


def expected_errors(incumbents: pd.DataFrame, curves: RecordedCurves | None = None) -> pd.DataFrame:
    """Add the column ``expected_error``: the test error of each incumbent's configuration, without noise.

    It is that after a full training, on the recorded curves as they are, with none of the noise that
    `NoisyCurves` adds. Each point of the grid was trained once: its luck belongs to the problem.

    Parameters
    ----------
    incumbents
        With columns ``params_…``, as `comparing.run_methods` returns them.
    curves
        What was tuned over; the CNN's if not given.
    """
    curves = curves or cnn_curves()
    params = incumbents[[f"params_{name}" for name in curves.space]].set_axis(list(curves.space), axis=1)
    errors = [curves(configuration)[-1]["test_error"] for configuration in params.to_dict("records")]
    return incumbents.assign(expected_error=errors)


@functools.cache
def cnn_curves() -> RecordedCurves:
    """Return the curves of the CNN, read once per process."""
    return RecordedCurves()


def _metrics(logarithms):
    # Processors and versions of NumPy differ in the last digit of a logarithm: no search may part ways there.
    rows = np.exp(logarithms).round(6).tolist()
    return [{"epoch": i, **dict(zip(METRICS, row))} for i, row in enumerate(rows, start=1)]


def _interpolator(table, space):
    """Return a function from points of the unit cube to logarithms of metrics."""
    from scipy.interpolate import NdBSpline

    table = table.sort_values([*space, "epoch"])
    levels = {name: np.sort(table[name].unique()) for name in space}
    shape = [*map(len, levels.values()), table["epoch"].nunique(), len(METRICS)]
    n_rows = math.prod(shape[:-1])
    if len(table) != n_rows:
        raise ValueError(f"a full grid of these levels has {n_rows} rows, got {len(table)}")
    axes = [[to_unit_cube({name: space[name]}, {name: x})[name] for x in levels[name]] for name in space]
    knots = tuple(np.array([axis[0], *axis, axis[-1]]) for axis in axes)
    # Of degree 1: linear. RegularGridInterpolator, made for many points at once, takes 30 times as long.
    return NdBSpline(knots, _logarithms(table).reshape(shape), k=1)


@functools.cache
def _noise():
    """Return means of validation errors, and every run's residuals, as logarithms.

    Shapes (configurations, epochs) and (configurations, seeds, epochs, metrics).
    """
    noise = load_curves("mnist_cnn_noise").sort_values(["configuration", "seed", "epoch"])
    shape = [noise[name].nunique() for name in ("configuration", "seed", "epoch")]
    logarithms = _logarithms(noise).reshape(*shape, len(METRICS))
    residuals = logarithms - logarithms.mean(axis=1, keepdims=True)
    # A processor's moods are no noise of the network.
    residuals[..., METRICS.index("seconds")] = 0
    return logarithms.mean(axis=1)[..., 0], residuals


def _logarithms(table):
    """Take logarithms; no wrong image, which has none, counts as half of one of 1,000."""
    return np.log(np.maximum(table[METRICS].to_numpy(float), 0.0005))
