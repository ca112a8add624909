"""What lesson 12 says of Azure's package and of policies in general, computed anew."""

from __future__ import annotations

import math

import nbformat
import optuna
import pandas as pd
import pytest
from claims import claimed, follows_a_model, lesson_text
from notebook_files import NOTEBOOKS
from optuna.distributions import CategoricalDistribution, FloatDistribution

from hpo_helpers.comparing import reports
from hpo_helpers.curves import cnn_curves
from hpo_helpers.sweeps import build_sweep, check_sweep, child_runs, run_sweep, space_of
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.policies import BanditPolicy
from hpo_helpers.spaces import MNIST_CNN

LESSON, SOLUTIONS = "12_azure_sweeps", "solutions/12_azure_sweeps_solutions"
BANDIT = BanditPolicy(slack_factor=0.5, delay_evaluation=3)

#: Azure's package is written for the next marshmallow, which says so where it is imported and where it is used.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def without_bars(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


def build(space=MNIST_CNN, **settings):
    places = {"code": "code", "environment": "azureml:mnist@latest", "compute": "azureml:cpu-cluster"}
    limits = {"max_total_trials": 40, "max_concurrent_trials": 4}
    return build_sweep(space, "python train_mnist.py", **places, **limits, **settings)


def outcome(sweep, seed, curves=None, epochs=27):
    with ReplayLauncher(n_workers=4, curves=curves) as launcher:
        study = run_sweep(sweep, launcher, epochs=epochs, seed=seed)
        log, children = reports(study), child_runs(study)
    best = log.loc[log["value"].idxmin()]
    canceled = children[children["status"] == "Canceled"]
    found = {"seconds": launcher.clock(), "canceled": len(canceled), "n": len(children)}
    return found | {"best": best["value"], "test_error": best["test_error"], "ended": set(canceled["intervals"])}


def outcomes(sweep, seeds, **settings):
    return pd.DataFrame([outcome(sweep, seed, **settings) for seed in range(seeds)])


@pytest.fixture(scope="module")
def plain():
    return outcomes(build(), 20)


@pytest.fixture(scope="module")
def with_bandit():
    return outcomes(build(policy=BANDIT), 20)


def test_a_policy_saves_what_the_lesson_says_and_seldom_loses_the_best(plain, with_bandit):
    pattern = r"Over (\d+) seeds the policy saves (\d+) % .*, between (\d+) % and (\d+) %. .* best child run for (\d+)"
    saved = 100 * (1 - with_bandit["seconds"] / plain["seconds"])
    n_kept = (with_bandit["best"] == plain["best"]).sum()
    expected = [20, round(saved.mean()), round(saved.min()), round(saved.max()), n_kept]
    assert claimed(LESSON, pattern) == expected


def test_a_script_that_logs_once_is_never_canceled_and_saves_nothing(plain):
    def once(params):
        curve = cnn_curves()(params)
        return [{**curve[-1], "epoch": 1, "seconds": sum(row["seconds"] for row in curve)}]

    assert "it cancels nothing and saves nothing" in lesson_text(LESSON)
    found = outcomes(build(policy=BANDIT), 20, curves=once, epochs=1)
    assert found["canceled"].sum() == 0
    assert found["seconds"].tolist() == pytest.approx(plain["seconds"].tolist())


def test_the_run_that_is_drawn_ends_where_the_text_says(with_bandit):
    (interval,) = claimed(LESSON, r"all dots are at interval (\d+)")
    assert with_bandit["ended"][0] == {interval}


@pytest.fixture(scope="module")
def other_samplings():
    """The tables of the child runs and the seconds, of a Bayesian sweep and of a grid."""
    rates = CategoricalDistribution([0.003, 0.01, 0.03, 0.1, 0.3])
    fixed = {"batch_size": 64, "n_channels": 8, "dropout": 0.25}
    spaces = {
        "bayesian": {"learning_rate": rates, "momentum": FloatDistribution(0, 0.95)},
        "grid": {"learning_rate": rates, "momentum": CategoricalDistribution([0.0, 0.5, 0.9])},
    }
    tables = {}
    for sampling, space in spaces.items():
        sweep = build(space, sampling=sampling, policy=BANDIT if sampling == "grid" else None)
        with ReplayLauncher(fixed=fixed) as launcher:
            tables[sampling] = (child_runs(run_sweep(sweep, launcher, epochs=27)), launcher.clock())
    return tables


@follows_a_model
def test_what_bayesian_sampling_takes(other_samplings):
    _, seconds = claimed(LESSON, r"all (\d+) child runs train to their end, and take (\d+) s")
    assert seconds == round(other_samplings["bayesian"][1])


def test_bayesian_sampling_has_no_policy_and_a_grid_may(other_samplings):
    (bayesian, _), (grid, _) = other_samplings["bayesian"], other_samplings["grid"]
    assert len(bayesian) == 40 and set(bayesian["status"]) == {"Completed"}
    n_bayesian, _ = claimed(LESSON, r"all (\d+) child runs train to their end, and take (\d+) s")
    assert n_bayesian == 40
    said = claimed(LESSON, r"The grid may, and (\d+) of its (\d+) are canceled")
    assert said == [(grid["status"] == "Canceled").sum(), len(grid)]


def test_azure_s_package_finds_one_of_the_seven_mistakes_and_this_one_all(tmp_path):
    """The cells of the lesson, run as they stand."""
    import io

    import yaml

    names = {"io": io, "yaml": yaml, "folder": tmp_path, "sweep": build(policy=BANDIT)}
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train_mnist.py").touch()
    for cell in nbformat.read(NOTEBOOKS / f"{LESSON}.ipynb", as_version=4).cells:
        if cell.id == "azure-mistakes":
            exec(cell.source, names)
        if cell.id == "azure-checked":
            exec(cell.source.partition("names = ")[0], names)
    found = [names["azure_finds"]({**names["sweep"], **change}) for change in names["mistakes"].values()]
    assert "It finds one of seven" in lesson_text(LESSON)
    assert len(found) == 7 and [answer != "nothing" for answer in found] == [False] * 6 + [True]
    for change in names["mistakes"].values():
        with pytest.raises(ValueError, match="got "):
            check_sweep({**names["sweep"], **change})


def test_azure_s_package_treats_what_is_left_out_as_the_lesson_says():
    from azure.ai.ml.sweep import (
        BanditPolicy,
        MedianStoppingPolicy,
        SweepJobLimits,
        TruncationSelectionPolicy,
    )

    assert "it is 0 for two of the policies in Azure's package, and 1 for the third" in lesson_text(LESSON)
    policies = (BanditPolicy(), TruncationSelectionPolicy(), MedianStoppingPolicy())
    assert [policy.evaluation_interval for policy in policies] == [0, 0, 1]
    assert "a shorter one is raised to 60, and of a `trial_timeout` of 600.0 nothing is left" in lesson_text(LESSON)
    assert SweepJobLimits(timeout=30).timeout == SweepJobLimits(trial_timeout=30).trial_timeout == 60
    assert SweepJobLimits(trial_timeout=600.0).trial_timeout is None


def test_the_exponent_is_the_learning_rate_that_the_lesson_names():
    (exponent, rate) = claimed(LESSON, r"−([\d.]+) stands for a learning rate of ([\d.]+\d)")
    assert round(math.exp(-exponent), 3) == rate


def test_a_late_policy_saves_less_and_an_eager_one_loses_the_best(plain, with_bandit):
    plain, soon = plain[:10], with_bandit[:10]
    late = outcomes(build(policy=BanditPolicy(slack_factor=0.5, delay_evaluation=10)), 10)
    never = outcomes(build(policy=BanditPolicy(slack_factor=0.5, delay_evaluation=30)), 10)
    eager = outcomes(build(policy=BanditPolicy(slack_factor=0.1)), 10)

    def saved(found):
        return round(100 * (1 - found["seconds"] / plain["seconds"]).mean())

    said = claimed(SOLUTIONS, r"policy saves (\d+) % of the time, from interval 10 on (\d+) %")
    assert said == [saved(soon), saved(late)]
    assert "neither loses the best run in ten seeds" in lesson_text(SOLUTIONS)
    assert (soon["best"] == plain["best"]).all() and (late["best"] == plain["best"]).all()
    assert "With a delay of 30 it is never applied" in lesson_text(SOLUTIONS)
    assert never["canceled"].sum() == 0
    said = claimed(SOLUTIONS, r"The last one saves (\d+) %, and loses the best run for (\d+) seeds of 10")
    assert said == [saved(eager), (eager["best"] > plain["best"]).sum()]
    errors = [round(100 * found["test_error"].mean(), 2) for found in (eager, plain)]
    assert claimed(SOLUTIONS, r"mean test error of ([\d.]+) % instead of ([\d.]+) %") == errors


@follows_a_model
def test_bayesian_sampling_finds_what_random_sampling_does(with_bandit):
    lists = {
        "learning_rate": CategoricalDistribution([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
        "batch_size": CategoricalDistribution([16, 32, 64, 128]),
        "n_channels": CategoricalDistribution([4, 6, 8, 11, 16]),
    }
    found = [outcomes(build({**MNIST_CNN, **lists}, sampling=sampling), 10) for sampling in ("bayesian", "random")]
    errors = [100 * table["test_error"] for table in found]
    pattern = r"about the same: ([\d.]+) % and ([\d.]+) %, where seeds alone spread by ([\d.]+) %"
    assert claimed(SOLUTIONS, pattern) == [*(round(error.mean(), 2) for error in errors), round(errors[0].std(), 2)]
    assert round(errors[0].std(), 2) == round(errors[1].std(), 2)
    seconds = [round(table["seconds"].mean()) for table in found]
    assert claimed(SOLUTIONS, r"They take (\d+) s and (\d+) s") == seconds
    third = [round(with_bandit["seconds"][:10].mean()), round(100 * with_bandit["test_error"][:10].mean(), 2)]
    assert claimed(SOLUTIONS, r"takes (\d+) s for a mean test error of ([\d.]+\d) %") == third


def test_a_normal_expression_leaves_the_recording():
    expressions = {
        "learning_rate": {"type": "lognormal", "mu": -3.0, "sigma": 1.5},
        "batch_size": {"type": "qnormal", "mu": 64, "sigma": 32, "q": 8},
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = pd.DataFrame([space_of(expressions)(study.ask()) for _ in range(1000)])
    n_outside = [
        (~values[name].between(MNIST_CNN[name].low, MNIST_CNN[name].high)).sum() for name in expressions
    ]
    said = claimed(SOLUTIONS, r"(\d+) of 1,000 values lie outside. .* it is (\d+), and the smallest is −(\d+)")
    assert said == [*n_outside, -values["batch_size"].min()]
