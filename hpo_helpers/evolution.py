"""inspyred's optimisers over a search space: `tune` trains each generation in parallel.

An individual's *genes* are numbers on [0, 1], one a hyperparameter, in the space's order.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo_helpers.jobs import Launcher
from hpo_helpers.spaces import from_unit_cube
from hpo_helpers.tuning import tune


def evolve(
    study: optuna.Study,
    space: Mapping[str, BaseDistribution],
    launcher: Launcher,
    optimiser: Any,
    *,
    epochs: int,
    generations: int | None = None,
    timeout: float | None = None,
    cost: Callable[[FrozenTrial], float] | None = None,
    **settings: Any,
) -> list[list[FrozenTrial]]:
    """Search with one of inspyred's optimisers; return each generation's trials.

    A configuration that the study has finished is not trained again. So the same call after an
    interruption, with a new optimiser of the same seed, goes on from there.

    Parameters
    ----------
    study, space, launcher, epochs
        As in `tune`; `space` is a dict. The sampler proposes nothing; failed trials are worst.
    optimiser
        A new one, with the seed of all: ``real_coded(inspyred.ec.GA(random.Random(0)))``.
    generations, timeout
        End after so many generations, or when the study's clock reads so many seconds.
    cost
        A second objective, minimised too: a function of a trial, such as its seconds.
    settings
        Passed on to inspyred: ``pop_size=8``, ``num_elites=1``, ``neighborhood_size=5``.

    Raises
    ------
    RuntimeError
        If five trials in a row failed, over generations.
    """
    from inspyred import ec

    if not generations and timeout is None:
        raise ValueError("give generations, timeout, or both: else it would never end")
    if isinstance(optimiser, (ec.emo.NSGA2, ec.emo.PAES)) and cost is None:
        raise ValueError(f"{type(optimiser).__name__} weighs two objectives: give cost=function")
    limits, evaluated = {"epochs": epochs, "timeout": timeout, "progress": False}, []
    most = generations or 1000  # no time passes while known configurations answer

    def draw(random, args):
        return [random.random() for _ in space]

    def evaluate(candidates, args):
        configurations = [decode(space, genes) for genes in candidates]
        for params in configurations:
            if _trial_of(params, study) is None:  # skip_if_exists takes close numbers for equal
                study.enqueue_trial(params)
        tune(study, space, launcher, n_trials=len(_trials(study)), **limits)
        evaluated.append([_trial_of(params, study) for params in configurations])
        return _fitnesses(evaluated[-1], cost, study)

    def is_over(population, num_generations, num_evaluations, args):
        ends = [trial.user_attrs.get("finished", 0) for trial in _trials(study)]
        return len(evaluated) >= most or max(ends) >= (timeout or math.inf) - 1e-6

    optimiser.terminator = is_over
    settings |= {"bounder": ec.Bounder(0, 1), "max_generations": most}
    optimiser.evolve(draw, evaluate, maximize=False, **settings)
    return evaluated


def real_coded(optimiser: Any) -> Any:
    """Replace those operators of inspyred's optimiser that do not fit genes on [0, 1].

    Flipping bits leaves real genes as they are, and Gaussian steps of 1 leap over the range. In
    their place come BLX-0.5 (Eshelman and Schaffer, 1993) and steps of a tenth of the range. A
    swarm's neighbourhoods become rings, so ``neighborhood_size`` counts. Give a genetic algorithm
    ``num_elites=1``: it forgets its best.
    """
    from inspyred.ec import variators
    from inspyred.swarm import topologies

    better = {
        variators.n_point_crossover: [_cross],
        variators.bit_flip_mutation: [_mutate],
        variators.gaussian_mutation: [_mutate],
        variators.default_variation: [_cross, _mutate],  # it varies nothing
    }
    operators = optimiser.variator
    operators = operators if isinstance(operators, Sequence) else [operators]
    optimiser.variator = [new for old in operators for new in better.get(old, [old])]
    if hasattr(optimiser, "topology"):
        optimiser.topology = topologies.ring_topology
    return optimiser


def _cross(random, candidates, args):
    from inspyred.ec import variators

    args.setdefault("blx_alpha", 0.5)
    # inspyred leaves out the last of an odd number of parents.
    pairs = candidates + candidates[: len(candidates) % 2]
    return variators.blend_crossover(random, pairs, args)[: len(candidates)]


def _mutate(random, candidates, args):
    from inspyred.ec import variators

    args.setdefault("mutation_rate", 1.0)
    args.setdefault("gaussian_stdev", 0.1)
    return variators.gaussian_mutation(random, candidates, args)


def decode(space: Mapping[str, BaseDistribution], genes: Sequence[float]) -> dict[str, Any]:
    """Return the configuration of some genes. Each choice has an equal share of [0, 1]."""
    params = {}
    for (name, distribution), gene in zip(space.items(), genes, strict=True):
        if isinstance(distribution, CategoricalDistribution):
            last = len(distribution.choices) - 1
            params[name] = distribution.choices[min(int(gene * (last + 1)), last)]
        else:
            params |= from_unit_cube({name: distribution}, {name: gene})
    return params


def _trials(study):
    """Return all trials but those that were cut off, and queued again."""
    return [trial for trial in study.get_trials(deepcopy=False) if "requeued" not in trial.user_attrs]


def _trial_of(params, study):
    for trial in _trials(study):
        if {**trial.system_attrs.get("fixed_params", {}), **trial.params} == params:
            return trial
    return None


def _fitnesses(trials, cost, study):
    from inspyred.ec.emo import Pareto

    if [trial.state for trial in _trials(study)[-5:]] == [TrialState.FAIL] * 5:
        error = _trials(study)[-1].user_attrs.get("error")
        raise RuntimeError(f"five trials in a row failed, the last one with: {error}")
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    values = [math.inf if trial.value is None else sign * trial.value for trial in trials]
    if cost is None:
        return values
    costs = [math.inf if trial.value is None else cost(trial) for trial in trials]
    return [Pareto(list(pair)) for pair in zip(values, costs, strict=True)]
