"""What lesson 02 says of search spaces in general, computed anew."""

import functools

import numpy as np
import optuna
import pandas as pd
import pytest
from claims import claimed, drawn, follows_a_model, lesson_text, noisy_ends
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler, TPESampler

from hpo_helpers.curves import RecordedCurves
from hpo_helpers.datasets import load_curves
from hpo_helpers.spaces import MNIST_CNN, XGBOOST, from_unit_cube, to_unit_cube

LESSON, SOLUTIONS = "02_search_spaces", "solutions/02_search_spaces_solutions"
DEFAULT = {"learning_rate": 0.1, "momentum": 0.5, "batch_size": 64, "n_channels": 16, "dropout": 0.5}
#: The lesson's seeds, and others on which what it says must hold too.
SEEDS, OTHER_SEEDS = range(100), range(2000, 2100)

RATES = {
    "linear": FloatDistribution(0.001, 1),
    "wide": MNIST_CNN["learning_rate"],
    "narrow": FloatDistribution(0.001, 0.01, log=True),
    "fitting": FloatDistribution(0.01, 0.2, log=True),
    "as wide as the effective rate": FloatDistribution(0.005, 0.25, log=True),
    "effective": FloatDistribution(0.02, 1, log=True),
}


def effective(params, random):
    return params | {"learning_rate": params["learning_rate"] * (1 - params["momentum"])}


def prior(mean):
    def change(params, random):
        place = np.clip(random.normal(mean, 0.15), 0, 1)
        return params | from_unit_cube({"learning_rate": RATES["wide"]}, {"learning_rate": place})

    return change


@functools.cache
def searched(rate="wide", size=MNIST_CNN["batch_size"], change=None, first=False, seeds=SEEDS):
    """Return every trial of ten a seed: configuration, validation error and test error."""
    space = {**MNIST_CNN, "learning_rate": RATES[rate], "batch_size": size}
    rows = []
    for seed in seeds:
        sampler, random = RandomSampler(seed), np.random.default_rng(seed)
        for number in range(1, 11):
            params = dict(DEFAULT) if first and number == 1 else drawn(sampler, space)
            params = change(params, random) if change else params
            rows.append({"seed": seed, "trial": number, **params})
    trials = pd.DataFrame(rows)
    found = noisy_ends(trials[list(MNIST_CNN)].to_dict("records"), trials["seed"])
    return trials.join(pd.DataFrame(found))


def after(table, n_trials):
    """Return the median, over the seeds, of the test error in % of the best of the first trials."""
    tried = table[table["trial"] <= n_trials]
    best = tried.loc[tried.groupby("seed")["valid_error"].idxmin()]
    return 100 * best["test_error"].median()


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_the_valley_has_the_edges_that_the_lesson_names():
    ends = load_curves().query("epoch == 27 and batch_size == 45")
    ends = ends.assign(log_error=np.log(ends["valid_error"]))
    errors = np.exp(ends.pivot_table("log_error", "momentum", "learning_rate", aggfunc="mean"))
    low, *edges = claimed(
        LESSON, r"below (\d+) %: from ([\d.]+) to ([\d.]+) without momentum, from ([\d.]+) to ([\d.]+) with a mom"
    )
    for momentum, said in ((0, edges[:2]), (0.95, edges[2:])):
        good = errors.columns[errors.loc[momentum] < low / 100]
        assert said == [round(edge, 3) for edge in (good.min(), good.max())]


def test_the_linear_scale_is_worse():
    numbers = claimed(
        LESSON,
        r"After 5 trials the linear scale stands at ([\d.]+) %, the logarithmic one at ([\d.]+) %. "
        r"Of all trainings, (\d+) % diverge on the linear scale and (\d+) % on the logarithmic one",
    )
    tables = [searched("linear"), searched("wide")]
    diverged = [round(100 * (table["valid_error"] > 0.8).mean()) for table in tables]
    assert numbers == [*(round(after(table, 5), 2) for table in tables), *diverged]
    # The margin: on other seeds a third of a percentage point, and three times as many that diverge.
    linear, wide = (searched(rate, seeds=OTHER_SEEDS) for rate in ("linear", "wide"))
    assert after(linear, 5) > after(wide, 5) + 1 / 3
    assert (linear["valid_error"] > 0.8).mean() > 3 * (wide["valid_error"] > 0.8).mean()


def test_too_narrow_costs_more_than_too_wide():
    numbers = claimed(LESSON, r"this range stands at ([\d.]+) %, the wide one at ([\d.]+) %")
    assert numbers == [round(after(searched(rate), 10), 2) for rate in ("narrow", "wide")]
    (n_trials,) = claimed(LESSON, r"this range has after 10 trials what the fitting one has after (\d+)")
    fitting = [after(searched("fitting"), n) for n in range(1, 11)]
    assert n_trials == 1 + np.argmax(np.array(fitting) <= after(searched("wide"), 10))
    # The margin on other seeds: a fifth of a point, and half the trials.
    found = {rate: searched(rate, seeds=OTHER_SEEDS) for rate in ("narrow", "wide", "fitting")}
    assert after(found["narrow"], 10) > after(found["wide"], 10) + 0.2
    assert after(found["fitting"], 5) < after(found["wide"], 10)


def test_winners_lie_at_the_edge_of_a_bad_range():
    sentences = r"linear scale (\d+) of 100 crowd .* In the narrow range (\d+) lie in the highest"
    lowest, highest = claimed(LESSON, sentences)
    assert lowest == (places("linear") < 0.25).sum()
    assert highest == (places("narrow") >= 0.75).sum()
    for rate in ("wide", "fitting"):
        assert np.mean((places(rate) >= 0.25) & (places(rate) < 0.75)) > 0.5


def places(rate):
    """Return where the learning rates of the winners lie in their range."""
    table, space = searched(rate), {"learning_rate": RATES[rate]}
    winners = table.loc[table.groupby("seed")["valid_error"].idxmin(), "learning_rate"]
    return np.array([to_unit_cube(space, {"learning_rate": winner})["learning_rate"] for winner in winners])


@follows_a_model
def test_tpe_may_drop_a_category_after_a_bad_start():
    """Under the seeds of which it is said, nearly all trials go to the network that is not the better one."""
    n_seeds, dropped = claimed(LESSON, r"Of (\d+) seeds, (\d+) end so")
    shared = {name: distribution for name, distribution in MNIST_CNN.items() if name != "n_channels"}
    curves = {"cnn": RecordedCurves(), "mlp": RecordedCurves(load_curves("mnist_mlp_curves"), shared)}

    def objective(trial):
        network = trial.suggest_categorical("network", ["cnn", "mlp"])
        params = {
            "learning_rate": trial.suggest_float("learning_rate", 0.001, 1, log=True),
            "momentum": trial.suggest_float("momentum", 0, 0.95),
            "batch_size": trial.suggest_int("batch_size", 16, 128, log=True),
            "dropout": trial.suggest_float("dropout", 0, 0.5),
        }
        if network == "cnn":
            params["n_channels"] = trial.suggest_int("n_channels", 4, 16, log=True)
        return curves[network](params)[-1]["valid_error"]

    def trials_of_the_cnn(seed, n_enqueued=0):
        study = optuna.create_study(sampler=TPESampler(seed=seed))
        for network in n_enqueued * ["cnn", "mlp"]:
            study.enqueue_trial({"network": network})
        study.optimize(objective, n_trials=40)
        return sum(trial.params["network"] == "cnn" for trial in study.trials)

    counts = {seed: trials_of_the_cnn(seed) for seed in range(int(n_seeds))}
    unlucky = [seed for seed, count in counts.items() if count == 1]
    assert len(unlucky) == dropped
    assert all(count > 20 for seed, count in counts.items() if seed not in unlucky)
    assert "after five trials of each, by `enqueue_trial`, neither of the two does" in lesson_text(LESSON)
    assert all(trials_of_the_cnn(seed, n_enqueued=5) > 20 for seed in unlucky)


def test_the_cnn_is_the_better_network():
    tables = [load_curves(name).query("epoch == 27") for name in ("mnist_cnn_curves", "mnist_mlp_curves")]
    lowest = [table["valid_error"].min() for table in tables]
    assert claimed(LESSON, r"lowest error after 27 epochs is ([\d.]+) %, the MLP's ([\d.]+) %") == [
        round(100 * error, 1) for error in lowest
    ]


def test_the_grid_takes_as_long_as_the_lesson_says():
    (years,) = claimed(LESSON, r"Four months, and (\d+) years with five values each")
    minutes_a_year = 60 * 24 * 365
    assert years == round(5 ** len(XGBOOST) / minutes_a_year)
    assert 12 * 3 ** len(XGBOOST) / minutes_a_year == pytest.approx(4, abs=0.1)


def test_the_default_alone_is_as_good_as_ten_random_trials():
    numbers = claimed(LESSON, r"The default alone has ([\d.]+) %, ten random trials come to ([\d.]+) %")
    assert numbers == [round(after(searched(first=True), 1), 2), round(after(searched(), 10), 2)]
    # The margin: on other seeds it is still ahead of five random trials.
    found = [end["test_error"] for end in noisy_ends([DEFAULT] * len(OTHER_SEEDS), OTHER_SEEDS)]
    assert 100 * np.median(found) < after(searched(seeds=OTHER_SEEDS), 5)


def test_the_scale_of_the_batch_size_hardly_matters():
    numbers = claimed(SOLUTIONS, r"the three stand at ([\d.]+) %, ([\d.]+) % and ([\d.]+) %")
    whole = [IntDistribution(16, 128, log=log) for log in (True, False)]
    sizes = (*whole, CategoricalDistribution([16, 32, 64, 128]))
    assert numbers == [round(after(searched(size=size), 10), 2) for size in sizes]
    assert max(numbers) - min(numbers) < 0.1


def test_a_prior_helps_or_harms():
    sentence = r"good prior has ([\d.]+) %, .* have ([\d.]+) %. .* it has ([\d.]+) %"
    good, none, bad = claimed(SOLUTIONS, sentence)
    tables = [searched(change=prior(0.55)), searched(), searched(change=prior(0.15))]
    assert [good, none, bad] == [round(after(table, 10), 2) for table in tables]
    assert good + 0.1 < none < bad - 0.2


def test_the_effective_rate_is_no_better_than_a_range_as_wide():
    sentence = r"looks better: ([\d.]+) % after ten trials against ([\d.]+) %.* has ([\d.]+) %, and"
    numbers = claimed(SOLUTIONS, sentence)
    found = [searched("effective", change=effective), searched(), searched("as wide as the effective rate")]
    assert numbers == [round(after(table, 10), 2) for table in found]
    powers = claimed(SOLUTIONS, r"it spans ([\d.]+) powers of ten, where the learning rate spans (\d)")
    spans = {name: np.log10(rate.high / rate.low) for name, rate in RATES.items()}
    assert powers == [round(spans[rate], 1) for rate in ("effective", "wide")]
    assert spans["as wide as the effective rate"] == pytest.approx(powers[0], abs=0.01)


def test_at_a_learning_rate_of_1_every_recorded_training_diverges():
    assert "At a learning rate of 1 every recorded training diverges" in lesson_text(LESSON)
    ends = load_curves().query("epoch == 27 and learning_rate == 1")
    assert len(ends) == 72
    assert (ends["valid_error"] > 0.8).all()
