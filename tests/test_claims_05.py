"""What lesson 05 says of methods in general, computed anew."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from claims import claimed, lesson_text
from scipy.stats import gaussian_kde

from hpo_helpers.datasets import load_curves

CURVES = load_curves("mnist_cnn_81_curves")
ERRORS = CURVES.pivot(index="configuration", columns="epoch", values="valid_error")
TEST_ERROR = CURVES[CURVES["epoch"] == 27].set_index("configuration")["test_error"]
N_DRAWS = 1000


def halve(draw, rungs=(1, 3, 9), reduction_factor=3):
    for rung in rungs:
        draw = ERRORS.loc[draw, rung].sort_values().index[: len(draw) // reduction_factor]
    return TEST_ERROR[draw[0]]


def random_search(draw):
    return TEST_ERROR[ERRORS.loc[draw, 27].idxmin()]


@pytest.fixture(scope="module")
def draws():
    random = np.random.RandomState(0)
    return [random.choice(ERRORS.index, size=27, replace=False) for _ in range(N_DRAWS)]


LESSON, SOLUTIONS = "05_multi_fidelity", "solutions/05_multi_fidelity_solutions"


def test_successive_halving_beats_random_search_at_the_same_number_of_epochs(draws):
    halving = np.array([halve(draw) for draw in draws])
    random = np.array([random_search(draw[:3]) for draw in draws])
    medians = claimed(
        LESSON, r"end at ([\d.]+) % or below with successive halving, and at ([\d.]+) % or below with random search"
    )
    assert medians == [round(100 * np.median(errors), 1) for errors in (halving, random)]
    shares = claimed(LESSON, r"In (\d+) of 100 draws successive halving finds the better .* in (\d+) they tie")
    assert shares == [round(100 * np.mean(halving < random)), round(100 * np.mean(halving == random))]
    # The margin: better in at least two thirds of the draws that do not tie, on any half of the draws.
    for half in (slice(0, N_DRAWS // 2), slice(N_DRAWS // 2, None)):
        decided = halving[half] != random[half]
        assert np.mean(halving[half][decided] < random[half][decided]) > 2 / 3


def test_one_epoch_ranks_nearly_as_27_do():
    (rank_correlation,) = claimed(LESSON, r"after one epoch \(a rank correlation of ([\d.]+)\)")
    assert rank_correlation == ERRORS[[1, 27]].corr(method="spearman").loc[1, 27].round(2)


def test_curves_that_start_badly_end_in_the_worse_half():
    sentence = r"of the (\d+) curves that are above 80 % after one epoch, (\d+) end in the worse half"
    bad, worse = claimed(LESSON, sentence)
    start_badly = ERRORS.index[ERRORS[1] > 0.8]
    assert [bad, worse] == [len(start_badly), (ERRORS.loc[start_badly, 27] > ERRORS[27].median()).sum()]


def test_curves_that_start_well_diverge_later():
    n_curves, before, after = claimed(LESSON, r"as (\d+) of the curves above do: below (\d+) % .* above (\d+) %")
    assert n_curves == ((ERRORS[1] < before / 100) & (ERRORS[27] > after / 100)).sum()


def test_the_good_learning_rates_lie_where_the_figure_shows_them():
    low, high = claimed(LESSON, r"lies above the dashed one of the others between ([\d.]+) and ([\d.]+),")
    settings = CURVES.drop_duplicates("configuration").set_index("configuration")
    rate = np.log10(settings["learning_rate"])
    good = ERRORS[3] <= ERRORS[3].quantile(0.2)
    grid = np.linspace(-3, 0, 301)
    above = 10 ** grid[gaussian_kde(rate[good])(grid) > gaussian_kde(rate[~good])(grid)]
    assert [low, high] == [float(f"{edge:.1g}") for edge in (above.min(), above.max())]


def test_the_brackets_cost_about_the_same():
    lowest, highest = claimed(LESSON, r"cost about the same, here between (\d+) and (\d+) epochs")
    costs = [cost(27, (1, 3, 9, 27)), cost(12, (3, 9, 27)), cost(6, (9, 27)), cost(4, (27,))]
    assert [lowest, highest] == [min(costs), max(costs)]


def cost(n_started, rungs):
    """Return the epochs of a bracket in which a third goes on from each rung."""
    steps = np.diff((0, *rungs))
    return sum(n_started // 3**number * step for number, step in enumerate(steps))


def test_the_noise_of_a_small_test_part_is_what_the_lesson_says():
    error, noise = claimed(LESSON, r"at an error of (\d+) %, that alone is worth another ([\d.]+) % either way")
    share = error / 100
    assert noise == round(100 * np.sqrt(share * (1 - share) / 1000), 1)


def test_a_smaller_reduction_factor_is_a_little_more_careful(draws):
    quartiles = claimed(SOLUTIONS, r"upper quartile is ([\d.]+) % with the factor 2 and ([\d.]+) % with the factor 3")
    found = [[halve(draw[:24], (1, 2, 4, 8), 2) for draw in draws], [halve(draw) for draw in draws]]
    assert quartiles == [round(100 * np.quantile(errors, 0.75), 1) for errors in found]


def test_pruners_save_most_epochs_and_find_as_good_a_configuration():
    saved, error = claimed(SOLUTIONS, r"saves ([\d.]+) % of the epochs, .* the same median test error, ([\d.]+) %")
    pruners = {
        "none": optuna.pruners.NopPruner(),
        "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        "median": optuna.pruners.MedianPruner(n_startup_trials=5),
        "hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3),
    }
    epochs, errors = {}, {}
    for name, pruner in pruners.items():
        orders = [np.random.RandomState(seed).permutation(ERRORS.index) for seed in range(20)]
        played = [play(pruner, order, f"order-{seed}") for seed, order in enumerate(orders)]
        epochs[name], errors[name] = np.median(played, axis=0)
    assert saved == round(100 * (1 - epochs["halving"] / epochs["none"]))
    assert error == round(100 * errors["none"], 1) == round(100 * errors["halving"], 1)
    assert "The median pruner and Hyperband save about two thirds" in lesson_text(SOLUTIONS)
    assert all(abs(1 - epochs[name] / epochs["none"] - 2 / 3) < 0.05 for name in ("median", "hyperband"))


def play(pruner, order, name):
    """Return the epochs that a pruner lets pass, and the test error of the incumbent's configuration."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=name, pruner=pruner)
    n_epochs, best = 0, (1.0, None)
    for configuration in order:
        trial = study.ask()
        for epoch, error in ERRORS.loc[configuration].items():
            n_epochs += 1
            best = min(best, (error, configuration))
            trial.report(error, epoch)
            if trial.should_prune():
                break
        study.tell(trial, error)
    return n_epochs, TEST_ERROR[best[1]]
