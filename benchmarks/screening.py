"""Choose what the series recommends: candidates over many seeds, all with the default configuration first.

    python benchmarks/screening.py            # ten minutes on two processors

The seeds are those below 1000. What is chosen here is confirmed by ``methods.py`` under others, and on a second
recording that this script never reads.
"""

import argparse
import functools
import multiprocessing
import warnings
from collections.abc import Callable

import methods
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

SEEDS = range(20)
BASELINE = "univariate TPE"

Sampler = Callable[[int], BaseSampler]


def cma_es(seed: int) -> BaseSampler:
    """Return CMA-ES, which learns from pruned trials too."""
    return CmaEsSampler(seed=seed, warn_independent_sampling=False, consider_pruned_trials=True)


class InTurn(BaseSampler):
    """CMA-ES for the first 40 trials, then univariate TPE, which learns from all of them."""

    def __init__(self, seed: int) -> None:
        self._first, self._then = cma_es(seed), univariate()(seed)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        return self._first if trial.number < 40 else self._then

    def infer_relative_search_space(self, study, trial):
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


def univariate(**settings) -> Sampler:
    """Return TPE that models each hyperparameter by itself, with some more settings."""
    return lambda seed: TPESampler(seed=seed, multivariate=False, constant_liar=True, **settings)


def multivariate(seed: int) -> BaseSampler:
    """Return TPE that models all hyperparameters together."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def sobol(seed: int) -> BaseSampler:
    """Return Sobol's sequence, scrambled."""
    return QMCSampler(seed=seed, warn_asynchronous_seeding=False, warn_independent_sampling=False)


def halving(first_rung: int = 1, factor: int = 3) -> Callable[[], BasePruner]:
    """Return what makes successive halving."""
    return lambda: SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=factor)


def hyperband() -> BasePruner:
    """Return Hyperband over 1 to 27 epochs."""
    return HyperbandPruner(1, methods.EPOCHS, 3)


#: One thing is changed at a time, from univariate TPE + successive halving from the first epoch on by thirds.
CANDIDATES: dict[str, tuple[Sampler, Callable[[], BasePruner]]] = {
    BASELINE: (univariate(), halving()),
    "random search": (RandomSampler, halving()),
    "Sobol": (sobol, halving()),
    "CMA-ES": (cma_es, halving()),
    "CMA-ES, then univariate TPE": (InTurn, halving()),
    "multivariate TPE": (multivariate, halving()),
    "5 startup trials": (univariate(n_startup_trials=5), halving()),
    "no scheduling": (univariate(), NopPruner),
    "halving by 2": (univariate(), halving(factor=2)),
    "first rung at 3": (univariate(), halving(first_rung=3)),
    "Hyperband": (univariate(), hyperband),
}


def study_of(name: str, seed: int) -> optuna.Study:
    """Return a fresh study of a candidate, the default configuration waiting to be trained first."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of Sobol, and of what CMA-ES learns from
    sampler, pruner = CANDIDATES[name]
    new_study = functools.partial(methods.new_study, name.replace(" ", "-"))
    return methods.beginning_with(methods.FIRST, lambda seed: new_study(seed, sampler(seed), pruner()))(seed)


def main() -> None:
    """Run every candidate, and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes")
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES), metavar="NAME")
    arguments = parser.parse_args()
    names = [BASELINE, *(name for name in arguments.only if name != BASELINE)]
    candidates = {name: functools.partial(study_of, name) for name in names}
    incumbents = methods.compare(methods.CNN, SEEDS, arguments.jobs, candidates)
    table = methods.at_trainings(incumbents, methods.BUDGETS)
    methods.show("Test error without noise in %, after so many full trainings' worth of time", methods.errors(table))
    methods.show(f"The same less that of {BASELINE!r}, in percentage points", methods.differences(table, BASELINE))


if __name__ == "__main__":
    main()
