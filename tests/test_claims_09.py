"""What lesson 09 says of constraints, fronts and costs in general, computed anew."""

import re
import runpy

import numpy as np
import optuna
import pandas as pd
import pytest
from claims import claimed, code_cells, define, lesson_text
from notebook_files import NOTEBOOKS
from optuna.distributions import IntDistribution
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from scipy.spatial import ConvexHull
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from hpo_helpers import comparing
from hpo_helpers.curves import NoisyCurves, expected_errors
from hpo_helpers.datasets import load_curves, load_table
from hpo_helpers.gaussian_process import GaussianProcess, expected_improvement
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN, from_unit_cube, to_unit_cube
from hpo_helpers.tuning import tune

LESSON = "09_constraints_and_cost"
USED = [IntDistribution, NopPruner, BaseSampler, RandomSampler, TPESampler, TrialState, SVC, NoisyCurves, tune]
USED += [GaussianProcess, expected_improvement, ReplayLauncher, from_unit_cube, to_unit_cube, comparing.reports]
SCRIPT = runpy.run_path(str(NOTEBOOKS.parent / "data" / "record_lesson_09.py"))
SECONDS = load_curves().groupby("configuration")["seconds"].sum()


@pytest.fixture(scope="module")
def lesson():
    """Return what the lesson defines, as it stands in its cells."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = {used.__name__: used for used in USED} | {"np": np, "pd": pd, "optuna": optuna, "comparing": comparing}
    names |= {"MNIST_CNN": MNIST_CNN, "TRAINING": SECONDS.mean()}
    names["digits"], names["labels"] = load_digits(return_X_y=True)
    define(LESSON, names)
    return names


def test_a_constraint_is_met_at_0_or_less(lesson):
    for n_channels, n_parameters in ((4, 18_714), (8, 37_610), (16, 80_202)):  # counted in lesson 01's test
        assert lesson["excess"](n_channels) == SCRIPT["excess"](n_channels) == n_parameters - 40_000
    assert "Up to 8 channels are *feasible*" in lesson_text(LESSON) and lesson["excess"](9) > 0
    share = np.log(16.5 / 8.5) / np.log(16.5 / 3.5)  # of whole numbers drawn on a logarithmic scale
    assert claimed(LESSON, r"Of 100 random proposals, (\d+) break this limit") == [round(100 * share)]


@pytest.fixture(scope="module")
def limits():
    table = expected_errors(load_table("lesson_09_limits")).assign(time=0)
    late = table["proposals"].str[20:]
    return table.assign(late=100 * late.str.count("x") / late.str.len(), proposed=table["proposals"].str.len())


def test_soft_constraints_are_learnt_and_not_obeyed(limits):
    means = limits.groupby("method")[["late", "infeasible_seconds", "proposed"]].mean()
    said = claimed(LESSON, r"after the 20th, (\d+) % break it, against (\d+) % of random ones")
    assert said == list(means.loc[["TPE, told", "random search, filtered"], "late"].round())
    by_seed = limits.pivot(index="seed", columns="method", values="late")
    order = by_seed[["TPE, told", "NSGA-II, told", "random search, filtered", "TPE, filtered"]]
    for half in (order.iloc[:10].mean(), order.iloc[10:].mean()):
        assert half.is_monotonic_increasing and (half > 0).all()
    total, random, tpe = claimed(LESSON, r"have (\d+) seconds together. Random .* (\d+) of them .*, TPE (\d+)\.")
    seconds = means["infeasible_seconds"].round()
    assert [random, tpe, 0] == list(seconds[["random search, filtered", "TPE, told", "TPE, pruned"]])
    assert total == round(40 * SECONDS.mean())
    said = claimed(LESSON, r"TPE comes to (\d+) proposals instead of (\d+)")
    assert said == list(means.loc[["TPE, pruned", "TPE, told"], "proposed"].round())


def test_the_time_that_pruning_saves_lowers_no_error_that_could_be_seen(limits):
    assert "No difference was seen; one of 0.3 or 0.4 points would have been" in lesson_text(LESSON)
    pairs = comparing.paired_differences(limits, "TPE, told", value="expected_error")
    assert (pairs["verdict"] == "no difference").all()
    assert set((100 * pairs["detectable"]).round(1)) == {0.3, 0.4}


def test_the_worst_digit_is_worse_on_test_images_and_the_first_draws_looked_sure(lesson):
    trials = pd.concat([lesson["fair_trials"](seed) for seed in range(30)], ignore_index=True)
    feasible = trials[trials["worst"] <= 0.2]
    chosen = feasible.loc[feasible.groupby("seed")["mean"].idxmin()].set_index("seed")
    free = trials.loc[trials.groupby("seed")["mean"].idxmin()].set_index("seed").loc[chosen.index]
    assert chosen["test worst"].mean() > chosen["worst"].mean() + 0.02
    (fell,) = claimed(LESSON, r"the worst test error fell by ([\d.]+) points")
    assert 100 * (free - chosen)["test worst"].mean() == pytest.approx(fell, abs=0.1)


def test_a_weighted_sum_reaches_the_lower_hull_alone(lesson):
    curves = load_curves()
    curves["total"] = curves.groupby("configuration")["seconds"].cumsum()
    best = lesson["front"](curves)
    errors, seconds = best["valid_error"].to_numpy(), best["total"].to_numpy()
    for error, total in zip(errors, seconds, strict=True):
        assert ((curves["valid_error"] <= error) & (curves["total"] <= total)).sum() == 1, "nothing dominates it"
    corner = [seconds.max(), errors.max()]  # all else that the hull needs lies on the front
    hull = ConvexHull([*zip(seconds, errors, strict=True), corner])
    (printed,) = re.findall(r"some price reaches (\d+)", str(code_cells(LESSON)["weighted"].outputs))
    assert int(printed) == len(hull.vertices) - 1 < len(best)


def test_counting_every_epoch_gains_more_than_any_sampler(lesson):
    assert "once all do so, no multi-objective sampler differs from random search" in lesson_text(LESSON)
    fronts = load_table("lesson_09_fronts").assign(time=0, lost=lambda table: -table["hypervolume"])
    ends, epochs = (fronts[fronts["points"] == points] for points in ("ends", "epochs"))
    pairs = comparing.paired_differences(ends, "TPE", value="lost").set_index("method")["verdict"]
    assert pairs["random search"] == pairs["NSGA-II"] == "worse"
    pairs = comparing.paired_differences(epochs, "random search", value="lost").set_index("method")["verdict"]
    assert pairs["TPE"] == pairs["NSGA-II"] == "no difference"
    assert pairs["univariate TPE + successive halving, error alone"] == "better"
    means = fronts.groupby(["points", "method"])["hypervolume"].mean()
    assert means["epochs"]["random search"] > means["ends"].max(), "more than any sampler"


def test_dividing_by_the_cost_gains_nothing_that_could_be_seen():
    times = SECONDS.mean() * np.array([5, 10, 20])
    found = expected_errors(comparing.at_times(load_table("lesson_09_costs"), times))
    pairs = comparing.paired_differences(found, "expected improvement", value="expected_error")
    assert "No difference was seen" in lesson_text(LESSON) and (pairs["verdict"] == "no difference").all()
    detectable = (100 * pairs[pairs["time"] == times[-1]]["detectable"]).round(1)
    said = claimed(LESSON, r"At 20 trainings, ([\d.]+) to ([\d.]+) points would have been")
    assert said == [detectable.min(), detectable.max()]
    means = found.groupby(["time", "method"])["expected_error"].mean().unstack()
    assert (means.idxmax(axis=1) == "cheap first").all()
    said = claimed(LESSON, r"factor of four, from (\d+) to (\d+) seconds")
    assert said == [SECONDS.min().round(), SECONDS.max().round()]
    cost = load_curves().groupby("n_channels")["seconds"].mean()
    assert "16 channels cost half as much again as 4" in lesson_text(LESSON) and 1.4 < cost[16] / cost[4] < 1.6


def test_the_lesson_and_the_script_that_records_do_the_same(lesson):
    recorded = load_table("lesson_09_limits").set_index(["method", "seed"])["proposals"]
    assert lesson["proposals"](lesson["told"], 9000) == recorded["TPE, told", 9000]
    points = np.array([0.3, 0.05, 0.08]), np.array([0.5, 2.0, 7.0])
    assert lesson["hypervolume"](*points) == SCRIPT["hypervolume"](*points)
    assert lesson["hypervolume"](*points) == pytest.approx(np.log10([3, 6]) @ np.log10([60, 15]))
    pd.testing.assert_frame_equal(lesson["by_pairs"](RandomSampler(9), 9), SCRIPT["by_pairs"](RandomSampler(9), 9))


@pytest.mark.parametrize("name, method", [("limits", "TPE, told"), ("fronts", "NSGA-II"), ("costs", "per second")])
def test_some_recorded_runs_come_out_again(name, method):
    run, _ = SCRIPT["EXPERIMENTS"][name]
    recorded = load_table(f"lesson_09_{name}").query("method == @method and seed == 9007")
    anew = run(method, 9007).round(6)
    pd.testing.assert_frame_equal(anew, recorded[anew.columns].set_axis(anew.index), atol=2e-5, check_dtype=False)
