"""What lesson 07 says of methods in general, computed anew."""

import math
import re
import runpy
from itertools import islice, product
from random import Random
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from claims import claimed, code_cells, define, lesson_code, lesson_text
from inspyred import ec
from notebook_files import NOTEBOOKS
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpo_helpers import comparing
from hpo_helpers.curves import NoisyCurves, expected_errors
from hpo_helpers.datasets import load_curves, load_table
from hpo_helpers.evolution import evolve, real_coded
from hpo_helpers.jobs import JobStatus
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN, from_unit_cube, to_unit_cube

LESSON, SOLUTIONS = "07_bring_your_own_algorithm", "solutions/07_bring_your_own_algorithm_solutions"
RECORDED = ("GA", "PSO", "DEA", "NSGA-II", "CMA-ES", "TPE")
#: What the lesson's functions use; `lesson` adds them.
USED = [optuna, islice, Random, BaseSampler, BasePruner, RandomSampler, TrialState, NoisyCurves]
USED += [ReplayLauncher, evolve, real_coded, from_unit_cube, to_unit_cube]


def rows(notebook, cell):
    """Return the rows of the table that a cell has shown, by their names."""
    (html,) = [output.data["text/html"] for output in code_cells(notebook)[cell].outputs if "data" in output]
    rows = BeautifulSoup(html, "html.parser").tbody("tr")
    return {row.th.text: [cell.text for cell in row("td")] for row in rows}


def verdicts(cell):
    return {name: row[-1] for name, row in rows(LESSON, cell).items() if row[-1]}


@pytest.fixture(scope="module")
def lesson():
    """Return the functions and classes that the lesson writes out, as they stand in its cells."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = {used.__name__: used for used in USED} | {"np": np, "ec": ec, "MNIST_CNN": MNIST_CNN}
    names |= {"math": math, "JobStatus": JobStatus, "StudyDirection": StudyDirection}
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
    bits, real = (
        [min(lesson[breed](seed)[-1][1]) for seed in range(100, 120)] for breed in ("breed_bits", "breed_real")
    )
    draws = [min(lesson["errors_of_genes"](np.random.default_rng(seed).random((600, 2)))) for seed in range(20)]
    quartiles = [np.quantile(found, [0.25, 0.5, 0.75]) for found in (real, bits, draws)]
    assert (quartiles[0] < quartiles[1]).all() and (quartiles[1] < 1.2 * quartiles[2]).all()


def test_real_genes_are_better_than_bits_by_the_test():
    assert "are better than bits by the test" in lesson_text(LESSON)
    assert verdicts("bits-or-real") == {"real numbers": "better", "random draws": "no difference"}


def broken(params):
    if params["n_channels"] < 8:
        raise OSError("no memory")
    yield from NoisyCurves(0)(params)


def test_a_failed_job_is_told_to_the_study_and_the_others_go_on(lesson):
    study = optuna.create_study(study_name="broken", sampler=RandomSampler(0))
    population = list(np.random.default_rng(0).random((8, 5)))
    with ReplayLauncher(n_workers=8, curves=broken) as launcher:
        errors = lesson["train_generation"](study, launcher, population)
    small = [trial.params["n_channels"] < 8 for trial in study.trials]
    assert 0 < sum(small) < 8 and small == [error == math.inf for error in errors]
    assert small == [trial.state == TrialState.FAIL for trial in study.trials]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_sampler_breeds_from_the_best_in_either_direction(lesson, direction):
    sampler = lesson["EvolutionSampler"](0)
    study = optuna.create_study(study_name="bred", sampler=sampler, direction=direction)
    for _ in range(80):
        trial = study.ask(MNIST_CNN)
        study.tell(trial, lesson["genes_of"](trial.params).sum())
    sums = [trial.value for trial in study.trials]
    gained = np.mean(sums[60:]) - np.mean(sums[:10])
    assert gained < -0.8 if direction == "minimize" else gained > 0.8


def test_the_pruner_says_for_which_metrics_it_is(lesson):
    assert "It is for errors, which are above 0 and minimised" in lesson_text(LESSON)
    study = optuna.create_study(study_name="lag", pruner=lesson["LagPruner"](2, first_epoch=2))
    good, bad = study.ask(), study.ask()
    for epoch, ended in ((1, False), (2, True)):
        for trial, error in ((good, 0.1), (bad, 0.21)):
            trial.report(error, epoch)
        assert (good.should_prune(), bad.should_prune()) == (False, ended)


SPACE = {
    "category": CategoricalDistribution(["a", None, 3]),
    "from_zero": FloatDistribution(-1, 0),
    "logarithmic": FloatDistribution(1e-5, 1, log=True),
    "narrow": IntDistribution(0, 3),
    "whole": IntDistribution(1, 100, log=True),
    "stepped": FloatDistribution(0, 1, step=0.1),
    "odd": IntDistribution(2, 20, step=3),
    "single": IntDistribution(5, 5),
}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_sampler_to_copy_takes_every_distribution_and_parallel_trials(direction):
    names, sign = {}, 1 if direction == "minimize" else -1
    exec(code_cells(LESSON)["own-project"].source, names)

    def distance(trial):
        params = {name: trial._suggest(name, SPACE[name]) for name in SPACE}
        far = [params["from_zero"] + 0.3, np.log10(params["logarithmic"]) + 3, params["narrow"] - 2]
        far += [params["whole"] / 10 - 1, params["stepped"] - 0.3, params["odd"] / 3 - 1]
        return sign * (np.abs(far).sum() + (params["category"] is not None))

    study = optuna.create_study(study_name="near", sampler=names["NearTheBest"](0), direction=direction)
    study.optimize(distance, n_trials=150, n_jobs=2)
    assert sign * study.best_value < 1 < np.median([sign * trial.value for trial in study.trials[:10]])
    waiting = optuna.create_study(study_name="waiting", sampler=names["NearTheBest"](0))
    assert len([waiting.ask(SPACE) for _ in range(12)]) == 12  # none has ended yet
    assert "in 13 lines" in lesson_text(LESSON) and len(code_cells(LESSON)["own-project"].source.splitlines()) == 16


def test_the_sampler_to_copy_is_compared_by_a_test():
    (output,) = code_cells(LESSON)["own-project-3"].outputs
    assert "no difference on this problem" in lesson_text(LESSON)
    assert float(re.search(r"p-value of the paired test: ([\d.]+)", output["text"])[1]) > 0.05


def test_the_defaults_of_a_library_try_few_distinct_configurations(lesson):
    said = claimed(LESSON, r"the genetic algorithm made (\d+) evaluations of (\d+) configurations")

    def as_it_comes(optimiser):
        return optimiser

    assert lesson["count"](ec.GA, as_it_comes) == "{1:.0f} of {0:.0f}".format(*said)
    assert all(eval(lesson["count"](new, as_it_comes).replace("of", "/")) < 0.5 for new in (ec.emo.PAES, ec.SA))
    assert all(eval(lesson["count"](new, real_coded).replace("of", "==")) for new in (ec.GA, ec.emo.PAES, ec.SA))
    assert "the variance for the standard deviation" in lesson_text(LESSON)
    drawn = ec.EDA(Random(0))._internal_variation(
        Random(0), [[0.0], [1.0]], {"num_offspring": 2000, "_ec": SimpleNamespace(bounder=lambda child, args: child)}
    )
    assert np.std(drawn) == pytest.approx(np.var([0, 1], ddof=1), abs=0.02)


def test_none_of_the_compared_differs_from_random_search():
    assert "None beats random search" in lesson_text(LESSON)
    assert len(verdicts("compete-table")) == 9 and "better" not in verdicts("compete-table").values()


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
    assert "these four cannot be told apart" in lesson_text(LESSON)
    accuracies = np.array(list(script["PUBLISHED"].values()))
    error, width = claimed(LESSON, r"10,000\), here ([\d.]+\d)\. The highest published one is ([\d.]+\d) above")
    assert np.sqrt(accuracies * (1 - accuracies) / 10_000) == pytest.approx([error] * 4, abs=0.0001)
    assert np.ptp(accuracies) == pytest.approx(width) and width < error


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
    confirmed = rows(SOLUTIONS, "confirm")
    epochs, lost = map(float, confirmed["slack 0.5"])
    by_halving = float(confirmed["successive halving"][1])
    said = claimed(SOLUTIONS, r"It holds on 20 other draws: (\d+) winners lost instead of (\d+)")
    assert said == [lost, by_halving] and lost < by_halving and epochs < 27 * 27 / 2
