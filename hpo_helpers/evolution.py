"""inspyred's optimisers over a search space: a generation of configurations is trained in parallel by `tune`.

An individual's *genes* are numbers on [0, 1], one for each hyperparameter, in the order of the space. Its
fitness is what the trial of its configuration reached.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo_helpers import resuming
from hpo_helpers.jobs import Launcher
from hpo_helpers.spaces import from_unit_cube, to_unit_cube
from hpo_helpers.tuning import CLOCK_TOLERANCE, tune

if TYPE_CHECKING:
    from inspyred.ec import EvolutionaryComputation

Space = Mapping[str, BaseDistribution]
Cost = Callable[[FrozenTrial], float]

#: Of the operators that `real_coded` gives; `evolve` takes others. One gene is as wide as its whole range: 1.
MUTATION_RATE = 1.0  # share of the genes that a mutation moves
GAUSSIAN_STDEV = 0.1
BLX_ALPHA = 0.5  # children lie up to half the parents' distance outside of it

#: So many generations in a row without a new configuration end a search, since no time passes in them.
IDLE_GENERATIONS = 100


def evolve(
    study: optuna.Study,
    space: Space,
    launcher: Launcher,
    optimiser: EvolutionaryComputation,
    *,
    epochs: int,
    population_size: int,
    generations: int | None = None,
    timeout: float | None = None,
    cost: Cost | None = None,
    trial_timeout: float | None = None,
    max_failures: int = 5,
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Search with one of inspyred's optimisers; each generation's configurations are trained in parallel.

    A generation is one call of `tune`: trials report, are pruned if the study has a pruner, and carry the
    same attributes as any other. Configurations that were enqueued before are trained along with the first
    one. A configuration that the study has finished is not trained again: its trial answers. So the same call
    after an interruption, with a new optimiser of the same seed, goes on where the study stood.

    Parameters
    ----------
    study
        Any study with one objective, minimised or maximised. Its sampler proposes nothing. (Optuna gives a
        study a ``MedianPruner``, unless it is created with another: ``NopPruner()`` trains all to the end.)
    space
        A dict of Optuna distributions. What is the same for all trials belongs into the launcher's ``fixed``.
    launcher
        Where the jobs run. It is not closed.
    optimiser
        A new instance of an optimiser of inspyred, made with a ``random.Random``, which is the seed of all:
        ``real_coded(inspyred.ec.GA(random.Random(0)))``. Its terminator is replaced.
    epochs, trial_timeout, progress
        As in `tune`.
    population_size
        Individuals of the first generation; of the later ones too, unless the optimiser has its own rule.
    generations
        End after so many, the first one (drawn at random) included.
    timeout
        End when the study's clock reads so many seconds. Give this, `generations` or both. A hundred
        generations in a row without a new configuration end the search too.
    cost
        For multi-objective optimisers: a function of a finished trial, such as `trained_epochs`. Fitness is
        then the pair of the study's value and this, which is always minimised.
    max_failures
        So many failed trials in a row, over generations, raise RuntimeError. A failed trial is otherwise
        worse than all that did not fail, and the search goes on.
    settings
        Passed on to inspyred: ``num_elites=1``, ``neighborhood_size=5``, ``seeds=[encode(space, params)]``.

    Returns
    -------
    DataFrame
        One row an evaluation: ``generation`` (from 1), ``trial``, ``value``, ``cost`` if it was asked for, and
        the hyperparameters. ``trial`` repeats where a configuration did: its number of distinct values is
        that of distinct configurations. A failed trial has NaN as value and cost.

    Raises
    ------
    ValueError
        If a setting is out of range, `space` is no dict of distributions, neither `generations` nor `timeout`
        is given, or a multi-objective optimiser was given no `cost`.
    RuntimeError
        If `max_failures` trials in a row failed. The message carries the last error.
    """
    from inspyred import ec

    _check(space, optimiser, population_size, generations, timeout, cost)
    limits = {"timeout": timeout, "trial_timeout": trial_timeout, "max_failures": max_failures}
    train = functools.partial(tune, study, space, launcher, epochs=epochs, progress=progress, **limits)
    run = _Run(study, space, train, cost, generations, timeout, max_failures)
    optimiser.terminator = run.is_over
    if generations is not None:
        settings.setdefault("max_generations", generations)  # simulated annealing asks for it
    # Fitnesses are turned so that less is better, whatever the study's direction.
    rules = {"pop_size": population_size, "maximize": False, "bounder": ec.Bounder(0, 1)}
    optimiser.evolve(run.draw, run.evaluate, **settings, **rules)
    return pd.DataFrame(run.rows)


def real_coded(optimiser: EvolutionaryComputation) -> EvolutionaryComputation:
    """Replace those of an optimiser's operators that do not fit genes on [0, 1], and return it.

    Flipping bits leaves real genes as they are, and a Gaussian step with standard deviation 1 leaps over the
    whole range. In their place come BLX-0.5, which draws each gene of a child around and between those of its
    parents (Eshelman and Schaffer, 1993), and Gaussian steps of a tenth of the range in every gene. A swarm's
    neighbourhoods become rings, so that ``neighborhood_size`` counts. Other operators stay.

    A genetic algorithm with small generations also needs ``num_elites=1``, a setting of `evolve`: otherwise
    it forgets its best.
    """
    from inspyred.ec import variators
    from inspyred.swarm import topologies

    better = {
        variators.n_point_crossover: [_cross],
        variators.bit_flip_mutation: [_mutate],
        variators.gaussian_mutation: [_mutate],
        variators.default_variation: [_cross, _mutate],  # it varies nothing
    }
    operators = optimiser.variator if isinstance(optimiser.variator, Sequence) else [optimiser.variator]
    optimiser.variator = [new for old in operators for new in better.get(old, [old])]
    if hasattr(optimiser, "topology"):
        optimiser.topology = topologies.ring_topology
    return optimiser


def _cross(random, candidates, args):
    from inspyred.ec import variators

    args.setdefault("blx_alpha", BLX_ALPHA)
    # inspyred leaves out the last of an odd number of parents, and one worker would have nothing to do.
    pairs = candidates + candidates[: len(candidates) % 2]
    return variators.blend_crossover(random, pairs, args)[: len(candidates)]


def _mutate(random, candidates, args):
    from inspyred.ec import variators

    args.setdefault("mutation_rate", MUTATION_RATE)
    args.setdefault("gaussian_stdev", GAUSSIAN_STDEV)
    return variators.gaussian_mutation(random, candidates, args)


def encode(space: Space, params: Mapping[str, Any]) -> list[float]:
    """Return the genes of a configuration: where each value lies in its range.

    A choice lies in the middle of its share.

    Raises
    ------
    ValueError
        If a value lies outside its range, or is none of the choices.
    """
    return [_to_gene(name, distribution, params[name]) for name, distribution in space.items()]


def decode(space: Space, genes: Sequence[float]) -> dict[str, Any]:
    """Return the configuration of some genes. Each choice has an equal share of [0, 1].

    Raises
    ------
    ValueError
        If a gene lies outside [0, 1], or there is not one for each hyperparameter.
    """
    return {name: _from_gene(name, space[name], gene) for name, gene in zip(space, genes, strict=True)}


def _to_gene(name: str, distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.to_internal_repr(value) + 0.5) / len(distribution.choices)
    return to_unit_cube({name: distribution}, {name: value})[name]


def _from_gene(name: str, distribution: BaseDistribution, gene: float) -> Any:
    if not isinstance(distribution, CategoricalDistribution):
        return from_unit_cube({name: distribution}, {name: gene})[name]
    if not 0 <= gene <= 1:
        raise ValueError(f"the gene of {name!r} must lie in [0, 1], got {gene!r}")
    return distribution.choices[min(int(gene * len(distribution.choices)), len(distribution.choices) - 1)]


def trained_epochs(trial: FrozenTrial) -> int:
    """Return for how many epochs a trial was trained: a cost that is the same on every machine."""
    return trial.last_step or 0


def trained_seconds(trial: FrozenTrial) -> float:
    """Return how long a trial took on the launcher's clock, in seconds."""
    return trial.user_attrs["finished"] - trial.user_attrs["started"]


def pareto_front(study: optuna.Study, cost: Cost) -> pd.DataFrame:
    """Return the trials than which no other is as good or better in both value and cost, and better in one.

    It is computed from all trials with a value, since the archive that an optimiser keeps may have lost some:
    that of inspyred's PAES does. Of trials that are equal in both, the first one stands for all.

    Returns
    -------
    DataFrame
        ``trial``, ``value``, ``cost`` and the hyperparameters, cheapest first, which is worst first.
    """
    rows = [
        {"trial": trial.number, "value": trial.value, "cost": cost(trial), **trial.params}
        for trial in study.get_trials(deepcopy=False)
        if _has_value(trial)
    ]
    table = pd.DataFrame(rows, columns=None if rows else ["trial", "value", "cost"])
    value = _sign(study) * table["value"].astype(float)
    table = table.assign(_value=value).sort_values(["cost", "_value", "trial"])
    improves = table["_value"] < table["_value"].cummin().shift(fill_value=math.inf)
    return table[improves].drop(columns="_value").reset_index(drop=True)


class _Run:
    """One call of `evolve`: what inspyred asks of it."""

    def __init__(self, study, space, train, cost, generations, timeout, max_failures) -> None:
        self._study = study
        self._space = space
        self._train = train
        self._cost = cost
        self._generations = generations
        self._timeout = timeout
        self._max_failures = max_failures
        self._n_generations = 0
        self._last_new = 0  # the last generation with a configuration that the study did not know
        self._cut_off = False
        self.rows: list[dict[str, Any]] = []

    def draw(self, random, args) -> list[float]:
        """Return the genes of an individual of the first generation."""
        return [random.random() for _ in self._space]

    def is_over(self, population, num_generations, num_evaluations, args) -> bool:
        """Return whether no further generation begins."""
        if self._cut_off or self._n_generations == self._generations:
            return True
        if self._n_generations - self._last_new >= IDLE_GENERATIONS:
            return True
        if self._timeout is None:
            return False
        return resuming.last_time(self._study) >= self._timeout - CLOCK_TOLERANCE

    def evaluate(self, candidates, args) -> list:
        """Train a generation and return its fitnesses."""
        self._n_generations += 1
        configurations = [decode(self._space, genes) for genes in candidates]
        for params in configurations:
            if self._trial_of(params) is None:  # Optuna's skip_if_exists takes close numbers for equal
                self._study.enqueue_trial(params)
                self._last_new = self._n_generations
        self._train(n_trials=len(self._trials()))
        self._check_failures()
        return [self._fitness(self._trial_of(params)) for params in configurations]

    def _trials(self) -> list[FrozenTrial]:
        """Return all trials but those that were cut off, and queued again under another number."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if "requeued" not in trial.user_attrs]

    def _trial_of(self, params: Mapping[str, Any]) -> FrozenTrial | None:
        """Return the first trial of a configuration, queued or trained, if there is one."""
        return next((trial for trial in self._trials() if _configuration(trial) == params), None)

    def _fitness(self, trial: FrozenTrial) -> Any:
        if not trial.state.is_finished():  # time was up before it began
            self._cut_off = True
            return self._pair(math.inf, math.inf)
        row = {"generation": self._n_generations, "trial": trial.number}
        row["value"] = trial.value if _has_value(trial) else math.nan
        if self._cost is not None:
            row["cost"] = self._cost(trial) if _has_value(trial) else math.nan
        self.rows.append(row | trial.params)
        if not _has_value(trial):
            return self._pair(math.inf, math.inf)
        return self._pair(_sign(self._study) * row["value"], row.get("cost"))

    def _pair(self, value: float, cost: float | None) -> Any:
        from inspyred.ec.emo import Pareto

        return value if self._cost is None else Pareto([value, cost])

    def _check_failures(self) -> None:
        last = [trial for trial in self._trials() if trial.state.is_finished()][-self._max_failures :]
        if len(last) == self._max_failures and all(trial.state == TrialState.FAIL for trial in last):
            error = last[-1].user_attrs.get("error")
            raise RuntimeError(f"{len(last)} trials in a row failed, the last one with: {error}")


def _configuration(trial: FrozenTrial) -> dict[str, Any]:
    # A queued trial has no parameters of its own yet.
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _has_value(trial: FrozenTrial) -> bool:
    # A pruned trial's value is its last report; one that was pruned before it reported has none.
    return trial.state.is_finished() and trial.values is not None


def _sign(study: optuna.Study) -> int:
    return 1 if study.direction == StudyDirection.MINIMIZE else -1


def _check(space, optimiser, population_size, generations, timeout, cost) -> None:
    from inspyred.ec.emo import NSGA2, PAES

    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"space must be a dict of at least one Optuna distribution, got {space!r}")
    if generations is None and timeout is None:
        raise ValueError("give generations, timeout, or both: otherwise the search would never end")
    for name, number in (("population_size", population_size), ("generations", generations)):
        if number is not None and (int(number) != number or number < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
    if isinstance(optimiser, (NSGA2, PAES)) and cost is None:
        raise ValueError(f"{type(optimiser).__name__} weighs two objectives: give cost=trained_epochs, say")
