"""What lesson 01 says of tuning in general, computed anew."""

import functools

import numpy as np
import pandas as pd
import pytest
from claims import claimed, lesson_text
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.svm import SVC

from hpo_helpers.comparing import at_times, summarise
from hpo_helpers.datasets import load_curves

LESSON, SOLUTIONS = "01_problem_definition", "solutions/01_problem_definition_solutions"
CURVES = load_curves()
CURVES["cost"] = CURVES.groupby("configuration")["seconds"].cumsum()
ENDS = CURVES[CURVES["epoch"] == 27].set_index("configuration")
NOISE = load_curves("mnist_cnn_noise").query("epoch == 27")


def test_the_network_has_as_many_parameters_as_the_lesson_counts():
    from hpo_helpers.train_mnist import build_network

    counted = {channels: count_parameters(build_network(n_channels=channels)) for channels in (4, 8, 16)}
    assert f"decide what becomes of up to {counted[16]:,} others" in lesson_text(LESSON)
    few = f"4 channels: they make {counted[4]:,}, and 8 channels make {counted[8]:,}"
    assert few in lesson_text(SOLUTIONS)


def count_parameters(network):
    network.initialize()
    return sum(np.prod(parameter.shape) for parameter in network.collect_params().values())


def test_more_momentum_wants_a_lower_learning_rate():
    (combinations,) = claimed(LESSON, r"in all (\d+) combinations of the other three")
    with_much, without = claimed(LESSON, r"best learning rates are about ([\d.]+) and ([\d.]+\d)")
    lowest, highest = best_rates().min(), best_rates().max()  # several rates may share the lowest error
    assert len(lowest.unstack()) == combinations
    assert (highest.unstack()[0.95] < lowest.unstack()[0.0]).all()
    for rates in (lowest.unstack(), highest.unstack()):
        assert [with_much, without] == pytest.approx([rates[0.95].median(), rates[0.0].median()], rel=0.3)


def best_rates():
    others = ["batch_size", "n_channels", "dropout", "momentum"]
    is_best = ENDS["valid_error"] == ENDS.groupby(others)["valid_error"].transform("min")
    return ENDS[is_best].groupby(others)["learning_rate"]


def test_a_training_costs_what_the_lesson_says():
    (ratio,) = claimed(LESSON, r"corner costs ([\d.]+) times as much as the cheapest")
    cost = ENDS.groupby(["batch_size", "n_channels"])["cost"].mean()
    assert ratio == round(cost.max() / cost.min(), 1)
    assert "nearly three hours" in lesson_text(LESSON) and "would make it eleven" in lesson_text(LESSON)
    hours = ENDS["cost"].sum() / 3600
    assert 2.75 < hours < 3 and round(4 * hours) == 11
    assert ENDS[ENDS["n_channels"] == 16]["cost"].min() > 8, "no network with 16 channels lies there"


def test_one_configuration_gives_many_errors():
    said = claimed(LESSON, r"configuration end between ([\d.]+) % and ([\d.]+) %.* deviation of ([\d.]+) p")
    errors = 100 * NOISE[NOISE["configuration"] == 677]["valid_error"]
    assert said == pytest.approx([errors.min(), errors.max(), errors.std()], abs=0.005)
    assert len(errors) == 20


def optimistic_bias(n_trainings, n_draws, errors, random):
    """Return by how much the lowest of some errors is too low, as the lesson computes it."""
    draws = []
    for _ in range(n_draws):
        drawn = errors[random.choice(len(errors), n_trainings, replace=False)]
        validates, tests = random.permutation(2)
        chosen = drawn[:, validates].argmin()
        draws.append(drawn[chosen, tests] - drawn[chosen, validates])
    return 100 * np.mean(draws)


def test_the_validation_error_of_the_best_of_100_is_too_low():
    said = claimed(LESSON, r"is ([\d.]+) percentage points too low on average")
    errors = ENDS[["valid_error", "test_error"]].to_numpy()
    fresh = [optimistic_bias(100, 500, errors, np.random.RandomState(seed)) for seed in range(1, 5)]
    assert said == pytest.approx([np.mean(fresh)], abs=0.05)
    # The margin: more than 0.4 points in each of four new sets of draws, and next to nothing of one training.
    assert min(fresh) > 0.4
    assert abs(optimistic_bias(1, 4000, errors, np.random.RandomState(1))) < 0.1
    (meet,) = claimed(LESSON, r"the lines meet at ([\d.]+) %, since a quarter of the trainings diverge")
    assert meet == pytest.approx(100 * errors.mean(), abs=2.5)  # two standard errors of 1,000 draws
    assert (errors > 0.8).mean() == pytest.approx(0.25, abs=0.01)


def test_five_folds_estimate_better_than_a_few_images_held_back():
    said = claimed(LESSON, r"is off by ([\d.]+) percentage points on average, with 5 folds by ([\d.]+\d),")
    images, labels = load_digits(return_X_y=True)
    model = SVC(gamma=0.001)
    deviations = []
    for seed in range(50):
        few, others, y_few, y_others = train_test_split(
            images, labels, train_size=100, stratify=labels, random_state=seed
        )
        part, rest, y_part, y_rest = train_test_split(few, y_few, test_size=20, random_state=seed)
        actual = model.fit(few, y_few).score(others, y_others)
        by_folds = cross_val_score(model, few, y_few, cv=5).mean()
        deviations.append([model.fit(part, y_part).score(rest, y_rest) - actual, by_folds - actual])
    deviations = 100 * np.abs(deviations)
    assert said == [round(mean, 1) for mean in deviations.mean(axis=0)]
    # The margin: less than half, on either half of the draws.
    assert all(half[:, 1].mean() < half[:, 0].mean() / 2 for half in (deviations[:25], deviations[25:]))


def test_limits_cost_what_the_lesson_says():
    said = claimed(LESSON, r"test error from ([\d.]+) % to ([\d.]+) %, that of 8 seconds to ([\d.]+) %")
    is_small, is_quick = ENDS["n_channels"] <= 8, ENDS["cost"] < 8
    found = [median_of_choices(ENDS["cost"] > 0), median_of_choices(is_small), median_of_choices(is_quick)]
    assert said == [round(median, 1) for median in found]
    # The margin: the same order over as many other draws.
    again = [median_of_choices(is_met, first_seed=1000) for is_met in (ENDS["cost"] > 0, is_small, is_quick)]
    assert again[0] < again[1] < again[2]


def test_both_limits_cost_what_the_solution_says():
    sentence = r"cost ([\d.]+) percentage points .*: ([\d.]+) % instead of ([\d.]+) %"
    difference, both, none = claimed(SOLUTIONS, sentence)
    limits = (ENDS["n_channels"] == 4) & (ENDS["cost"] < 8)
    found = [median_of_choices(limits), median_of_choices(ENDS["cost"] > 0)]
    assert [both, none] == [round(median, 1) for median in found]
    assert difference == round(both - none, 1)


def median_of_choices(is_met, first_seed=0):
    """Return the median test error, in per cent, of 1,000 choices of one of 100."""
    valid_error = ENDS["valid_error"].where(is_met, 1.0).to_numpy()
    chosen = [drawn[valid_error[drawn].argmin()] for drawn in draws(first_seed)]
    return 100 * ENDS["test_error"].iloc[chosen].median()


@functools.cache
def draws(first_seed):
    """Draw rows as `DataFrame.sample` does."""
    seeds = range(first_seed, first_seed + 1000)
    return [np.random.RandomState(seed).choice(len(ENDS), 100, replace=False) for seed in seeds]


def test_which_length_of_training_is_ahead_depends_on_when_one_stops():
    said = claimed(
        LESSON,
        r"(?s)After (5) seconds .* test error of ([\d.]+) %; after (20) seconds those of 9 epochs, "
        r"with ([\d.]+) %; after (100) seconds the full ones, with ([\d.]+) %",
    )
    medians = anytime_medians(range(100), [5, 20, 100])
    ahead = [medians[time].idxmin() for time in (5, 20, 100)]
    assert ahead == [3, 9, 27]
    assert said[1::2] == [round(100 * medians.loc[name, time], 1) for name, time in zip(ahead, (5, 20, 100))]
    # The margin: the same order over 100 other seeds.
    others = anytime_medians(range(100, 200), [5, 20, 100])
    assert [others[time].idxmin() for time in (5, 20, 100)] == ahead


def anytime_medians(seeds, times):
    """Return the incumbent's median test error: a row for each length of training, a column a time."""
    runs = []
    for epochs in (3, 9, 27):
        stopped = CURVES[CURVES["epoch"] == epochs]
        for seed in seeds:
            trained = stopped.sample(300, random_state=seed)
            trained = trained.assign(time=trained["cost"].cumsum(), seed=seed, method=epochs)
            runs.append(trained[trained["valid_error"] < trained["valid_error"].cummin().shift(fill_value=1)])
    summary = summarise(at_times(pd.concat(runs), times))
    return summary.pivot(index="method", columns="time", values="median")


def test_averaging_over_seeds_makes_the_bias_smaller():
    said = claimed(
        SOLUTIONS,
        r"optimistic bias is ([\d.]+) percentage points, with the mean over three it is ([\d.]+), "
        r"over ten ([\d.]+\d)",
    )
    errors = NOISE.pivot(index="configuration", columns="seed", values="valid_error").to_numpy()
    found = [seed_bias(errors, n_seeds, np.random.RandomState(n_seeds)) for n_seeds in (1, 3, 10)]
    assert said == pytest.approx(found, abs=0.05)
    assert found[0] > 1.5 * found[1] > 1.5 * 1.5 * found[2]


def seed_bias(errors, n_seeds, random, n_draws=4000):
    draws = []
    for _ in range(n_draws):
        mixed = errors[:, random.permutation(errors.shape[1])]
        means = mixed[:, :n_seeds].mean(axis=1)
        chosen = means.argmin()
        draws.append(mixed[chosen, n_seeds:].mean() - means[chosen])
    return 100 * np.mean(draws)
