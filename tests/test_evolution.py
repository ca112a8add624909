"""inspyred's optimisers over a search space: genes, generations, failures, going on, other operators."""

import random

import numpy as np
import optuna
import pytest
from inspyred import ec, swarm
from inspyred.ec import emo
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from virtual import VirtualLauncher

from hpo_helpers.evolution import decode, evolve, real_coded

MIXED = {
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "width": FloatDistribution(0.0, 1.0, step=0.25),
    "layers": IntDistribution(1, 3),
    "units": IntDistribution(16, 128, log=True),
    "activation": CategoricalDistribution(["relu", "tanh", None]),
    "batch": IntDistribution(32, 32),
}
WITH_EPOCHS = {"learning_rate": FloatDistribution(0.01, 0.2), "epochs": IntDistribution(10, 50)}
SINGLE = {"GA": ec.GA, "PSO": swarm.PSO, "ES": ec.ES, "DEA": ec.DEA, "SA": ec.SA}
MULTI = {"PAES": emo.PAES, "NSGA2": emo.NSGA2}


UNIT = {"x": FloatDistribution(0, 1)}
PLANE = {"x": FloatDistribution(-1, 1), "y": FloatDistribution(-1, 1)}


def new_study(direction="minimize", pruner=None):
    sampler, pruner = RandomSampler(0), pruner or NopPruner()
    return optuna.create_study(study_name="s", sampler=sampler, pruner=pruner, direction=direction)


def bowl(params):
    """One epoch of a second; the minimum is 0 at (0.3, -0.4)."""
    yield 1.0, (params["x"] - 0.3) ** 2 + (params["y"] + 0.4) ** 2


def by_length(params):
    """Longer is better: what a trial costs is what it gains, up to a rate of its own."""
    for epoch in range(1, 51):
        yield 1.0, params["learning_rate"] + 1 / epoch


def failing(params):
    """Fail after one report where x is above 0.8; without failures x would go to 1."""
    yield 1.0, params["x"]
    if params["x"] > 0.8:
        raise OSError(f"x = {params['x']:.2f} is too much")
    yield 1.0, 1 - params["x"]


def trained_epochs(trial):
    return trial.last_step


def search(optimiser, curve=bowl, space=PLANE, study=None, **settings):
    """Return the study and, for each evaluation, its generation and its trial."""
    study = new_study() if study is None else study
    settings = {"generations": 10, "pop_size": 3, "epochs": 1} | settings
    with VirtualLauncher(curve, settings["pop_size"]) as launcher:
        found = evolve(study, space, launcher, optimiser, **settings)
    return study, [(number, trial) for number, trials in enumerate(found, start=1) for trial in trials]


def params_of(evaluations):
    return [trial.params for _, trial in evaluations]


def test_the_ends_of_the_genes_are_the_ends_of_the_ranges():
    low = {"rate": 1e-4, "width": 0.0, "layers": 1, "units": 16, "activation": "relu", "batch": 32}
    high = {"rate": 1.0, "width": 1.0, "layers": 3, "units": 128, "activation": None, "batch": 32}
    assert decode(MIXED, [0] * 6) == low and decode(MIXED, [1] * 6) == high
    middle = decode(MIXED, [0.5] * 6)
    assert middle["rate"] == pytest.approx(1e-2)
    assert [type(middle[name]) for name in ("rate", "layers", "units", "batch")] == [float, int, int, int]
    with pytest.raises(ValueError):
        decode(MIXED, [0.5])


def test_choices_have_equal_shares():
    space = {"activation": MIXED["activation"]}
    chosen = [decode(space, [place])["activation"] for place in np.linspace(0, 1, 3000)]
    assert all(abs(chosen.count(choice) - 1000) <= 1 for choice in ("relu", "tanh", None))


@pytest.mark.parametrize("name", SINGLE)
def test_every_optimiser_stays_in_the_space_and_reaches_all_kinds_of_values(name):
    def curve(params):
        yield 1.0, params["rate"] + params["layers"] + (params["activation"] == "tanh")

    optimiser = real_coded(SINGLE[name](random.Random(1)))
    study, evaluations = search(optimiser, curve, MIXED, generations=12, pop_size=4)
    assert evaluations[-1][0] == 12
    assert len({trial.number for _, trial in evaluations}) == len(study.trials) > 5
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE and trial.distributions == MIXED
    if name != "SA":  # one individual at a time
        assert len({params["layers"] for params in params_of(evaluations)}) == 3
        assert len({params["width"] for params in params_of(evaluations)}) > 2


def test_a_generation_is_trained_in_parallel_and_the_next_one_waits_for_it():
    study, _ = search(real_coded(ec.GA(random.Random(0))), by_length, WITH_EPOCHS, epochs=50, generations=4)
    times = [(trial.user_attrs["started"], trial.user_attrs["finished"]) for trial in study.trials]
    generations = [times[first : first + 3] for first in range(0, 12, 3)]
    assert all(len({started for started, _ in trials}) == 1 for trials in generations)
    for before, after in zip(generations, generations[1:], strict=False):
        assert after[0][0] == max(finished for _, finished in before)


def test_a_configuration_is_trained_once_and_answers_whenever_it_comes_again():
    study, evaluations = search(ec.GA(random.Random(0)))
    assert len(evaluations) > len({trial.number for _, trial in evaluations}) == len(study.trials)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == len(study.trials)


def test_configurations_that_are_close_are_not_taken_for_equal():
    seeds = [[0.5, 0.5], [0.5 + 1e-9, 0.5]]
    study, _ = search(ec.ES(random.Random(0)), generations=2, pop_size=2, seeds=seeds)
    assert len(study.trials) == 4


def test_a_pruned_trial_is_worth_its_last_report():
    study = new_study(pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=3))
    _, evaluations = search(real_coded(ec.GA(random.Random(0))), by_length, WITH_EPOCHS, study, epochs=50)
    pruned = [trial for _, trial in evaluations if trial.state == TrialState.PRUNED]
    assert len(pruned) > 5
    assert all(trial.value == trial.intermediate_values[trial.last_step] for trial in pruned)


@pytest.mark.parametrize("name", SINGLE | MULTI)
def test_a_failed_trial_is_worse_than_all_others_and_the_search_goes_on(name):
    optimiser = real_coded((SINGLE | MULTI)[name](random.Random(5)))
    cost = trained_epochs if name in MULTI else None
    _, evaluations = search(optimiser, failing, UNIT, epochs=2, seeds=[[0.2], [0.9], [0.45]], cost=cost)
    assert evaluations[-1][0] == 10
    failed = [trial.params["x"] > 0.8 for _, trial in evaluations]
    assert any(failed) and failed == [trial.state == TrialState.FAIL for _, trial in evaluations]


def test_a_run_of_failures_ends_the_search():
    study, optimiser = new_study(), real_coded(ec.ES(random.Random(0)))
    settings = {"space": {"x": FloatDistribution(0.9, 1)}, "epochs": 2, "pop_size": 2}
    with pytest.raises(RuntimeError, match="five trials in a row failed.*is too much"):
        search(optimiser, failing, study=study, **settings)
    assert len(study.trials) in (5, 6)


def test_time_ends_it_and_what_runs_is_pruned():
    optimiser = real_coded(ec.GA(random.Random(0)))
    study, evaluations = search(optimiser, by_length, WITH_EPOCHS, epochs=50, generations=None, timeout=70)
    assert max(trial.user_attrs["finished"] for trial in study.trials) == 70
    assert [trial.state for trial in study.trials].count(TrialState.PRUNED) > 0
    assert len(evaluations) == len(study.trials)


def test_a_search_that_proposes_nothing_new_ends():
    """No time passes while known configurations answer, so that a timeout alone would never come."""
    _, evaluations = search(ec.GA(random.Random(0)), generations=None, timeout=1000)
    assert evaluations[-1][0] == 1000


def test_a_search_that_was_interrupted_goes_on_where_it_stood():
    class Interrupted(VirtualLauncher):
        def submit(self, params, epochs):
            if len(self.jobs) == 13:
                raise KeyboardInterrupt
            return super().submit(params, epochs)

    def make():
        return real_coded(ec.GA(random.Random(7)))

    _, whole = search(make())
    study, settings = new_study(), {"epochs": 1, "generations": 10, "pop_size": 3}
    with Interrupted(bowl, 3) as launcher, pytest.raises(KeyboardInterrupt):
        evolve(study, PLANE, launcher, make(), **settings)
    with VirtualLauncher(bowl, 3) as launcher:
        again = evolve(study, PLANE, launcher, make(), **settings)
        assert len(launcher.jobs) == len({trial.number for _, trial in whole}) - 12
    assert [trial.params for trials in again for trial in trials] == params_of(whole)


@pytest.mark.parametrize("make", [emo.PAES, emo.NSGA2])
def test_what_is_missing_is_named(make):
    with pytest.raises(ValueError, match="give generations, timeout, or both"):
        search(make(random.Random(0)), generations=None)
    with pytest.raises(ValueError, match=f"{make.__name__} weighs two objectives: give cost"):
        search(make(random.Random(0)))


def test_a_neighbourhood_counts_in_a_ring_and_not_in_a_star():
    def run(wrap, size):
        optimiser = wrap(swarm.PSO(random.Random(0)))
        return params_of(search(optimiser, pop_size=7, generations=5, neighborhood_size=size)[1])

    assert run(lambda optimiser: optimiser, 3) == run(lambda optimiser: optimiser, 7)
    assert run(real_coded, 3) != run(real_coded, 7)


def test_operators_that_a_user_chose_are_left_alone():
    optimiser = ec.GA(random.Random(0))
    chosen = [ec.variators.laplace_crossover, ec.variators.nonuniform_mutation]
    optimiser.variator = list(chosen)
    assert real_coded(optimiser).variator == chosen
