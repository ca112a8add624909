"""What lesson 12 and its solutions say, of Azure's package and of policies in general.

The sweeps of many seeds are not run here once more: nbval runs the cells that print them. Here the prose is
held against what those cells have printed.
"""

import io
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml
from azure.ai.ml import load_job
from bs4 import BeautifulSoup
from claims import claimed, code_cells, lesson_text
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

import hpo_helpers
from hpo_helpers import train_mnist
from hpo_helpers.datasets import load_curves, load_mnist, save_npz
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.policies import BanditPolicy, TruncationSelectionPolicy
from hpo_helpers.spaces import MNIST_CNN, to_azure
from hpo_helpers.sweeps import check_sweep, child_runs, run_sweep, write_sweep
from hpo_helpers.tuning import tune

LESSON, SOLUTIONS = "12_azure_sweeps", "solutions/12_azure_sweeps_solutions"

#: Azure's package is written for the next marshmallow, which says so wherever it is used.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def printed(notebook, cell, pattern):
    """Return the numbers in what a cell has printed."""
    text = "".join(output.get("text", "") for output in code_cells(notebook)[cell].outputs)
    return [float(number) for number in re.search(pattern, text, re.DOTALL).groups()]


def table(notebook, cell):
    """Return the rows of the table that a cell has shown: their numbers by their names."""
    (html,) = [output.data["text/html"] for output in code_cells(notebook)[cell].outputs]
    rows = BeautifulSoup(html, "html.parser").tbody.find_all("tr")
    cells = [[cell.text.strip("%") for cell in row.find_all("td")] for row in rows]
    numbers = [[float(cell) for cell in row if re.fullmatch(r"-?[\d.]+", cell)] for row in cells]
    return dict(zip([row.th.text for row in rows], numbers, strict=True))


def per_cent(error):
    return round(100 * error, 2)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """What the lesson's cells up to the mistakes of step 2 have made, as they stand."""
    folder = tmp_path_factory.mktemp("lesson")
    names = {"MNIST_CNN": MNIST_CNN, "to_azure": to_azure, "write_sweep": write_sweep, "yaml": yaml}
    names |= {"Path": Path, "tempfile": SimpleNamespace(mkdtemp=lambda: folder), "shutil": shutil, "io": io}
    names |= {"hpo_helpers": hpo_helpers, "save_npz": save_npz, "load_mnist": load_mnist, "load_job": load_job}
    for cell in ("azure-trial", "azure-build", "azure-write", "azure-code", "azure-mistakes"):
        exec(code_cells(LESSON)[cell].source, names)
    exec(code_cells(LESSON)["azure-checked"].source.partition("for name, change")[0], names)
    return names


def test_what_travels_to_azure_trains_there_and_its_model_is_kept(lesson):
    """The shell makes whole numbers of quantised values, in whatever form they come."""
    filled = re.sub(r"\$\{\{search_space\.(\w+)\}\}", "16.0", lesson["command"])
    filled = filled.replace("${{inputs.mnist}}", str(lesson["folder"] / lesson["inputs"]["mnist"]["path"]))
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {filled}"], capture_output=True, text=True, check=True)
    arguments = shown.stdout.split()
    files = {name for name in arguments if name.endswith(".py")}
    assert files | {"mxnet_compat.py"} == {path.name for path in (lesson["folder"] / "code").iterdir()}
    options = train_mnist._parser().parse_args(arguments[arguments.index("train_mnist.py") + 1 :])
    assert {vars(options)[name] for name in MNIST_CNN} == {16} and options.epochs == 27
    assert options.model_dir == "outputs"
    assert sum(len(labels) for _, labels in train_mnist.load_data(options.data)) == 5000


def test_the_lines_to_take_along_log_each_epoch_and_save_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.mkdtemp", lambda: tmp_path)
    names = {}
    for cell in ("own-project", "own-project-2", "own-project-3", "own-project-4"):
        exec(code_cells(LESSON)[cell].source, names)
    check_sweep(names["sweep"])
    assert isinstance(type(names["job"]).studio_url, property)
    (tmp_path / "mlflow.py").write_text("def log_metric(name, value, step): print(name, step, value)")
    command = [sys.executable, "src/train.py", "--data", "digits.csv", "--rate", "0.01", "--units", "32.0"]
    settings = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(tmp_path)}}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, **settings).stdout
    logged = [line.split() for line in shown.splitlines()]
    assert [row[:2] for row in logged] == [["valid_error", str(epoch)] for epoch in range(1, 21)]
    assert float(logged[-1][2]) < 0.1 and (tmp_path / "outputs" / "model.joblib").stat().st_size > 1000


def test_a_metric_that_is_logged_once_lets_no_policy_act():
    assert "no policy cancels anything" in lesson_text(LESSON)
    for policy in (BanditPolicy(slack_factor=0), TruncationSelectionPolicy(truncation_percentage=99)):
        study = optuna.create_study(study_name="once", sampler=RandomSampler(0), pruner=policy)
        once = lambda params: [{"valid_error": params["x"], "seconds": 27.0}]  # noqa: E731
        with ReplayLauncher(curves=once) as launcher:
            tune(study, {"x": IntDistribution(0, 99)}, launcher, epochs=1, n_trials=12, progress=False)
        assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_two_rules_decide_as_the_sweeps_did():
    (policies,) = [output["text"] for output in code_cells(LESSON)["azure-bandit"].outputs]
    assert re.findall(r"(\d+) of (\d+) decisions", policies) == [("480", "480"), ("840", "840")]


def test_a_policy_saves_what_the_lesson_says_and_its_losses_show_in_no_error():
    plain, factor, amount, median, truncation = table(LESSON, "azure-twenty-seeds").values()
    said = claimed(LESSON, r"save most, (\d+) % of the time, and canceled (\d+) of the 20 runs")
    assert said == [round(100 * factor[0]), factor[2]] == [round(100 * amount[0]), amount[2]]
    said = claimed(LESSON, r"truncation save (\d+) % and (\d+) %, and canceled none")
    assert said == [round(100 * median[0]), round(100 * truncation[0])]
    assert median[2] == truncation[2] == plain[0] == 0
    assert "the differences in error are smaller than what was detectable" in lesson_text(LESSON)
    assert all(abs(difference) <= detectable for *_, difference, detectable in (factor, amount, median))


def test_a_slack_of_a_tenth_is_wide_for_an_accuracy_and_as_wide_as_noise_for_an_error():
    accuracy, error, slack = claimed(LESSON, r"of (\d+) % nine points, and an error of (\d) % only ([\d.]+\d)")
    assert round(accuracy - accuracy / 1.1) == 9 and error * 0.1 == pytest.approx(slack)
    noise = load_curves("mnist_cnn_noise").query("epoch == 27").groupby("configuration")["valid_error"]
    good = noise.std()[noise.mean() < 0.03]
    assert 0.2 < 100 * good.min() <= slack <= 100 * good.max()


def test_the_run_that_is_drawn_ends_where_the_text_says(lesson, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with ReplayLauncher(n_workers=4) as launcher:
        children = child_runs(run_sweep(lesson["sweep"], launcher, epochs=27))
    (interval,) = claimed(LESSON, r"here always at interval (\d+)")
    assert set(children[children["status"] == "Canceled"]["intervals"]) == {interval}


def test_bayesian_sampling_has_no_policy_and_the_others_may():
    shown = printed(LESSON, "azure-sampling", r"bayesian: (\d+) .*?(\d+) canceled.*grid: \d+ .*?(\d+) c.*random: \d+ .*?(\d+) c")
    assert claimed(LESSON, r"all (\d+) child runs train to their end") == shown[:1]
    assert shown[1] == 0 < min(shown[2:])


def test_azure_s_package_finds_one_of_the_seven_mistakes_and_this_one_all(lesson):
    sweeps = [{**lesson["sweep"], **change} for change in lesson["mistakes"].values()]
    assert "Azure's package finds one of seven" in lesson_text(LESSON)
    found = [lesson["fault"](lesson["azure_check"], sweep) for sweep in sweeps]
    assert [what != "nothing" for what in found] == [False] * 6 + [True]
    assert all("ValueError, " in lesson["fault"](check_sweep, sweep) for sweep in sweeps)


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
    rule = "a shorter one is raised to 60, and of a `trial_timeout` of 600.0 nothing is left"
    assert rule in lesson_text(LESSON)
    assert SweepJobLimits(timeout=30).timeout == SweepJobLimits(trial_timeout=30).trial_timeout == 60
    assert SweepJobLimits(trial_timeout=600.0).trial_timeout is None


def test_the_exponent_is_the_learning_rate_that_the_lesson_names():
    (exponent, rate) = claimed(LESSON, r"−([\d.]+) stands for a learning rate of ([\d.]+\d)")
    assert round(math.exp(-exponent), 3) == rate


def test_a_late_policy_saves_less_and_an_eager_one_loses_the_best():
    plain, soon, late, never, eager = table(SOLUTIONS, "azure-late-runs").values()
    pattern = r"saves (\d+) % of the time and loses the best run for (\d) .* it saves (\d+) % and loses (\d)"
    assert claimed(SOLUTIONS, pattern) == [100 * soon[0], soon[1], 100 * late[0], late[1]]
    assert "With a delay of 30 it is never applied" in lesson_text(SOLUTIONS) and never[:4] == plain
    said = claimed(SOLUTIONS, r"The last one saves (\d+) %, and loses the best run for (\d+) seeds of 10")
    assert said == [100 * eager[0], eager[1]]
    pattern = r"error is ([\d.]+) % instead of ([\d.]+) %.* only one of ([\d.]+\d) points"
    assert claimed(SOLUTIONS, pattern) == [per_cent(eager[3]), per_cent(plain[3]), eager[5]]


def test_bayesian_sampling_finds_what_random_sampling_does():
    random, *others = table(SOLUTIONS, "azure-bayesian").values()
    assert claimed(SOLUTIONS, r"detectable, ([\d.]+) and ([\d.]+\d) points") == [row[3] for row in others]
    assert all(abs(row[2]) < row[3] for row in others)
    said = claimed(SOLUTIONS, r"They take (\d+) s, (\d+) s and, with a policy, (\d+) s")
    assert said == [others[0][0], random[0], others[1][0]]


def test_a_normal_expression_leaves_the_recording():
    pattern = r"(\d+) of 1,000 values lie outside. .* it is (\d+), and the smallest is −(\d+)"
    said = claimed(SOLUTIONS, pattern)
    shown = r"rate: (\d+) of 1,000 .*size: (\d+) of 1,000 .*smallest -(\d+)"
    assert said == printed(SOLUTIONS, "azure-histogram", shown)
