"""What lesson 06 says of methods in general, computed anew."""

from __future__ import annotations

import pytest
from claims import claimed, lesson_text
from notebook_files import NOTEBOOKS
from scipy.stats import wilcoxon

from hpo_helpers import comparing
from hpo_helpers.datasets import load_curves, load_table

COMPARING, SOLUTIONS_06 = "06_comparing_methods", "solutions/06_comparing_methods_solutions"
RECOMMENDED = "univariate TPE + successive halving, default first"


@pytest.fixture(scope="module")
def verdicts():
    """What the lesson's last table says: for each budget and method, whether it differs from the recommended one."""
    seconds = load_curves().groupby("configuration")["seconds"].sum().mean()
    budgets = {trainings * seconds / 4: trainings for trainings in (5, 10, 20, 60)}
    table = comparing.at_times(load_table("method_comparison").query("setting == 'cnn'"), budgets)
    pairs = comparing.paired_differences(table, RECOMMENDED)
    return pairs.assign(trainings=pairs["time"].map(budgets)).set_index(["trainings", "method"])["verdict"].unstack()


def test_the_recommended_method_is_better_at_the_smallest_and_the_largest_budget(verdicts):
    text = lesson_text(COMPARING)
    assert "It holds for all others at 5 trainings, for none at 10 and 20, and for five of six at 60" in text
    assert (verdicts.loc[5] == "worse").all()
    assert (verdicts.loc[[10, 20]] == "no difference").all(axis=None)
    assert (verdicts.loc[60] == "worse").sum() == 5
    assert verdicts.loc[60, "univariate TPE + successive halving"] == "no difference"


def test_single_trainings_of_the_best_configuration_are_far_apart():
    noise = load_curves("mnist_cnn_noise").query("epoch == 27")
    best = noise[noise["configuration"] == comparing.best_configuration(noise)["configuration"]]["valid_error"]
    said = claimed(COMPARING, r"may show anything from ([\d.]+) % to ([\d.]+) %")
    assert said == pytest.approx([100 * best.min(), 100 * best.max()])


def test_the_lesson_says_of_the_replay_what_the_datasheet_says():
    (said,) = claimed(COMPARING, r"is off by (\d+) % of the error in the median")
    datasheet = (NOTEBOOKS.parent / "data" / "README.md").read_text(encoding="utf-8")
    assert f"| linear | 27 | {said:.0f}% |" in datasheet


def test_few_seeds_miss_a_difference_that_many_find():
    """As in the solution: 5 pairs can never give a p-value below 0.05, and 40 give it more often than 10."""
    assert wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]).pvalue == pytest.approx(0.0625)
    assert claimed(SOLUTIONS_06, r"smallest p-value that five pairs allow is ([\d.]+\d)") == [0.06]
