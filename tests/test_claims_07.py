"""What lesson 07 says of methods in general, computed anew."""

import re
import runpy
from itertools import islice, product
from random import Random

import numpy as np
import optuna
import pandas as pd
import pytest
from claims import claimed, code_cells, define, lesson_code, lesson_text
from inspyred import ec
from notebook_files import NOTEBOOKS, comparison
from optuna.distributions import IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler
from optuna.trial import TrialState

from hpo_helpers import comparing
from hpo_helpers.curves import NoisyCurves, expected_errors
from hpo_helpers.datasets import load_curves, load_table
from hpo_helpers.evolution import evolve, real_coded
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.policies import BanditPolicy, MedianStoppingPolicy, TruncationSelectionPolicy
from hpo_helpers.spaces import MNIST_CNN, from_unit_cube, to_unit_cube
from hpo_helpers.tuning import tune

LESSON, SOLUTIONS = "07_bring_your_own_algorithm", "solutions/07_bring_your_own_algorithm_solutions"
RECORDED = ("GA", "PSO", "DEA", "NSGA-II", "CMA-ES", "TPE")
#: What the lesson's functions use; `lesson` adds them.
USED = [optuna, islice, Random, BaseSampler, BasePruner, RandomSampler, TrialState, NoisyCurves]
USED += [ReplayLauncher, evolve, real_coded, from_unit_cube, to_unit_cube, tune]


def printed(name, cell_id):
    """Return the rows of a committed table, which is computed anew wherever the notebook is tested."""
    shown = comparison.printed(code_cells(name)[cell_id].outputs)
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    rows = [row for row in rows if row[1:] and all(re.fullmatch(r"[\d.]+", figure) for figure in row[1:])]
    return {row[0]: [float(figure) for figure in row[1:]] for row in rows}


@pytest.fixture(scope="module")
def lesson():
    """Return the functions and classes that the lesson writes out, as they stand in its cells."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = {used.__name__: used for used in USED} | {"np": np, "ec": ec, "MNIST_CNN": MNIST_CNN}
    names["TRADE"] = MNIST_CNN | {"epochs": IntDistribution(1, 27)}
    define(LESSON, names)
    return names


def test_no_method_wins_over_all_problems_but_one_does_where_neighbours_are_alike(lesson):
    problems = list(product(range(4), repeat=5))
    said = claimed(LESSON, r"so there are 4<sup>(\d)</sup> = 1,(\d+) possible problems")
    assert said == [5, len(problems) - 1000]
    smooth = [errors for errors in problems if max(abs(np.diff(errors))) <= 1]
    one, other = lesson["first_three"], lesson["beside_the_best"]

    def total(method, some):
        return sum(min(errors[x] for x in method(errors)) for errors in some)

    assert all(len(set(other(errors))) == 3 for errors in problems), "it tries nothing twice"
    assert total(one, problems) == total(other, problems)
    assert total(one, smooth) > total(other, smooth)


def test_a_short_genome_cannot_come_near_a_minimum(lesson):
    bits, lowest = claimed(LESSON, r"With (\d) bits nothing below ([\d.]+\d) can be found")
    genomes = [np.array(genome) for genome in product((0, 1), repeat=2 * int(bits))]
    points = [lesson["decode"](genome) for genome in genomes]
    assert min(lesson["toy"](*point) for point in points) == pytest.approx(lowest, abs=0.005)
    assert np.diff(sorted({x for x, _ in points})) == pytest.approx(12 / (2**bits - 1))


def test_bits_get_stuck_where_no_single_flip_leads_down(lesson):
    n_stuck, n_runs = claimed(LESSON, r"in (\d+) of the (\d+) runs no single flip improves the best genome")
    stuck = []
    for seed in range(int(n_runs)):
        population, errors = lesson["breed_bits"](seed)[-1]
        flips = [np.where(np.arange(20) == place, 1 - population[0], population[0]) for place in range(20)]
        stuck.append(min(lesson["errors_of_bits"](flips)) >= errors[0])
    assert sum(stuck) == n_stuck


def test_real_genes_end_lower_than_bits_and_bits_lower_than_random_draws(lesson):
    """In each quartile, over seeds that the lesson does not show."""
    bits = [min(lesson["breed_bits"](seed)[-1][1]) for seed in range(100, 120)]
    real, draws = [], []
    for seed in range(100, 120):
        random = np.random.default_rng(seed)
        generations = lesson["genetic"](
            lesson["errors_of_genes"], list(random.random((20, 2))), lesson["blend"], lesson["move"], random
        )
        real.append(min(list(islice(generations, 30))[-1][1]))
        draws.append(min(lesson["errors_of_genes"](random.random((600, 2)))))
    quartiles = [np.quantile(found, [0.25, 0.5, 0.75]) for found in (real, bits, draws)]
    assert (quartiles[0] < quartiles[1]).all() and (quartiles[1] < 1.2 * quartiles[2]).all()


# Pruners

POLICIES = {
    "bandit": lambda: BanditPolicy(slack_factor=0),
    "median": MedianStoppingPolicy,
    "truncation": lambda: TruncationSelectionPolicy(truncation_percentage=99),
}


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_ends_the_run_that_is_best_so_far(name):
    assert "no policy ends the run that is best so far" in lesson_text(LESSON)
    random = np.random.default_rng(0)
    n_asked = 0
    for _ in range(40):
        study = optuna.create_study(study_name="best", sampler=RandomSampler(0), pruner=POLICIES[name]())
        trials = [study.ask() for _ in range(5)]
        for _ in range(20):
            trial = trials[random.integers(5)]
            values = study.trials[trial.number].intermediate_values
            trial.report(random.integers(10) / 10, len(values) + 1)
            everyone = [value for run in study.trials for value in run.intermediate_values.values()]
            if min(study.trials[trial.number].intermediate_values.values()) == min(everyone):
                n_asked += 1
                assert not trial.should_prune()
    assert n_asked > 80


def test_a_metric_that_is_logged_once_lets_no_policy_act():
    for new_policy in POLICIES.values():
        study = optuna.create_study(study_name="once", sampler=RandomSampler(0), pruner=new_policy())
        once = lambda params: [{"valid_error": params["x"], "seconds": 27.0}]  # noqa: E731
        with ReplayLauncher(curves=once) as launcher:
            tune(study, {"x": IntDistribution(0, 99)}, launcher, epochs=1, n_trials=12, progress=False)
        assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


@pytest.fixture(scope="module")
def costs():
    """For each pruner that the lesson tries: epochs, winners lost and test error over its 20 draws."""
    columns = ["epochs", "lost", "error"]
    table = pd.DataFrame.from_dict(printed(LESSON, "lost-winners"), orient="index", columns=columns)
    return table.drop(["our LagPruner", "truncation, 20 %", "MedianPruner"])


def test_who_saves_more_loses_more_winners_which_costs_little_test_error(costs):
    assert "Who saves more, loses more" in lesson_text(LESSON)
    assert costs.sort_values("epochs")["lost"].is_monotonic_decreasing
    n_lost, n_draws = claimed(LESSON, r"spends a fifth of the epochs, and ended (\d+) winners of (\d+)")
    halving = costs.loc["SuccessiveHalvingPruner"]
    assert [n_lost, n_draws] == [halving["lost"], 20]
    assert halving["epochs"] / (27 * 27) == pytest.approx(0.2, abs=0.02)
    assert "the test error of what is found hardly changes" in lesson_text(LESSON)
    assert (costs["error"] - costs.loc["no pruner", "error"]).abs().max() < 0.0015


def test_a_slack_of_a_tenth_is_wide_for_an_accuracy_and_as_wide_as_noise_for_an_error():
    accuracy, points, error, slack = claimed(
        LESSON, r"of (\d+) % it leaves (\d) points\. Of an error of (\d) % it leaves ([\d.]+\d)"
    )
    assert round(accuracy - accuracy / 1.1) == points
    assert error * 0.1 == pytest.approx(slack)
    noise = load_curves("mnist_cnn_noise").query("epoch == 27").groupby("configuration")["valid_error"]
    good = noise.std()[noise.mean() < 0.03]
    assert 0.2 < 100 * good.min() <= slack <= 100 * good.max()


def test_the_defaults_of_a_library_try_few_distinct_configurations(lesson):
    said = claimed(LESSON, r"the genetic algorithm made (\d+) evaluations of (\d+) configurations")

    def as_it_comes(optimiser):
        return optimiser

    assert lesson["count"](ec.GA, as_it_comes) == "{1:.0f} of {0:.0f}".format(*said)
    assert int(lesson["count"](ec.emo.PAES, as_it_comes).split()[0]) < 20
    assert lesson["count"](ec.GA, real_coded) == lesson["count"](ec.emo.PAES, real_coded) == "30 of 30"


def test_on_two_objectives_nsga_ii_is_ahead_and_paes_no_better_than_random_search(lesson):
    """As the lesson says of ten seeds; here over five others."""
    text = "At 2 and 5 seconds NSGA-II is lowest; PAES is no better than random search"
    assert text in lesson_text(LESSON)
    rows = []
    for seed in range(10, 15):
        fronts = {
            "PAES": lesson["by_paes"](seed),
            "random": lesson["by_optuna"](RandomSampler(seed), seed),
            "NSGA-II": lesson["by_optuna"](NSGAIISampler(population_size=20, seed=seed), seed),
        }
        for name, points in fronts.items():
            best = {limit: min(error for error, cost in points if cost <= limit) for limit in (2, 5, 10)}
            rows.append({"method": name} | best)
    medians = pd.DataFrame(rows).groupby("method").median()
    assert (medians.loc["NSGA-II", [2, 5]] < medians.loc["random", [2, 5]]).all()
    assert (medians.loc["PAES"] > 0.95 * medians.loc["random"]).all()


def test_no_recorded_optimiser_is_better_than_random_search_and_three_are_worse_at_20_trainings():
    text = lesson_text(LESSON)
    assert "Over all 50 recorded seeds none is better at 5, 10, 20 or 60 trainings" in text
    assert "at 20, CMA-ES, DEA and NSGA-II are worse, by 0.2 to 0.3 points" in text
    seconds = load_curves().groupby("configuration")["seconds"].sum().mean()
    budgets = [trainings * seconds / 4 for trainings in (5, 10, 20, 60)]
    recorded = load_table("method_comparison").query("setting == 'cnn' and seed < 6050")
    table = pd.concat([recorded, load_table("lesson_07_methods")])
    table = table[table["method"].isin([*RECORDED, "random search"])]
    assert (table.groupby("method")["seed"].nunique() == 50).all()
    found = expected_errors(comparing.at_times(table, budgets))
    pairs = comparing.paired_differences(found, "random search", value="expected_error").set_index("method")
    assert len(pairs) == 4 * len(RECORDED) and not (pairs["verdict"] == "better").any()
    worse = pairs[pairs["verdict"] == "worse"]
    assert set(worse.index) == {"CMA-ES", "DEA", "NSGA-II"} and set(worse["time"]) == {budgets[2]}
    assert worse["difference"].mul(100).round(1).between(0.2, 0.3).all()


@pytest.mark.parametrize("method", ["GA", "PSO", "DEA", "NSGA-II"])
def test_some_of_the_recorded_optimisers_come_out_again(method):
    script = runpy.run_path(str(NOTEBOOKS.parent / "data" / "record_lesson_07.py"))
    seed = 6000 + len(method)
    anew = script["run"](method, seed, trainings=15)
    recorded = load_table("lesson_07_methods").query("method == @method and seed == @seed")
    before = recorded[recorded["time"] < 0.99 * script["seconds_of"](15)]
    assert len(before) >= 2
    anew, before = (table.reset_index(drop=True) for table in (anew.head(len(before)), before))
    pd.testing.assert_frame_equal(anew, before[anew.columns], atol=2e-5, check_dtype=False)


@pytest.fixture(scope="module")
def searches():
    return load_table("mnist_70000_searches").dropna(subset="test_accuracy")


def test_the_published_figures_are_those_of_the_script_and_lie_within_one_standard_error():
    script = runpy.run_path(str(NOTEBOOKS.parent / "benchmarks" / "mnist_mlp.py"))
    assert f"published = {script['PUBLISHED']}".replace("'", '"') in lesson_code(LESSON)
    assert "These four cannot be told apart" in lesson_text(LESSON)
    accuracies = np.array(list(script["PUBLISHED"].values()))
    assert np.ptp(accuracies) < np.sqrt(accuracies * (1 - accuracies) / 10_000).min()


def test_no_repeated_search_differs_from_random_search(searches):
    text = lesson_text(LESSON)
    assert "No method differs from random search" in text
    assert "This does not show that methods are equal" in text
    assert searches.groupby("method")["seed"].nunique().min() >= 5
    errors = searches.assign(time=0, error=1 - searches["test_accuracy"])
    pairs = comparing.paired_differences(errors, "random search", value="error")
    assert len(pairs) == 5 and (pairs["verdict"] == "no difference").all()
    means = searches.groupby("method")["test_accuracy"].mean()
    (width,) = claimed(LESSON, r"The means lie within ([\d.]+\d)")
    assert width / 3 < np.ptp(means) <= width


def test_the_last_method_has_spent_less_than_a_third_of_the_epochs(searches):
    assert "the last method has spent less than a third of random search's epochs" in lesson_text(LESSON)
    spent = searches.groupby("method", sort=False)["epochs_spent"].mean()
    assert spent.index[-1] == "univariate TPE + successive halving, default first"
    assert spent.iloc[-1] < spent["random search"] / 3
    assert claimed(LESSON, r"is lesson 06's, with (\d+) epochs in all") == [spent.iloc[-1]]


def test_the_published_figures_are_lower_than_the_repeated_means(searches):
    assert "Why the published figures are lower we cannot say" in lesson_text(LESSON)
    means = searches.groupby("method")["test_accuracy"].mean()
    published = runpy.run_path(str(NOTEBOOKS.parent / "benchmarks" / "mnist_mlp.py"))["PUBLISHED"]
    assert all(means.get(name, means["TPE"]) > accuracy for name, accuracy in published.items())


def test_patience_loses_fewer_winners_on_draws_that_it_was_not_chosen_on():
    rows = printed(SOLUTIONS, "confirm")
    lost = [rows["slack 0.5"][1], rows["successive halving"][1]]
    assert claimed(SOLUTIONS, r"It holds on 20 other draws: (\d+) winners lost instead of (\d+)") == lost
    assert lost[0] < lost[1] and rows["slack 0.5"][0] < 27 * 27 / 2
