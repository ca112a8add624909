"""What lesson 06 says of methods in general, computed anew."""

import pytest
from claims import claimed, lesson_code, lesson_text
from notebook_files import NOTEBOOKS
from scipy.stats import wilcoxon

from hpo_helpers import comparing
from hpo_helpers.datasets import load_curves, load_table

COMPARING, SOLUTIONS_06 = "06_comparing_methods", "solutions/06_comparing_methods_solutions"
RECOMMENDED = "univariate TPE + successive halving, default first"


@pytest.fixture(scope="module")
def verdicts():
    """The lesson's last table: for each budget and method, whether it differs from the recommended one."""
    seconds = load_curves().groupby("configuration")["seconds"].sum().mean()
    budgets = {trainings * seconds / 4: trainings for trainings in (5, 10, 20, 60)}
    table = comparing.at_times(load_table("method_comparison").query("setting == 'cnn'"), budgets)
    pairs = comparing.paired_differences(table, RECOMMENDED)
    pairs["trainings"] = pairs["time"].map(budgets)
    return pairs.pivot(index="trainings", columns="method", values="verdict")


def test_the_recommended_method_is_better_at_the_smallest_and_the_largest_budget(verdicts):
    text = lesson_text(COMPARING)
    assert "It holds for all others at 5 trainings, for none at 10 and 20, and for five of six at 60" in text
    assert (verdicts.loc[5] == "worse").all()
    assert (verdicts.loc[[10, 20]] == "no difference").all(axis=None)
    assert (verdicts.loc[60] == "worse").sum() == 5
    assert verdicts.loc[60, "univariate TPE + successive halving"] == "no difference"


def test_single_trainings_of_the_best_configuration_are_far_apart():
    noise = load_curves("mnist_cnn_noise").query("epoch == 27")
    configuration = comparing.best_configuration(noise)["configuration"]
    best = noise[noise["configuration"] == configuration]["valid_error"]
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


SETTINGS = {  # recording, workers
    "cnn": ("mnist_cnn_curves", 4),
    "mlp": ("mnist_mlp_curves", 4),
    "cnn, 16 workers": ("mnist_cnn_curves", 16),
}


def better_than_random_search(setting, trainings):
    """Return the methods that beat random search in a setting, by the test that the lesson explains."""
    recording, n_workers = SETTINGS[setting]
    seconds = load_curves(recording).groupby("configuration")["seconds"].sum().mean()
    runs = load_table("method_comparison").query("setting == @setting")
    pairs = comparing.paired_differences(comparing.at_times(runs, [trainings * seconds / n_workers]), "random search")
    return set(pairs.loc[pairs["verdict"] == "better", "method"])


def test_the_marks_of_the_fresh_table_are_what_the_lesson_says_of_them():
    text = lesson_text(COMPARING)
    assert "The method that trains a default first has two marks of three" in text
    assert "With 16 workers, in a quarter of the time, none has a mark" in text
    marked = [better_than_random_search(setting, 60) for setting in SETTINGS]
    assert [RECOMMENDED in methods for methods in marked] == [True, True, False]
    assert marked[0] == {RECOMMENDED} and marked[2] == set()


def test_scheduling_is_what_helps_on_the_other_network():
    (n_methods,) = claimed(COMPARING, r"after 20 trainings all (\d) methods that schedule are better than")
    schedules = {m for m in load_table("method_comparison")["method"] if "halving" in m or "Hyperband" in m}
    assert better_than_random_search("mlp", 20) == schedules and len(schedules) == n_methods
    assert not {"TPE", "CMA-ES", "random search + successive halving"} & better_than_random_search("cnn", 60)


def test_every_setting_has_the_seeds_that_the_lesson_says():
    (n_seeds,) = claimed(COMPARING, r"with 16 workers, over (\d+) seeds each")
    seeds = load_table("method_comparison").groupby(["setting", "method"])["seed"].nunique().unstack()
    assert (seeds.loc[["mlp", "cnn, 16 workers"]] == n_seeds).all(axis=None)


def test_the_choices_are_the_settings_in_the_code_that_made_the_comparison():
    """Halving has a first rung and a factor, Hyperband also a last rung; one more is each of the others."""
    source = (NOTEBOOKS.parent / "benchmarks" / "methods.py").read_text(encoding="utf-8")
    assert "SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)" in source
    assert "HyperbandPruner(1, EPOCHS, 3)" in source
    assert 'words = {"halving": 2, "Hyperband": 3, "univariate": 1, "default": 1}' in lesson_code(COMPARING)
