"""inspyred's optimisers over a search space: genes, generations, failures, going on, the traps of the defaults."""

from __future__ import annotations

import random

import local_training
import numpy as np
import optuna
import pandas as pd
import pytest
from inspyred import ec, swarm
from inspyred.ec import emo
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from virtual import VirtualLauncher

from hpo_helpers.comparing import anytime, reports
from hpo_helpers.evolution import (
    decode,
    encode,
    evolve,
    pareto_front,
    real_coded,
    trained_epochs,
    trained_seconds,
)
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN, MNIST_MLP
from hpo_helpers.tuning import tune

MIXED = {
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "width": FloatDistribution(0.0, 1.0, step=0.25),
    "layers": IntDistribution(1, 3),
    "units": IntDistribution(16, 128, log=True),
    "activation": CategoricalDistribution(["relu", "tanh", None]),
    "batch": IntDistribution(32, 32),
}
SINGLE = {"GA": ec.GA, "PSO": swarm.PSO, "ES": ec.ES, "DEA": ec.DEA, "SA": ec.SA}
MULTI = {"PAES": emo.PAES, "NSGA2": emo.NSGA2}


class Failing(VirtualLauncher):
    """Fails every job whose x is above a half, after one report."""

    def __init__(self, limit=0.5):
        def curve(params):
            yield 1.0, params["x"]
            if params["x"] > limit:
                raise OSError(f"x = {params['x']:.2f} is too much")
            yield 1.0, 1 - params["x"]

        super().__init__(curve, 3)


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


def search(optimiser, curve=bowl, space=PLANE, study=None, **settings):
    study = new_study() if study is None else study
    settings = {"generations": 10, "population_size": 3, "epochs": 1, "progress": False} | settings
    with VirtualLauncher(curve, settings["population_size"]) as launcher:
        return study, evolve(study, space, launcher, optimiser, **settings)


def n_distinct(optimiser, cost):
    _, table = search(optimiser, by_length, MNIST_MLP, epochs=50, cost=cost)
    return len(table), table["trial"].nunique()


# Genes


@pytest.mark.parametrize("place", [0.0, 0.1, 0.37, 0.5, 0.99, 1.0])
def test_a_configuration_lies_in_the_space_and_its_genes_come_out_again(place):
    params = decode(MIXED, [place] * len(MIXED))
    assert list(params) == list(MIXED)
    for name, distribution in MIXED.items():
        assert distribution._contains(distribution.to_internal_repr(params[name]))
    assert [type(params[name]) for name in ("rate", "layers", "units", "batch")] == [float, int, int, int]
    again = decode(MIXED, encode(MIXED, params))
    assert again == {**params, "rate": pytest.approx(params["rate"]), "width": pytest.approx(params["width"])}


def test_the_ends_of_the_genes_are_the_ends_of_the_ranges():
    low = {"rate": 1e-4, "width": 0.0, "layers": 1, "units": 16, "activation": "relu", "batch": 32}
    high = {"rate": 1.0, "width": 1.0, "layers": 3, "units": 128, "activation": None, "batch": 32}
    assert decode(MIXED, [0] * 6) == low and decode(MIXED, [1] * 6) == high
    assert decode(MIXED, [0.5] * 6)["rate"] == pytest.approx(1e-2)


def test_choices_have_equal_shares():
    chosen = [decode(MIXED, [0.5] * 4 + [place, 0.5])["activation"] for place in np.linspace(0, 1, 3000)]
    assert all(abs(chosen.count(choice) - 1000) <= 1 for choice in ("relu", "tanh", None))


def test_genes_outside_of_the_unit_interval_are_refused():
    for position in range(len(MIXED)):
        genes = [0.5] * len(MIXED)
        genes[position] = 1.01
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1.01"):
            decode(MIXED, genes)
    with pytest.raises(ValueError):
        decode(MIXED, [0.5])
    with pytest.raises(ValueError, match="'sigmoid'"):
        encode(MIXED, {**decode(MIXED, [0.5] * 6), "activation": "sigmoid"})


# The search


@pytest.mark.parametrize("name", SINGLE)
def test_every_optimiser_stays_in_the_space_and_reaches_all_kinds_of_values(name):
    def curve(params):
        yield 1.0, params["rate"] + params["layers"] + (params["activation"] == "tanh")

    optimiser = real_coded(SINGLE[name](random.Random(1)))
    study, table = search(optimiser, curve, MIXED, generations=12, population_size=4)
    assert table["generation"].tolist() == sorted(table["generation"]) and table["generation"].max() == 12
    assert table["trial"].nunique() == len(study.trials) > 5
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE and trial.distributions == MIXED
    assert set(table["activation"].dropna()) <= {"relu", "tanh"} and set(table["layers"]) <= {1, 2, 3}
    if name != "SA":  # one individual at a time
        assert table["layers"].nunique() == 3 and table["width"].nunique() > 2


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("name", ["GA", "PSO", "DEA"])
def test_it_finds_better_configurations_than_random_search(name, direction):
    sign = 1 if direction == "minimize" else -1

    def curve(params):
        return [(1.0, sign * value) for _, value in bowl(params)]

    distances = {"evolved": [], "random": []}
    for seed in range(15):
        optimiser = real_coded(SINGLE[name](random.Random(seed)))
        study = new_study(direction)
        search(optimiser, curve, study=study, generations=8, population_size=6, num_elites=1, num_selected=6)
        distances["evolved"].append(sign * study.best_value)
        drawn = optuna.create_study(study_name="r", sampler=RandomSampler(seed), direction=direction)
        with VirtualLauncher(curve) as launcher:
            tune(drawn, PLANE, launcher, epochs=1, n_trials=48, progress=False)
        distances["random"].append(sign * drawn.best_value)
    assert np.median(distances["evolved"]) < 0.5 * np.median(distances["random"])


@pytest.mark.parametrize("name", SINGLE | MULTI)
def test_the_optimisers_seed_is_the_seed_of_all(name):
    cost = trained_epochs if name in MULTI else None
    make = (SINGLE | MULTI)[name]
    settings = {"curve": by_length, "space": MNIST_MLP, "epochs": 50, "cost": cost}
    one, same, other = [search(real_coded(make(random.Random(seed))), **settings)[1] for seed in (3, 3, 4)]
    pd.testing.assert_frame_equal(one, same)
    assert not one["learning_rate"].equals(other["learning_rate"])


def test_a_generation_is_trained_in_parallel_and_the_next_one_waits_for_it():
    with ReplayLauncher(n_workers=3, fixed={"dropout": 0.1}) as launcher:
        study, space = new_study(), {name: MNIST_CNN[name] for name in MNIST_CNN if name != "dropout"}
        optimiser = real_coded(ec.GA(random.Random(0)))
        table = evolve(
            study, space, launcher, optimiser, epochs=9, generations=4, population_size=3, progress=False
        )
    assert len(table) == len(study.trials) == 12
    times = pd.DataFrame([trial.user_attrs for trial in study.trials]).groupby(np.arange(12) // 3)
    assert times["started"].nunique().eq(1).all()
    assert (times["started"].min()[1:].to_numpy() >= times["finished"].max()[:-1].to_numpy()).all()
    assert len(reports(study)) == 12 * 9 and anytime(study)["value"].iloc[-1] <= table["value"].min()


def test_it_runs_in_worker_processes():
    space = {"learning_rate": FloatDistribution(0.1, 1), "base": FloatDistribution(0, 1)}
    study = new_study()
    with LocalLauncher(local_training.halving, 2) as launcher:
        optimiser = real_coded(swarm.PSO(random.Random(0)))
        table = evolve(
            study, space, launcher, optimiser, epochs=2, generations=3, population_size=2, progress=False
        )
    np.testing.assert_allclose(table["value"], table["base"] + table["learning_rate"] / 2)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_a_configuration_is_trained_once_and_answers_whenever_it_comes_again():
    study, table = search(ec.GA(random.Random(0)))
    assert len(table) > table["trial"].nunique() == len(study.trials)
    assert len(table.groupby("trial")[["x", "y", "value"]].nunique().drop_duplicates()) == 1
    assert len({tuple(trial.params.values()) for trial in study.trials}) == len(study.trials)


def test_configurations_that_are_close_are_not_taken_for_equal():
    seeds = [[0.5, 0.5], [0.5 + 1e-9, 0.5]]
    study, table = search(ec.ES(random.Random(0)), generations=2, population_size=2, seeds=seeds)
    assert table["generation"].tolist() == [1, 1, 2, 2] and len(study.trials) == 4


def test_what_was_enqueued_is_trained_with_the_first_generation():
    study = new_study()
    study.enqueue_trial({"x": 0.3, "y": -0.4})
    study, table = search(real_coded(ec.GA(random.Random(0))), study=study, generations=2)
    assert study.trials[0].params == {"x": 0.3, "y": -0.4} and study.best_trial.number == 0
    assert len(study.trials) == 7 and table["trial"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_configuration_may_be_put_into_the_first_generation():
    seeds = [encode(PLANE, {"x": 0.3, "y": -0.4})]
    _, table = search(real_coded(ec.GA(random.Random(0))), generations=1, seeds=seeds)
    assert table.loc[0, ["x", "y"]].to_list() == pytest.approx([0.3, -0.4]) and len(table) == 3


def test_a_pruned_trial_is_worth_its_last_report():
    study = new_study(pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=3))
    optimiser = real_coded(ec.GA(random.Random(0)))
    study, table = search(optimiser, by_length, MNIST_MLP, study, epochs=50)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert len(pruned) > 5
    for trial in pruned:
        value = table.loc[table["trial"] == trial.number, "value"].unique()
        assert value == [trial.intermediate_values[trial.last_step]]


# Failures, time, and going on


@pytest.mark.parametrize("name", SINGLE | MULTI)
def test_a_failed_trial_is_worse_than_all_others_and_the_search_goes_on(name):
    optimiser = real_coded((SINGLE | MULTI)[name](random.Random(5)))
    with Failing() as launcher:
        study = new_study()
        cost = trained_seconds if name in MULTI else None
        settings = {"generations": 12, "population_size": 3, "seeds": [[0.2], [0.9], [0.45]], "cost": cost}
        settings |= {"max_failures": 30, "progress": False}
        table = evolve(study, UNIT, launcher, optimiser, epochs=2, **settings)
    failed = [trial.number for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(failed) > 0 and table["generation"].max() == 12
    assert table.loc[table["trial"].isin(failed), "value"].isna().all()
    assert (table["value"].isna() == (table["x"] > 0.5)).all()
    if name in MULTI:
        assert table["cost"].isna().equals(table["value"].isna())


def test_a_search_moves_away_from_failures():
    """Without failures x would go to 1; what fails is above a half."""
    late = []
    for seed in range(10):
        with Failing() as launcher:
            optimiser = real_coded(ec.ES(random.Random(seed)))
            settings = {"generations": 10, "population_size": 4, "max_failures": 40, "progress": False}
            launcher.n_workers = 4
            table = evolve(new_study(), UNIT, launcher, optimiser, epochs=2, **settings)
        late.append(table.loc[table["value"].idxmin(), "x"])
    assert 0.4 < np.median(late) <= 0.5


def test_a_run_of_failures_ends_the_search():
    study, optimiser = new_study(), real_coded(ec.GA(random.Random(0)))
    settings = {"epochs": 2, "generations": 9, "population_size": 2, "progress": False}
    with Failing(limit=-1) as launcher, pytest.raises(RuntimeError, match="5 trials in a row.*is too much"):
        evolve(study, UNIT, launcher, optimiser, **settings)
    assert len(study.trials) in (5, 6)


def test_time_ends_it_and_what_runs_is_pruned():
    study, table = search(
        real_coded(ec.GA(random.Random(0))), by_length, MNIST_MLP, epochs=50, generations=None, timeout=70
    )
    assert max(trial.user_attrs["finished"] for trial in study.trials if trial.state.is_finished()) == 70
    assert [trial.state for trial in study.trials].count(TrialState.PRUNED) > 0
    assert len(table) == len(study.trials)


def test_a_search_that_proposes_nothing_new_ends():
    """No time passes while known configurations answer, so that a timeout alone would never come."""
    study, table = search(ec.GA(random.Random(0)), generations=None, timeout=1000)
    assert max(trial.user_attrs["finished"] for trial in study.trials) < 20
    assert table.groupby("trial")["generation"].min().max() == table["generation"].max() - 100


def test_a_search_that_was_interrupted_goes_on_where_it_stood():
    def make():
        return real_coded(ec.GA(random.Random(7)))

    class Interrupted(VirtualLauncher):
        def submit(self, params, epochs):
            if len(self.jobs) == 13:
                raise KeyboardInterrupt
            return super().submit(params, epochs)

    _, whole = search(make())
    study, settings = new_study(), {"epochs": 1, "generations": 10, "population_size": 3, "progress": False}
    with Interrupted(bowl, 3) as launcher, pytest.raises(KeyboardInterrupt):
        evolve(study, PLANE, launcher, make(), **settings)
    with VirtualLauncher(bowl, 3) as launcher:
        again = evolve(study, PLANE, launcher, make(), **settings)
        assert len(launcher.jobs) == whole["trial"].nunique() - 12  # the 13th was interrupted
    pd.testing.assert_frame_equal(again.drop(columns="trial"), whole.drop(columns="trial"))


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (ec.GA, {"generations": None}, "give generations, timeout, or both"),
        (ec.GA, {"generations": 0}, "generations must be a whole number of at least 1, got 0"),
        (ec.GA, {"population_size": 1.5}, "population_size must be .* got 1.5"),
        (ec.GA, {"space": lambda trial: {}}, "space must be a dict"),
        (ec.GA, {"space": {}}, "space must be a dict"),
        (emo.PAES, {}, "PAES weighs two objectives"),
        (emo.NSGA2, {}, "NSGA2 weighs two objectives"),
    ],
)
def test_bad_settings_are_named(make, settings, message):
    arguments = {"space": PLANE, "epochs": 1, "generations": 1, "population_size": 3} | settings
    with VirtualLauncher(bowl) as launcher, pytest.raises(ValueError, match=message):
        evolve(new_study(), arguments.pop("space"), launcher, make(random.Random(0)), **arguments)


# Two objectives


def brute_force_front(table):
    points = table[["value", "cost"]].drop_duplicates()
    return {
        (value, cost)
        for value, cost in points.to_numpy()
        if not any(v <= value and c <= cost and (v, c) != (value, cost) for v, c in points.to_numpy())
    }


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("name", MULTI)
def test_the_front_is_that_of_all_evaluations(name, direction):
    sign = 1 if direction == "minimize" else -1

    def curve(params):
        return [(seconds, sign * value) for seconds, value in by_length(params)]

    optimiser = real_coded(MULTI[name](random.Random(0)))
    study, table = search(
        optimiser, curve, MNIST_MLP, new_study(direction), epochs=50, generations=20, cost=trained_epochs
    )
    front = pareto_front(study, trained_epochs)
    assert front["cost"].is_monotonic_increasing and len(front) > 3
    found = set(zip(sign * front["value"], front["cost"], strict=True))
    assert found == brute_force_front(table.assign(value=sign * table["value"]))
    assert list(front) == ["trial", "value", "cost", *MNIST_MLP]
    assert (front["cost"] == front["epochs"]).all()


def test_a_study_without_a_value_has_an_empty_front():
    assert pareto_front(new_study(), trained_epochs).empty


def test_two_objectives_pull_in_two_directions():
    """Evolving by value alone goes to the longest training; with the cost, short trainings are kept too."""

    def median_epochs(make, **settings):
        tables = [
            search(real_coded(make(random.Random(seed))), by_length, MNIST_MLP, epochs=50, **settings)[1]
            for seed in range(10)
        ]
        return np.median([table.query("generation > 5")["epochs"].mean() for table in tables])

    assert median_epochs(ec.ES) > median_epochs(emo.PAES, cost=trained_epochs, max_archive_size=30) + 3


# The traps of the defaults


def test_inspyreds_own_operators_hardly_move_real_genes():
    """Over ten seeds: 10 generations of 3. Bit flips only recombine what the first generation drew."""
    for make, n_evaluations in ((ec.GA, 21), (emo.PAES, 30)):
        cost = trained_epochs if make is emo.PAES else None
        raw = [n_distinct(make(random.Random(seed)), cost) for seed in range(10)]
        ours = [n_distinct(real_coded(make(random.Random(seed))), cost) for seed in range(10)]
        assert {evaluated for evaluated, _ in raw} == {n_evaluations}
        assert {evaluated for evaluated, _ in ours} == {30}
        assert max(distinct for _, distinct in raw) <= 15 and min(distinct for _, distinct in ours) >= 25


def test_a_step_of_sigma_one_mostly_ends_at_a_bound():
    def at_bounds(wrap):
        """Return the share of the learning rates that a mutation made which are the lowest or the highest."""
        moved = []
        for seed in range(10):
            optimiser = wrap(emo.PAES(random.Random(seed)))
            _, table = search(optimiser, by_length, MNIST_MLP, epochs=50, cost=trained_epochs)
            first = table.loc[table["generation"] == 1, "learning_rate"]
            moved += [rate for rate in table["learning_rate"].unique() if rate not in set(first)]
        return np.isin(moved, [0.01, 0.2]).mean()

    assert at_bounds(lambda optimiser: optimiser) > 0.5 > 0.1 > at_bounds(real_coded)


def test_a_neighbourhood_counts_in_a_ring_and_not_in_a_star():
    def run(wrap, size):
        return search(wrap(swarm.PSO(random.Random(0))), population_size=7, neighborhood_size=size)[1]

    pd.testing.assert_frame_equal(run(lambda optimiser: optimiser, 3), run(lambda optimiser: optimiser, 7))
    assert not run(real_coded, 3)["x"].equals(run(real_coded, 7)["x"])


def test_operators_that_a_user_chose_are_left_alone():
    optimiser = ec.GA(random.Random(0))
    chosen = [ec.variators.laplace_crossover, ec.variators.nonuniform_mutation]
    optimiser.variator = list(chosen)
    assert real_coded(optimiser).variator == chosen


def test_paes_archive_loses_points_of_the_front():
    """Why `pareto_front` computes from all evaluations."""
    lost = 0
    for seed in range(20):
        optimiser = real_coded(emo.PAES(random.Random(seed)))
        study, table = search(
            optimiser, by_length, MNIST_MLP, epochs=50, cost=trained_epochs, max_archive_size=100
        )
        archive = {tuple(individual.fitness) for individual in optimiser.archive}
        lost += archive != brute_force_front(table)
    assert lost > 3
