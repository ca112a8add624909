"""A Gaussian process that proposes trials, and learns from those that were stopped early too."""

import math
from functools import partial

import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState
from scipy.linalg import cho_solve, solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import ndtr

_solve = partial(solve_triangular, lower=True, check_finite=False)

N_TRIALS = 100  # at most so many are modelled, of those that were trained longest
N_CANDIDATES = 200
FEWEST = 5e-4  # an error of 0 has no logarithm: it counts as half of one of 1,000 images


class GaussianProcess:
    """A model of a value over points whose last coordinate is the share of a full training.

    The kernel is Matérn's of the configuration, with ν = 5/2 and a length for each coordinate, times a
    squared exponential of the share, plus a constant and a trend in the share. Lengths, height and noise
    maximise their posterior density (Rasmussen and Williams, *Gaussian Processes for Machine Learning*,
    2006, chapters 2, 4 and 5), by random steps. The prior lengths grow with the square root of the number
    of dimensions (Hvarfner, Hellsten and Nardi, ICML 2024).
    """

    def __init__(self, n_dimensions, random):
        self.random = random
        length = 0.5 * math.sqrt(n_dimensions / 5)
        # Logarithms: the lengths, that of the share last; the height; the noise of a full training.
        self.prior = np.log([*[length] * n_dimensions, 1.0, 0.5, 0.13])
        self.spread = np.array([*[0.7] * n_dimensions, 0.5, 0.5, 0.3])
        self.settings = self.prior

    def fit(self, points, values):
        """Take in what was observed, and try settings that explain it better."""
        self._observe(points, values)
        density, size = self._density(self.settings), len(self.prior)
        for _ in range(1000 // len(points)):
            step = self.random.normal(size=size) * self.spread * self.random.choice([0.2, 0.7])
            tried = self.settings + step * (self.random.random(size) < 0.4)
            if (found := self._density(tried)) > density:
                density, self.settings = found, tried
        return self.condition(points, values)

    def condition(self, points, values):
        """Take in what was observed, and keep the settings."""
        self._observe(points, values)
        self.factor = self._factor(self.settings)
        self.weights = cho_solve((self.factor, True), self.values, check_finite=False)
        return self

    def predict(self, points):
        """Return mean and standard deviation at each point."""
        kernel = self._kernel(self.points, points, self.settings)
        explained = (_solve(self.factor, kernel) ** 2).sum(axis=0)
        variance = math.exp(2 * self.settings[-2]) + 1 + points[:, -1] ** 2 - explained
        return kernel.T @ self.weights + self.mean, np.sqrt(np.maximum(variance, 1e-10))

    def _observe(self, points, values):
        self.points, self.mean = points, np.median(values)
        self.values = values - self.mean

    def _kernel(self, a, b, settings):
        a_scaled, b_scaled = (points / np.exp(settings[:-2]) for points in (a, b))
        distance = math.sqrt(5) * cdist(a_scaled[:, :-1], b_scaled[:, :-1])
        shares = np.subtract.outer(a_scaled[:, -1], b_scaled[:, -1])
        matern = (1 + distance + distance**2 / 3) * np.exp(-distance - shares**2 / 2)
        return math.exp(2 * settings[-2]) * matern + 1 + np.outer(a[:, -1], b[:, -1])

    def _factor(self, settings):
        noise = np.exp(settings[-1]) * (2.5 - 1.5 * self.points[:, -1])  # the shorter a training, the more
        return np.linalg.cholesky(self._kernel(self.points, self.points, settings) + np.diag(noise**2))

    def _density(self, settings):
        """Return the logarithm of the settings' posterior density, but for a constant."""
        factor = self._factor(settings)
        squares = np.append(_solve(factor, self.values), (settings - self.prior) / self.spread) ** 2
        return -squares.sum() / 2 - np.log(np.diag(factor)).sum()


class GaussianProcessSampler(BaseSampler):
    """Propose where the expected improvement after a full training is largest.

    Values must be errors, to be minimised: their logarithms are modelled. A hyperparameter that a trial lacks
    (a momentum, under Adam) is filled in at random, so that the model learns that it does not matter there.
    Running trials are believed to end as predicted (Ginsbourger and others, 2010).

    Parameters
    ----------
    seed
        Of the random trials that begin, of the settings tried and of the candidates.
    n_startup_trials
        How many are random.
    """

    def __init__(self, seed: int | None = None, *, n_startup_trials: int = 10) -> None:
        self._first = RandomSampler(seed)
        self._random = np.random.default_rng(seed)
        self._n_startup_trials = n_startup_trials
        self._model = None

    def reseed_rng(self) -> None:
        self._first.reseed_rng()
        self._random = np.random.default_rng()

    def before_trial(self, study, trial):
        if study.directions != [StudyDirection.MINIMIZE]:
            raise ValueError(f"errors are modelled, to be minimised; the study has {study.directions}")

    def infer_relative_search_space(self, study, trial):
        seen = [other.distributions for other in study.get_trials(deepcopy=False)]
        found = {name: distribution for space in seen for name, distribution in space.items()}
        return {name: found[name] for name in sorted(found) if not found[name].single()}

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self._first.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(self, study, trial, search_space):
        trials = study.get_trials(deepcopy=False)
        trained = sorted(filter(_epochs, trials), key=lambda other: (-_epochs(other), -other.number))
        if len(trained) < self._n_startup_trials or not search_space:
            return {}
        encoding = _SearchSpaceTransform(search_space, transform_0_1=True)
        known, values = _observations(trained[:N_TRIALS], encoding)
        model = self._fitted(known, values)
        ends = _at_the_end(known[:, :-1])
        best = model.predict(ends)[0]
        candidates = _at_the_end(self._candidates(known[best.argsort()[:8], :-1], encoding))
        others = (other for other in trials if other.number != trial.number)
        running = [other for other in others if other.state == TrialState.RUNNING]
        if running:
            pending = _at_the_end(_points(running, encoding))
            believed = np.append(values, model.predict(pending)[0])
            model.condition(np.vstack([known, pending]), believed)
        proposed = candidates[expected_improvement(*model.predict(candidates), best.min()).argmax(), :-1]
        return encoding.untransform(proposed)

    def _fitted(self, known, values):
        if self._model is None or self._model.points.shape[1] != known.shape[1]:
            self._model = GaussianProcess(known.shape[1] - 1, self._random)
        return self._model.fit(known, values)

    def _candidates(self, best, encoding):
        """Return points of the unit cube: half at random, half near the best ones."""
        random, shape = self._random, (N_CANDIDATES, best.shape[1])
        steps = random.normal(size=shape) * random.choice([0.03, 0.1, 0.2], size=(N_CANDIDATES, 1))
        near = best[random.integers(len(best), size=N_CANDIDATES)] + steps * (random.random(shape) < 0.6)
        points = np.vstack([random.random(shape), near]).clip(0, 1)
        for columns in encoding.column_to_encoded_columns:
            if len(columns) > 1:  # a category: one of them is 1, in near points too
                redrawn = random.random(len(points)) < 0.2
                points[np.ix_(redrawn, columns)] = random.random((redrawn.sum(), len(columns)))
                points[:, columns] = np.eye(len(columns))[points[:, columns].argmax(axis=1)]
        return points


def expected_improvement(mean, deviation, best):
    """Return how far below the best value a trial is expected to end, on average (Jones and others, 1998)."""
    z = (best - mean) / deviation
    return deviation * (z * ndtr(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi))


def _reports(trial):
    """Return a trial's errors by epoch; one that never reported has its value, as after one epoch."""
    if trial.intermediate_values or trial.value is None:
        return trial.intermediate_values
    return {1: trial.value}


def _epochs(trial):
    return max(_reports(trial), default=0)


def _observations(trials, encoding):
    """Return the points at which trials stand, and the logarithms of their errors there."""
    epochs = np.array([_epochs(trial) for trial in trials])
    shares = np.log1p(epochs) / np.log1p(epochs.max())
    errors = np.array([_last_error(trial) for trial in trials])
    if errors.min() < 0:
        raise ValueError(f"errors are modelled by their logarithms, and are 0 or more; got {errors.min()}")
    values = np.log(np.maximum(errors, FEWEST))
    # How bad a bad one is teaches little: what is worse than the best by a factor of e is compressed.
    beyond = np.maximum(values - values.min() - 1, 0)
    return np.column_stack([_points(trials, encoding), shares]), values - beyond + np.log1p(2 * beyond) / 2


def _last_error(trial):
    """Return the mean of a trial's last reports: of one, and of one more for every six that it made."""
    errors = list(_reports(trial).values())
    return np.mean(errors[-(1 + len(errors) // 6) :])


def _points(trials, encoding):
    whole = [_anything(trial.number, encoding) | trial.params for trial in trials]
    return np.array([encoding.transform(parameters) for parameters in whole])


def _anything(number, encoding):
    """Draw a configuration, the same again for a trial's number: it fills in what the trial lacks.

    A fixed value would leave the others uncertain for ever: what is proposed there never counts there.
    """
    return encoding.untransform(np.random.default_rng(number).random(len(encoding.bounds)))


def _at_the_end(points):
    return np.column_stack([points, np.ones(len(points))])
