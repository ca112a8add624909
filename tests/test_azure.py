"""Azure sweep jobs: built, checked, run here. Azure's own answers are faked below HTTP; nothing leaves the machine."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import kstest, lognorm, loguniform, norm, uniform
from virtual import VirtualLauncher

from hpo_helpers import train_mnist
from hpo_helpers import sweeps as azure
from hpo_helpers.sweeps import picture, workspace
from hpo_helpers.sweeps.expressions import FIELDS, space_of
from hpo_helpers.policies import BanditPolicy, MedianStoppingPolicy, TruncationSelectionPolicy
from hpo_helpers.spaces import MNIST_CNN

#: Azure's package is written for the next marshmallow, which says so where it is imported and where it is used.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

POLICIES = {
    "bandit": BanditPolicy(slack_factor=0.2),
    "bandit_amount": BanditPolicy(slack_amount=0.05, delay_evaluation=4),
    "median": MedianStoppingPolicy(),
    "truncation": TruncationSelectionPolicy(truncation_percentage=20, evaluation_interval=2),
}

#: One of each kind, with the fields that it has.
EXPRESSIONS = {
    "choice": {"type": "choice", "values": ["sgd", 2, 0.5]},
    "randint": {"type": "randint", "upper": 5},
    "uniform": {"type": "uniform", "min_value": -1.0, "max_value": 3.0},
    "loguniform": {"type": "loguniform", "min_value": -7.0, "max_value": 0.0},
    "normal": {"type": "normal", "mu": 10, "sigma": 3},
    "lognormal": {"type": "lognormal", "mu": -3.0, "sigma": 1.5},
    "quniform": {"type": "quniform", "min_value": 1, "max_value": 9, "q": 4},
    "qloguniform": {"type": "qloguniform", "min_value": 0.0, "max_value": 4.0, "q": 8},
    "qnormal": {"type": "qnormal", "mu": 32, "sigma": 10, "q": 4},
    "qlognormal": {"type": "qlognormal", "mu": 3.0, "sigma": 0.5, "q": 5},
}


def build(space=MNIST_CNN, folder="code", **settings):
    """Return a sweep job whose settings are `settings` and otherwise plain."""
    plain = {"code": folder, "environment": "azureml:mnist@latest", "compute": "azureml:cpu-cluster"}
    plain |= {"max_total_trials": 20, "max_concurrent_trials": 4}
    return azure.build_sweep(space, "python train_mnist.py --epochs 9", **{**plain, **settings})


def changed(sweep, changes):
    """Return a copy with other values, each named by its path: ``{"limits.timeout": 60}``."""
    copy = json.loads(json.dumps(sweep))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = copy
        for parent in parents:
            place = place[parent]
        place[last] = value
    return copy


@pytest.fixture
def project(tmp_path):
    """A folder with the code of a sweep."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train_mnist.py").write_text("print('valid_error=0.5')")
    return tmp_path


# Build, write, read


def test_a_sweep_says_what_was_asked_for():
    sweep = build(
        {"learning_rate": FloatDistribution(1e-3, 1.0, log=True), "noise": EXPRESSIONS["normal"]},
        policy=BanditPolicy(slack_factor=0.2, delay_evaluation=5),
        timeout=3600,
        goal="maximize",
        metric="accuracy",
    )
    assert sweep == {
        "type": "sweep",
        "experiment_name": "hyperparameter-optimization",
        "compute": "azureml:cpu-cluster",
        "sampling_algorithm": "random",
        "search_space": {
            "learning_rate": {"type": "loguniform", "min_value": math.log(1e-3), "max_value": 0.0},
            "noise": {"type": "normal", "mu": 10, "sigma": 3},
        },
        "objective": {"goal": "maximize", "primary_metric": "accuracy"},
        "limits": {"max_total_trials": 20, "max_concurrent_trials": 4, "timeout": 3600},
        "early_termination": {
            "type": "bandit",
            "evaluation_interval": 1,
            "delay_evaluation": 5,
            "slack_factor": 0.2,
        },
        "trial": {
            "code": "code",
            "environment": "azureml:mnist@latest",
            "command": "python train_mnist.py --epochs 9 --learning_rate ${{search_space.learning_rate}} "
            "--noise ${{search_space.noise}}",
        },
    }


@pytest.mark.parametrize("name", POLICIES)
def test_the_evaluation_interval_is_always_written_out(name, tmp_path):
    azure.write_sweep(build(policy=POLICIES[name]), tmp_path / "sweep.yml")
    written = yaml.safe_load((tmp_path / "sweep.yml").read_text())["early_termination"]
    assert written["evaluation_interval"] == (2 if name == "truncation" else 1)


def test_what_is_written_is_read_again(tmp_path):
    sweep = build(policy=POLICIES["median"], timeout=3600, trial_timeout=60)
    azure.write_sweep(sweep, tmp_path / "sweep.yml")
    assert azure.read_sweep(tmp_path / "sweep.yml") == sweep


def test_the_training_script_takes_every_argument_of_the_command():
    command = build()["trial"]["command"]
    values = {"learning_rate": 0.1, "momentum": 0.5, "batch_size": 64, "n_channels": 8, "dropout": 0.2}
    filled = re.sub(r"\$\{\{search_space\.(\w+)\}\}", lambda found: str(values[found[1]]), command)
    options = vars(train_mnist._parser().parse_args(shlex.split(filled)[2:]))
    assert values | {"epochs": 9} == {name: options[name] for name in [*values, "epochs"]}


@pytest.mark.parametrize("name", [*POLICIES, None])
@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_azure_s_package_takes_a_sweep_and_what_it_dumps_means_the_same(name, sampling, project):
    space = EXPRESSIONS if sampling == "random" else {"x": EXPRESSIONS["choice"]}
    sweep = build(space, sampling=sampling, policy=POLICIES.get(name), timeout=3600, trial_timeout=600)
    azure.to_job(sweep, project).dump(project / "dumped.yml")
    dumped = azure.read_sweep(project / "dumped.yml")
    for key in ("search_space", "limits", "objective", "sampling_algorithm", "compute", "experiment_name"):
        assert dumped[key] == sweep[key]
    assert dumped["trial"]["command"] == sweep["trial"]["command"]
    assert rebuilt(dumped) == sweep.get("early_termination")


def rebuilt(dumped):
    """Return the policy of a dumped sweep as `build_sweep` writes it."""
    policy = azure_policy(dumped)
    return build(policy=policy).get("early_termination")


def azure_policy(sweep):
    from hpo_helpers.sweeps.settings import policy_of

    return policy_of(sweep)


# What Azure's own package lets pass


GRID = {"kind": CategoricalDistribution(["a", "b"])}
LOG = {"type": "loguniform", "min_value": -3.0, "max_value": 0.0}
BANDIT = {"type": "bandit", "evaluation_interval": 1}
TRUNCATION = {"type": "truncation_selection", "evaluation_interval": 1}
BASE = build(GRID, policy=BanditPolicy(slack_factor=0.2))
UNIFORM = {"type": "uniform", "min_value": 0.0, "max_value": 1.0}
MISSED = {
    "a grid over a range": (
        {"sampling_algorithm": "grid", "search_space.kind": UNIFORM},
        "grid sampling takes choice alone, got {'type': 'uniform'.* for 'kind'",
    ),
    "Bayesian, logarithmic": (
        {"sampling_algorithm": "bayesian", "search_space.kind": LOG, "early_termination": None},
        "bayesian sampling takes choice, quniform, uniform alone, got {'type': 'loguniform'",
    ),
    "Bayesian, normal": (
        {
            "sampling_algorithm": "bayesian",
            "search_space.kind": EXPRESSIONS["normal"],
            "early_termination": None,
        },
        "got {'type': 'normal'",
    ),
    "Bayesian with a policy": (
        {"sampling_algorithm": "bayesian"},
        "Bayesian sampling takes no early-termination policy, got {'type': 'bandit'",
    ),
    "both slacks": (
        {"early_termination": BANDIT | {"slack_factor": 0.2, "slack_amount": 0.1}},
        "give either slack_factor or slack_amount, got slack_factor=0.2 and slack_amount=0.1",
    ),
    "no slack": (
        {"early_termination": BANDIT},
        "give either .* got slack_factor=None and slack_amount=None",
    ),
    "100 %": (
        {"early_termination": TRUNCATION | {"truncation_percentage": 100}},
        "truncation_percentage must be a whole number from 1 to 99, got 100",
    ),
    "0 %": ({"early_termination": TRUNCATION | {"truncation_percentage": 0}}, "from 1 to 99, got 0"),
    "half a per cent": (
        {"early_termination": TRUNCATION | {"truncation_percentage": 20.5}},
        "from 1 to 99, got 20.5",
    ),
    "more at a time than in all": (
        {"limits.max_concurrent_trials": 21},
        "max_concurrent_trials must be at most max_total_trials=20, got 21",
    ),
    "no trials": (
        {"limits.max_total_trials": 0},
        "max_total_trials must be a whole number of at least 1, got 0",
    ),
    "a short limit": (
        {"limits.trial_timeout": 30},
        "trial_timeout must be a whole number .* at least 60, got 30",
    ),
    "a limit that is dropped": ({"limits.timeout": 3600.5}, "timeout must be a whole number .* got 3600.5"),
    "no interval": ({"early_termination": {"type": "median_stopping"}}, "write evaluation_interval out"),
    "interval 0": (
        {"early_termination": BANDIT | {"slack_factor": 0.2, "evaluation_interval": 0}},
        "evaluation_interval must be a whole number of at least 1, got 0",
    ),
    "bounds in the wrong order": (
        {"search_space.kind": UNIFORM | {"min_value": 3.0}},
        "'kind': min_value must be below max_value, got {.*3.0",
    ),
    "a hyperparameter that nothing uses": (
        {"search_space.extra": UNIFORM},
        r"the command must use each of \['extra', 'kind'\] .* got 'python train_mnist.py",
    ),
}


@pytest.mark.parametrize("what", MISSED)
def test_what_azure_s_package_lets_pass_is_refused_with_its_value(what, project):
    from azure.ai.ml import load_job

    changes, message = MISSED[what]
    sweep = changed(BASE, changes)
    text = yaml.safe_dump({key: value for key, value in sweep.items() if value is not None})
    load_job(io.StringIO(text), relative_origin=str(project / "sweep.yml"))  # says nothing
    with pytest.raises(ValueError, match=message):
        azure.check_sweep(sweep)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"type": "command"}, "a sweep job has type: sweep, got"),
        ({"search_space": {}}, "a sweep job needs 'search_space'"),
        ({"sampling_algorithm": "tpe"}, "sampling must be 'random', 'grid' or 'bayesian', got 'tpe'"),
        ({"objective.goal": "min"}, "goal must be 'minimize' or 'maximize', got 'min'"),
        ({"objective.primary_metric": None}, "the objective needs a primary_metric"),
        ({"limits": {"max_concurrent_trials": 3}}, "max_total_trials must be .* got None"),
        ({"early_termination": {"type": "hyperband"}}, "an early-termination policy is one of .* got 'hyperband'"),
        (
            {"early_termination": TRUNCATION | {"slack_factor": 0.1, "truncation_percentage": 20}},
            "the settings of 'truncation_selection' do not fit",
        ),
        ({"search_space.kind": {"type": "gamma"}}, "'kind' must be an expression of a type among .* got"),
        ({"search_space.kind": {"type": "normal", "mu": 0}}, r"'kind' needs \['mu', 'sigma'\] .* got \['mu'\]"),
        ({"search_space.kind": EXPRESSIONS["normal"] | {"sigma": 0}}, "sigma and q must be positive, got"),
        ({"search_space.kind": EXPRESSIONS["quniform"] | {"q": -1}}, "sigma and q must be positive, got"),
        ({"search_space.kind": EXPRESSIONS["uniform"] | {"max_value": "3"}}, "must be a finite number, got"),
        ({"search_space.kind": {"type": "randint", "upper": 0}}, "upper must be a whole number .* got"),
        ({"search_space.kind": {"type": "choice", "values": []}}, "a list with something in it, got"),
        ({"search_space.kind": {"type": "choice", "values": [{"a": 1}]}}, "for each branch of a nested space, got"),
    ],
)
def test_what_cannot_be_a_sweep_is_refused_with_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        azure.check_sweep(changed(BASE, changes))


def test_nothing_that_is_refused_is_built_written_or_read(tmp_path):
    with pytest.raises(ValueError, match="got 21"):
        build(max_concurrent_trials=21)
    with pytest.raises(ValueError, match="policy must be one of hpo_helpers.policies, got <optuna"):
        build(policy=optuna.pruners.MedianPruner())
    bad = changed(BASE, {"limits.max_concurrent_trials": 21})
    with pytest.raises(ValueError, match="got 21"):
        azure.write_sweep(bad, tmp_path / "bad.yml")
    (tmp_path / "bad.yml").write_text(yaml.safe_dump(bad))
    with pytest.raises(ValueError, match="got 21"):
        azure.read_sweep(tmp_path / "bad.yml")


def test_azure_s_spellings_are_read():
    sweep = changed(BASE, {"objective.goal": "Maximize", "sampling_algorithm": {"type": "Random", "seed": 3}})
    azure.check_sweep(sweep)


# Expressions


def draw(expression, n=400):
    """Return `n` values of an expression, as random sampling draws them, and the trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    trials = [study.ask() for _ in range(n)]
    return [space_of({"x": expression})(trial)["x"] for trial in trials], trials


@pytest.mark.parametrize(
    "name, distribution",
    [
        ("uniform", uniform(-1, 4)),
        ("loguniform", loguniform(math.exp(-7), 1)),
        ("normal", norm(10, 3)),
        ("lognormal", lognorm(1.5, scale=math.exp(-3))),
    ],
)
def test_a_continuous_expression_has_its_distribution(name, distribution):
    values, _ = draw(EXPRESSIONS[name])
    assert kstest(values, distribution.cdf).pvalue > 0.01
    # And no other one has: the test can fail.
    assert kstest([value + distribution.std() / 2 for value in values], distribution.cdf).pvalue < 0.01


@pytest.mark.parametrize(
    "name, distribution",
    [
        ("quniform", uniform(1, 8)),
        ("qloguniform", loguniform(1, math.exp(4))),
        ("qnormal", norm(32, 10)),
        ("qlognormal", lognorm(0.5, scale=math.exp(3))),
    ],
)
def test_a_rounded_expression_has_whole_multiples_in_the_right_shares(name, distribution):
    q = EXPRESSIONS[name]["q"]
    values, _ = draw(EXPRESSIONS[name], n=2000)
    assert all(isinstance(value, int) and value % q == 0 for value in values)
    for value in set(values):
        share = distribution.cdf(value + q / 2) - distribution.cdf(value - q / 2)
        assert values.count(value) / 2000 == pytest.approx(share, abs=0.03)


def test_whole_numbers_and_choices_come_equally_often():
    for name, expected in (("randint", range(5)), ("choice", ["sgd", 2, 0.5])):
        values, _ = draw(EXPRESSIONS[name], n=1000)
        assert set(values) == set(expected)
        assert all(values.count(value) / 1000 == pytest.approx(1 / len(expected), abs=0.05) for value in expected)


def test_every_kind_of_expression_is_tried():
    assert set(EXPRESSIONS) == set(FIELDS)


def test_a_trial_keeps_what_was_trained_with():
    values, trials = draw(EXPRESSIONS["qnormal"], n=5)
    assert [trial.user_attrs["parameters"] for trial in trials] == [{"x": value} for value in values]
    assert list(trials[0].params) == ["x (quantile)"]


def test_a_normal_expression_is_finite_at_both_ends():
    study = optuna.create_study()
    for quantile in (2.0**-53, 1 - 2.0**-53):
        study.enqueue_trial({"x (quantile)": quantile})
        assert abs(space_of({"x": EXPRESSIONS["normal"]})(study.ask())["x"]) < 50


# Run here


def curves(params):
    """Six epochs that get better, at another level for each configuration."""
    return [(1.0, params["level"] / (1 + epoch)) for epoch in range(6)]


LEVELS = {"level": FloatDistribution(0.1, 0.9)}


def run(sweep, curve=curves, n_workers=4, **settings):
    launcher = VirtualLauncher(curve, n_workers=n_workers)
    return azure.run_sweep(sweep, launcher, epochs=6, **settings), launcher


def test_a_sweep_runs_here_to_its_number_of_trials():
    study, launcher = run(build(LEVELS))
    table = azure.child_runs(study)
    assert len(table) == len(launcher.jobs) == 20
    assert list(table) == ["child", "status", "level", "valid_error", "intervals"]
    assert set(table["status"]) == {"Completed"} and set(table["intervals"]) == {6}
    assert table["valid_error"].is_monotonic_increasing
    assert table["valid_error"][0] == pytest.approx(table["level"].min() / 6)


@pytest.mark.parametrize("n_workers, busiest", [(8, 3), (2, 2)])
def test_no_more_trials_run_at_a_time_than_the_sweep_and_the_machine_allow(n_workers, busiest):
    _, launcher = run(build(LEVELS, max_concurrent_trials=3), n_workers=n_workers)
    assert launcher.clock() == math.ceil(20 / busiest) * 6


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_ends_the_trials_at_the_wrong_end(name, goal):
    study, _ = run(build(LEVELS, policy=POLICIES[name], goal=goal))
    table = azure.child_runs(study)
    canceled, completed = (table[table["status"] == status] for status in ("Canceled", "Completed"))
    assert len(canceled) >= 2 and canceled["intervals"].max() < 6
    assert table["status"][0] == "Completed"
    better = completed["level"].mean() - canceled["level"].mean()
    assert better < 0 if goal == "minimize" else better > 0
    assert table["valid_error"].is_monotonic_increasing == (goal == "minimize")


def test_a_grid_has_each_combination_once_whatever_the_order():
    space = {"level": CategoricalDistribution([0.1, 0.2, 0.3]), "kind": CategoricalDistribution(["a", "b"])}
    study, launcher = run(build(space, sampling="grid", max_total_trials=50))
    tried = [(job.params["level"], job.params["kind"]) for job in launcher.jobs]
    assert sorted(tried) == sorted(itertools.product([0.1, 0.2, 0.3], ["a", "b"]))
    _, launcher = run(build(space, sampling="grid", max_total_trials=4))
    assert len({tuple(job.params.items()) for job in launcher.jobs}) == len(launcher.jobs) == 4


def test_bayesian_sampling_is_optuna_s_and_learns():
    sweep = build({"level": FloatDistribution(0.1, 0.9)}, sampling="bayesian", max_total_trials=40)
    study, _ = run(sweep, max_failures=1)
    assert isinstance(study.sampler, optuna.samplers.TPESampler)
    levels = [trial.user_attrs["parameters"]["level"] for trial in study.trials]
    assert sum(levels[20:]) / 20 < 0.3 < sum(levels[:10]) / 10


def test_a_seed_gives_the_same_trials_again_and_the_job_s_own_comes_first():
    levels = {}
    for seed, sampling in itertools.product((0, 1), ("random", {"type": "random", "seed": 5})):
        study, launcher = run(build(LEVELS) | {"sampling_algorithm": sampling}, seed=seed)
        levels[seed, str(sampling)] = [job.params["level"] for job in launcher.jobs]
        again = run(build(LEVELS) | {"sampling_algorithm": sampling}, seed=seed)[1]
        assert levels[seed, str(sampling)] == [job.params["level"] for job in again.jobs]
    plain_0, own_0, plain_1, own_1 = levels.values()
    assert plain_0 != plain_1 and own_0 == own_1


def test_sobol_points_are_drawn_evenly():
    sweep = build(LEVELS, max_total_trials=17) | {"sampling_algorithm": {"type": "random", "rule": "sobol"}}
    _, launcher = run(sweep)
    # The first trial is drawn at random; of 16 Sobol points each sixteenth of the range has one.
    places = [(job.params["level"] - 0.1) / 0.8 for job in launcher.jobs[1:]]
    assert sorted(int(16 * place) for place in places) == list(range(16))


def test_a_base_of_its_own_is_refused():
    sweep = build(LEVELS) | {"sampling_algorithm": {"type": "random", "logbase": 2}}
    with pytest.raises(ValueError, match="no counterpart here, got .*'logbase': 2"):
        run(sweep)


def test_limits_on_time_are_kept():
    slow = lambda params: [(20.0, params["level"])] * 6  # noqa: E731
    study, launcher = run(build(LEVELS, timeout=150), curve=slow)
    assert launcher.clock() == 150
    table = azure.child_runs(study)
    assert table["status"].value_counts().to_dict() == {"Completed": 4, "Canceled": 4}
    study, _ = run(build(LEVELS, trial_timeout=100, max_total_trials=4), curve=slow)
    table = azure.child_runs(study)
    assert set(table["status"]) == {"Failed"} and set(table["intervals"]) == {5}


def test_a_failed_trial_is_listed_last_and_too_many_end_the_sweep():
    def sometimes(params):
        return curves(params) if params["level"] < 0.5 else [(1.0, math.nan)]

    study, _ = run(build(LEVELS), curve=sometimes, max_failures=20)
    table = azure.child_runs(study)
    n_failed = (table["level"] >= 0.5).sum()
    assert 3 <= n_failed < 20
    assert set(table["status"][-n_failed:]) == {"Failed"} and set(table["status"][:-n_failed]) == {"Completed"}
    with pytest.raises(RuntimeError, match="trials in a row failed"):
        run(build(LEVELS), curve=lambda params: [(1.0, math.nan)])


def test_the_launcher_must_read_the_metric_that_is_compared():
    with pytest.raises(ValueError, match="the sweep compares 'accuracy': .* got metric='valid_error'"):
        run(build(LEVELS, metric="accuracy"))


def test_an_interrupted_sweep_goes_on_where_its_study_is_kept(tmp_path):
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / "sweep.log"))
    storage = optuna.storages.JournalStorage(journal)
    run(build(LEVELS, max_total_trials=5), storage=storage)
    study, launcher = run(build(LEVELS, max_total_trials=8), storage=storage)
    assert len(launcher.jobs) == 3 and len(azure.child_runs(study)) == 8


def test_a_sweep_that_was_read_runs_as_the_one_that_was_written(tmp_path):
    sweep = build(LEVELS, policy=POLICIES["bandit"])
    azure.write_sweep(sweep, tmp_path / "sweep.yml")
    tables = [azure.child_runs(run(each)[0]) for each in (sweep, azure.read_sweep(tmp_path / "sweep.yml"))]
    assert tables[0].equals(tables[1])


def test_one_that_logs_once_at_its_end_is_never_canceled():
    once = lambda params: [(6.0, params["level"])]  # noqa: E731
    for policy in POLICIES.values():
        study = azure.run_sweep(build(LEVELS, policy=policy), VirtualLauncher(once), epochs=1)
        assert set(azure.child_runs(study)["status"]) == {"Completed"}


# The picture


class FakeImage:
    def __init__(self):
        self.values, self.closed = [], False

    def __setattr__(self, name, value):
        if name == "value":
            self.values.append(value)
        object.__setattr__(self, name, value)

    def close(self):
        self.closed = True


@pytest.fixture
def screen(monkeypatch):
    """What a notebook would show: the widget, and the figures that stay."""
    image, figures = FakeImage(), []
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(picture, "_show_widget", lambda: image)
    monkeypatch.setattr(picture, "_show", figures.append)
    monkeypatch.setattr(picture, "PAUSE", 0)
    return image, figures


def test_the_picture_is_drawn_while_the_sweep_runs_and_one_stays(screen):
    image, figures = screen
    run(build(LEVELS, max_total_trials=4, policy=POLICIES["median"]), live=True)
    assert all(png.startswith(b"\x89PNG") for png in image.values)
    assert len(set(image.values)) >= 5 and image.closed
    assert len(figures) == 1


def test_the_picture_shows_every_trial_the_best_in_its_colour_and_who_was_canceled(screen):
    from hpo_helpers.plotting import ORANGE

    for goal in ("minimize", "maximize"):
        study, _ = run(build(LEVELS, policy=POLICIES["median"], goal=goal))
        (ax,) = azure.plot_sweep(study).axes
        drawn = [line for line in ax.lines if len(line.get_xdata())]
        dots = [line for line in drawn if line.get_marker() == "o"]
        table = azure.child_runs(study)
        assert len(drawn) - len(dots) == 20 and len(dots) == (table["status"] == "Canceled").sum() > 0
        (best,) = [line for line in drawn if line.get_color() == ORANGE]
        assert (min if goal == "minimize" else max)(best.get_ydata()) == table["valid_error"][0]
        assert ax.get_ylabel() == "valid_error" and ax.get_xlabel() == "intervals (epochs)"


def test_there_is_no_widget_where_bars_are_hidden_and_no_picture_unless_asked_for(screen, monkeypatch):
    image, figures = screen
    run(build(LEVELS, max_total_trials=4))
    assert (image.values, figures) == ([], [])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    run(build(LEVELS, max_total_trials=4), live=True)
    assert image.values == [] and len(figures) == 1


def test_a_picture_is_not_drawn_more_often_than_it_can_be_looked_at(screen, monkeypatch):
    monkeypatch.setattr(picture, "PAUSE", 1000)
    run(build(LEVELS, max_total_trials=4), live=True)
    assert screen[0].values == []


# What travels


def test_the_training_script_travels_unchanged(tmp_path):
    names = azure.write_code(tmp_path / "code")
    assert names == ["conda.yml", "log_metrics.py", "mnist.npz", "mxnet_compat.py", "train_mnist.py"]
    package = Path(train_mnist.__file__).parent
    for name in ("train_mnist.py", "mxnet_compat.py"):
        assert (tmp_path / "code" / name).read_bytes() == (package / name).read_bytes()
    parts = train_mnist.load_data(tmp_path / "code")
    assert sum(len(labels) for _, labels in parts) == 5000
    sweep = build(environment={"image": "some/image", "conda_file": "code/conda.yml"})
    assert "mxnet==1.9.1" in str(azure.to_job(sweep, tmp_path).trial.environment.conda_file)


MLFLOW = """
import json

def log_metrics(metrics, step):
    print("logged", json.dumps([step, metrics]), flush=True)
"""


def test_each_line_of_a_training_is_logged_as_one_interval(tmp_path):
    script = "print('hello=you')\nprint('epoch=1 valid_error=0.5000 seconds=1e-2')\nprint('epoch=2 valid_error=0.25')\n"
    (tmp_path / "train.py").write_text(script + "raise SystemExit(3)")
    (tmp_path / "mlflow.py").write_text(MLFLOW)
    logger = Path(workspace.__file__).with_name("log_metrics.py")
    (tmp_path / "log_metrics.py").write_bytes(logger.read_bytes())
    command = [sys.executable, "log_metrics.py", sys.executable, "train.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    logged = [json.loads(line.removeprefix("logged ")) for line in result.stdout.splitlines() if "logged" in line]
    assert logged == [[1, {"valid_error": 0.5, "seconds": 0.01}], [2, {"valid_error": 0.25}]]
    assert "hello=you" in result.stdout and result.returncode == 3


WITHOUT_AZURE = """
import sys
sys.modules["azure"] = None
import optuna
from optuna.distributions import FloatDistribution
from hpo_helpers.sweeps import build_sweep, child_runs, read_sweep, run_sweep, write_sweep
from hpo_helpers.jobs.replay import ReplayLauncher
sweep = build_sweep({"x": FloatDistribution(0, 1)}, "python t.py", code="code", environment="azureml:e@latest",
                    compute="azureml:c", max_total_trials=3, max_concurrent_trials=1)
write_sweep(sweep, "sweep.yml")
curves = lambda params: [{"valid_error": params["x"], "seconds": 1.0}]
study = run_sweep(read_sweep("sweep.yml"), ReplayLauncher(curves=curves), epochs=1)
print(len(child_runs(study)))
"""


def test_building_and_running_need_nothing_of_azure_s(tmp_path):
    environment = os.environ | {"TQDM_DISABLE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", WITHOUT_AZURE]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "3"


# Azure itself, as far as HTTP: what is sent is real, what comes back is written here


WORKSPACE = "/subscriptions/sub/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/space"
OF_API = {"westeurope.api.azureml.ms", "management.azure.com"}


class Workspace:
    """A workspace that takes jobs and answers as Azure's REST reference says."""

    def __init__(self):
        self.jobs, self.requests, self.statuses, self.best = {}, [], [], None

    def answer(self, method, url, body):
        path = url.split("?")[0].partition("://")[2]
        path = path[path.index("/") :]
        body = json.loads(body) if body else None
        self.requests.append((method, url.split("/")[2], path.replace(WORKSPACE, ""), body))
        kind, *rest = path.replace(WORKSPACE, "").strip("/").split("/")
        if path.endswith("/children"):
            runs = [("s_0", "Completed"), ("s_1", "Canceled")]
            return 200, {"value": [{"runId": name, "status": status, "properties": {}} for name, status in runs]}
        if kind == "codes":  # uploaded before, under the same hash
            code = self._resource("codes/code/versions/1", {"codeUri": "https://store/code", "properties": {}})
            return 200, {"value": [code]} if "hash=" in url else code
        if kind == "environments":
            return 200, {"value": [self._resource("environments/mnist/versions/7", {"image": "some/image"})]}
        if kind == "jobs":
            return self._job(method, rest, body)
        if kind == "":
            return 200, self._resource("", {"discoveryUrl": "https://westeurope.api.azureml.ms/discovery"})
        if kind == "discovery":
            return 200, dict.fromkeys(("api", "history"), "https://westeurope.api.azureml.ms")
        raise AssertionError(f"nothing is known of {method} {url}")

    def _job(self, method, rest, body):
        name = rest[0]
        if rest[1:] == ["cancel"]:
            self.jobs[name]["status"] = "Canceled"
            return 200, None
        if method == "PUT":
            self.jobs[name] = body["properties"] | {"status": "NotStarted"}
        if self.statuses:
            self.jobs[name]["status"] = self.statuses.pop(0)
        properties = self.jobs.get(name, self.jobs[next(iter(self.jobs))])
        if self.best:
            properties = properties | {"properties": {"best_child_run_id": self.best}}
        return 200, self._resource(f"jobs/{name}", properties)

    @staticmethod
    def _resource(path, properties):
        name = path.rpartition("/")[2]
        location = {"location": "westeurope"} if not path else {}
        return {"id": f"{WORKSPACE}/{path}", "name": name, "type": "x", "properties": properties, **location}

    def sent(self, method):
        return [(path, body) for sent, _, path, body in self.requests if sent == method]


@pytest.fixture
def workspace(monkeypatch):
    """The workspace behind every connection that this process opens."""
    import urllib3
    from requests.adapters import HTTPAdapter

    workspace = Workspace()

    def send(adapter, request, **_):
        status, answer = workspace.answer(request.method, request.url, request.body)
        content = io.BytesIO(b"" if answer is None else json.dumps(answer).encode())
        headers = {"Content-Type": "application/json"}
        raw = urllib3.HTTPResponse(body=content, status=status, headers=headers, preload_content=False)
        return adapter.build_response(request, raw)

    monkeypatch.setattr(HTTPAdapter, "send", send)
    return workspace


class Credential:
    def get_token(self, *scopes, **_):
        from azure.core.credentials import AccessToken

        return AccessToken("a token", 2**33)


@pytest.fixture
def client(workspace, monkeypatch, tmp_path):
    """A client as `connect` makes it, in what looks like a notebook; telemetry would fail the test."""
    import azure.ai.ml._telemetry.logging_handler as telemetry
    import azure.identity

    monkeypatch.setattr(telemetry, "in_jupyter_notebook", lambda: True)
    monkeypatch.setattr(telemetry, "setup_azure_monitor", lambda *_: pytest.fail("telemetry was set up"))
    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Credential)
    folder = tmp_path / "configured"
    folder.mkdir()
    names = {"subscription_id": "sub", "resource_group": "group", "workspace_name": "space"}
    (folder / "config.json").write_text(json.dumps(names))
    client = connect_to(folder)
    assert workspace.requests == []  # making a client sends nothing
    yield client
    assert {host for _, host, _, _ in workspace.requests} <= OF_API


def connect_to(folder):
    from hpo_helpers.sweeps import connect

    client = connect(folder)
    assert client.workspace_name == "space"
    return client


def test_without_a_configuration_there_is_no_client(tmp_path):
    assert azure.connect(tmp_path) is None


def test_a_sweep_is_submitted_as_it_was_built(workspace, client, project):
    sweep = build(policy=POLICIES["bandit"], timeout=3600, trial_timeout=600)
    submitted = azure.submit(sweep, client, project)
    ((path, body),) = workspace.sent("PUT")
    sent = body["properties"]
    assert path == f"/jobs/{submitted.name}"
    assert sent["jobType"] == "Sweep" and sent["samplingAlgorithm"] == {"samplingAlgorithmType": "Random"}
    assert sent["objective"] == {"goal": "minimize", "primaryMetric": "valid_error"}
    assert sent["searchSpace"]["learning_rate"] == ["loguniform", [math.log(1e-3), 0.0]]
    assert sent["searchSpace"]["batch_size"] == ["qloguniform", [math.log(16), math.log(128), 1]]
    limits = {"maxTotalTrials": 20, "maxConcurrentTrials": 4, "timeout": "PT1H", "trialTimeout": "PT10M"}
    assert limits.items() <= sent["limits"].items()
    termination = {"policyType": "Bandit", "slackFactor": 0.2, "evaluationInterval": 1, "delayEvaluation": 0}
    assert termination.items() <= sent["earlyTermination"].items()
    assert sent["trial"]["command"] == sweep["trial"]["command"]
    assert sent["trial"]["environmentId"] == f"{WORKSPACE}/environments/mnist/versions/7"
    assert sent["computeId"] == f"{WORKSPACE}/computes/cpu-cluster"


def test_what_is_refused_is_never_sent(workspace, client, project):
    with pytest.raises(ValueError, match="got 21"):
        azure.submit(changed(build(), {"limits.max_concurrent_trials": 21}), client, project)
    assert workspace.requests == []


def test_children_are_listed_and_the_best_is_fetched(workspace, client, project):
    submitted = azure.submit(build(), client, project)
    assert submitted.status == "NotStarted"
    assert submitted.children().to_dict("list") == {"child": ["s_0", "s_1"], "status": ["Completed", "Canceled"]}
    with pytest.raises(LookupError, match=f"{submitted.name} has no best trial yet"):
        submitted.best()
    workspace.best = "s_0"
    assert submitted.best().name == "s_0"


def test_a_sweep_is_waited_for_and_cancelled_on_request(workspace, client, project):
    submitted = azure.submit(build(), client, project)
    workspace.statuses = ["Queued", "Running", "Completed"]
    assert submitted.wait(seconds=0) == "Completed"
    submitted.cancel()
    assert [path for path, _ in workspace.sent("POST")] == [f"/jobs/{submitted.name}/cancel"]
    assert submitted.status == "Canceled"


def test_ctrl_c_cancels_a_sweep_that_is_waited_for(workspace, client, project, monkeypatch):
    submitted = azure.submit(build(), client, project)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(workspace.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        submitted.wait()
    assert submitted.status == "Canceled"


def test_ctrl_c_cancels_a_sweep_that_is_being_submitted(workspace, client, project, monkeypatch):
    answer = workspace.answer

    def interrupt_after_the_job(method, url, body):
        answered = answer(method, url, body)
        if method == "PUT" and "/jobs/" in url:
            raise KeyboardInterrupt
        return answered

    monkeypatch.setattr(workspace, "answer", interrupt_after_the_job)
    with pytest.raises(KeyboardInterrupt):
        azure.submit(build(), client, project)
    assert [job["status"] for job in workspace.jobs.values()] == ["Canceled"]
