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
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from hpo_helpers import comparing
from hpo_helpers.curves import NoisyCurves, expected_errors
from hpo_helpers.datasets import load_curves, load_table
from hpo_helpers.gaussian_process import GaussianProcess, expected_improvement
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN, from_unit_cube, to_unit_cube
from hpo_helpers.tuning import tune

LESSON, SOLUTIONS = "09_constraints_and_cost", "solutions/09_constraints_and_cost_solutions"
#: What the lesson's functions use; `lesson` adds them.
USED = [IntDistribution, NopPruner, BaseSampler, RandomSampler, TPESampler, TrialState, SVC, NoisyCurves, tune]
USED += [GaussianProcess, expected_improvement, ReplayLauncher, from_unit_cube, to_unit_cube, comparing.reports]
SECONDS = load_curves().groupby("configuration")["seconds"].sum()


@pytest.fixture(scope="module")
def lesson():
    """Return the functions and classes that the lesson writes out, as they stand in its cells."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = {used.__name__: used for used in USED} | {"np": np, "pd": pd, "optuna": optuna, "comparing": comparing}
    names |= {"MNIST_CNN": MNIST_CNN, "TRAINING": SECONDS.mean()}
    names["digits"], names["labels"] = load_digits(return_X_y=True)
    define(LESSON, names)
    return names


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(NOTEBOOKS.parent / "data" / "record_lesson_09.py"))


def test_a_constraint_is_met_at_0_or_less(lesson, script):
    counted = {4: 18_714, 8: 37_610, 16: 80_202}  # as lesson 01 counts, whose test asks the network
    for n_channels, n_parameters in counted.items():
        assert lesson["excess"](n_channels) == script["excess"](n_channels) == n_parameters - 40_000
    assert "a number that must be **0 or less**" in lesson_text(LESSON) and "Up to 8 channels" in lesson_text(LESSON)
    assert lesson["excess"](8) <= 0 < lesson["excess"](9)
    (random,) = claimed(LESSON, r"Of 100 random proposals, (\d+) break this limit")
    sampler = RandomSampler(0)
    drawn = [sampler.sample_independent(None, None, "n", MNIST_CNN["n_channels"]) for _ in range(4000)]
    assert 100 * np.mean(np.array(drawn) > 8) == pytest.approx(random, abs=2)


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
    for half in (order.iloc[:10], order.iloc[10:]):
        assert half.mean().is_monotonic_increasing and (half.mean() > 0).all()
    total, random, tpe = claimed(LESSON, r"have (\d+) seconds together. Random search loses (\d+) .*, TPE (\d+)\.")
    seconds = means["infeasible_seconds"].round()
    assert [random, tpe] == list(seconds[["random search, filtered", "TPE, told"]])
    assert total == round(40 * SECONDS.mean()) and seconds["TPE, pruned"] == seconds["random search, pruned"] == 0
    said = claimed(LESSON, r"TPE comes to (\d+) proposals instead of (\d+)")
    assert said == list(means.loc[["TPE, pruned", "TPE, told"], "proposed"].round())


def test_the_time_that_pruning_saves_lowers_no_error_that_could_be_seen(limits):
    assert "No difference was seen; one of 0.3 or 0.4 points would have been" in lesson_text(LESSON)
    pairs = comparing.paired_differences(limits, "TPE, told", value="expected_error")
    assert (pairs["verdict"] == "no difference").all()
    assert set((100 * pairs["detectable"]).round(1)) == {0.3, 0.4}


def test_a_limit_on_the_worst_digit_lowers_its_error_and_raises_the_mean(lesson):
    """As the lesson says of 30 draws; here over eight others, whose means go the same way."""
    trials = pd.concat([lesson["fair_trials"](seed) for seed in range(200, 208)], ignore_index=True)
    feasible = trials[trials["worst"] <= 0.2]
    chosen = feasible.loc[feasible.groupby("seed")["mean"].idxmin()].set_index("seed")
    free = trials.loc[trials.groupby("seed")["mean"].idxmin()].set_index("seed").loc[chosen.index]
    assert (chosen["test worst"] - free["test worst"]).mean() < 0 < (chosen["test mean"] - free["test mean"]).mean()
    assert chosen["test worst"].mean() > chosen["worst"].mean(), "the worst of ten, chosen, is optimistic"


def test_a_weighted_sum_reaches_the_lower_hull_alone(lesson):
    curves = load_curves()
    curves["total"] = curves.groupby("configuration")["seconds"].cumsum()
    best = lesson["front"](curves)
    errors, seconds = best["valid_error"].to_numpy(), best["total"].to_numpy()
    others = [(curves["valid_error"] <= e) & (curves["total"] <= s) for e, s in zip(errors, seconds, strict=True)]
    assert all(is_as_good.sum() == 1 for is_as_good in others), "nothing dominates them"
    hull = [i for i in range(len(best)) if not _above_a_line(i, seconds, errors)]
    (printed,) = re.findall(r"some price reaches (\d+)", str(code_cells(LESSON)["weighted"].outputs))
    assert int(printed) == len(hull) < len(best)


def _above_a_line(i, x, y):
    """Whether a point lies above a straight line between one to its left and one to its right."""
    pairs = [(j, k) for j in range(i) for k in range(i + 1, len(x))]
    return any(y[i] > y[j] + (y[k] - y[j]) * (x[i] - x[j]) / (x[k] - x[j]) for j, k in pairs)


def test_counting_every_epoch_gains_more_than_any_sampler(lesson):
    text = lesson_text(LESSON)
    assert "once all do so, no multi-objective sampler differs from random search" in text
    assert "a search for error alone that stops early is better" in text
    fronts = load_table("lesson_09_fronts").assign(time=0, lost=lambda table: -table["hypervolume"])
    ends, epochs = (fronts[fronts["points"] == points] for points in ("ends", "epochs"))
    pairs = comparing.paired_differences(ends, "TPE", value="lost").set_index("method")["verdict"]
    assert pairs["random search"] == pairs["NSGA-II"] == "worse"
    pairs = comparing.paired_differences(epochs, "random search", value="lost").set_index("method")["verdict"]
    assert pairs["TPE"] == pairs["NSGA-II"] == "no difference"
    assert pairs["univariate TPE + successive halving, error alone"] == "better"
    means = fronts.groupby(["points", "method"])["hypervolume"].mean()
    assert means["epochs"]["random search"] > means["ends"].max(), "more than any sampler"


@pytest.mark.parametrize("name, method", [("limits", "TPE, told"), ("fronts", "NSGA-II"), ("costs", "random search")])
def test_some_recorded_runs_come_out_again(script, name, method):
    run, _ = script["EXPERIMENTS"][name]
    recorded = load_table(f"lesson_09_{name}").query("method == @method and seed == 9007")
    anew = run(method, 9007).round(6).reset_index(drop=True)
    pd.testing.assert_frame_equal(anew, recorded[anew.columns].reset_index(drop=True), atol=2e-5, check_dtype=False)
