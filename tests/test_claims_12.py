"""What lesson 12 and its solutions say, of Azure's package and of policies in general.

The sweeps of many seeds are not run here once more: nbval runs the cells that print them. Here the prose is
held against what those cells have printed.
"""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from bs4 import BeautifulSoup
from claims import claimed, code_cells, lesson_text

from hpo_helpers import train_mnist
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN, to_azure
from hpo_helpers.sweeps import check_sweep, child_runs, run_sweep, write_sweep

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
    numbers = [[float(cell.text.rstrip("%")) for cell in row.find_all("td")] for row in rows]
    return dict(zip([row.th.text for row in rows], numbers, strict=True))


def per_cent(error):
    return round(100 * error, 2)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """What the lesson's cells up to the mistakes of step 2 have made, as they stand."""
    folder = tmp_path_factory.mktemp("lesson")
    names = {"MNIST_CNN": MNIST_CNN, "to_azure": to_azure, "write_sweep": write_sweep, "yaml": yaml}
    names |= {"Path": Path, "tempfile": SimpleNamespace(mkdtemp=lambda: folder)}
    for cell in ("azure-trial", "azure-build", "azure-code", "azure-mistakes"):
        exec(code_cells(LESSON)[cell].source, names)
    exec(code_cells(LESSON)["azure-checked"].source.partition("for name, change")[0], names)
    return names


def test_what_travels_to_azure_trains_there(lesson):
    filled = re.sub(r"\$\{\{search_space\.(\w+)\}\}", "16", lesson["command"])
    options = train_mnist._parser().parse_args(filled.partition("train_mnist.py ")[2].split())
    assert {vars(options)[name] for name in MNIST_CNN} == {16} and options.epochs == 27
    parts = train_mnist.load_data(lesson["code"])
    assert sum(len(labels) for _, labels in parts) == 5000


def test_a_policy_saves_what_the_lesson_says_and_seldom_loses_the_best():
    pattern = r"Over (\d+) seeds .* saves (\d+) % .*, between (\d+) % and (\d+) %. .* child run for (\d+)"
    n_seeds, *saved, n_kept = claimed(LESSON, pattern)
    assert saved == printed(LESSON, "azure-same-best", r"saved (\d+)% of the time, (\d+)% to (\d+)%")
    assert [n_kept, n_seeds] == printed(LESSON, "azure-same-best", r"for (\d+) of (\d+) seeds")


def test_a_script_that_logs_once_is_never_canceled_and_saves_nothing():
    assert "it cancels nothing and saves nothing" in lesson_text(LESSON)
    ways = table(LESSON, "azure-twenty-seeds")
    assert ways["bandit, logs once"][:3] == ways["no policy"][:3]
    assert ways["no policy"][0] == 0 < ways["bandit, logs each epoch"][0]


def test_the_run_that_is_drawn_ends_where_the_text_says(lesson, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with ReplayLauncher(n_workers=4) as launcher:
        children = child_runs(run_sweep(lesson["sweep"], launcher, epochs=27))
    (interval,) = claimed(LESSON, r"all dots are at interval (\d+)")
    assert set(children[children["status"] == "Canceled"]["intervals"]) == {interval}


def test_bayesian_sampling_has_no_policy_and_a_grid_may():
    shown = r"{}: (\d+) child runs, (\d+) canceled, (\d+) s"
    n_trials, n_canceled, seconds = printed(LESSON, "azure-sampling", shown.format("bayesian"))
    said = claimed(LESSON, r"all (\d+) child runs train to their end, and take (\d+) s")
    assert said == [n_trials, seconds] and n_canceled == 0
    n_trials, n_canceled, _ = printed(LESSON, "azure-sampling", shown.format("grid"))
    assert claimed(LESSON, r"The grid may, and (\d+) of its (\d+) are canceled") == [n_canceled, n_trials]


def test_azure_s_package_finds_one_of_the_seven_mistakes_and_this_one_all(lesson):
    sweeps = [{**lesson["sweep"], **change} for change in lesson["mistakes"].values()]
    assert "It finds one of seven" in lesson_text(LESSON)
    assert [lesson["azure_finds"](sweep) != "nothing" for sweep in sweeps] == [False] * 6 + [True]
    for sweep in sweeps:
        with pytest.raises(ValueError, match="got "):
            check_sweep(sweep)


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
    said = claimed(SOLUTIONS, r"policy saves (\d+) % of the time, from interval 10 on (\d+) %")
    assert said == [soon[0], late[0]]
    assert "neither loses the best run in ten seeds" in lesson_text(SOLUTIONS)
    assert soon[1] == late[1] == 0
    assert "With a delay of 30 it is never applied" in lesson_text(SOLUTIONS)
    assert never == plain
    said = claimed(SOLUTIONS, r"The last one saves (\d+) %, and loses the best run for (\d+) seeds of 10")
    assert said == eager[:2]
    said = claimed(SOLUTIONS, r"mean test error of ([\d.]+) % instead of ([\d.]+) %")
    assert said == [per_cent(eager[2]), per_cent(plain[2])]


def test_bayesian_sampling_finds_what_random_sampling_does():
    bayesian, random, with_policy = table(SOLUTIONS, "azure-bayesian").values()
    pattern = r"about the same: ([\d.]+) % and ([\d.]+) %, where seeds alone spread by ([\d.]+) %"
    assert claimed(SOLUTIONS, pattern) == [per_cent(bayesian[2]), per_cent(random[2]), per_cent(bayesian[3])]
    assert bayesian[3] == random[3]
    assert claimed(SOLUTIONS, r"They take (\d+) s and (\d+) s") == [round(bayesian[0]), round(random[0])]
    said = claimed(SOLUTIONS, r"takes (\d+) s for a mean test error of ([\d.]+\d) %")
    assert said == [round(with_policy[0]), per_cent(with_policy[2])]


def test_a_normal_expression_leaves_the_recording():
    pattern = r"(\d+) of 1,000 values lie outside. .* it is (\d+), and the smallest is −(\d+)"
    said = claimed(SOLUTIONS, pattern)
    shown = r"rate: (\d+) of 1,000 .*size: (\d+) of 1,000 .*smallest -(\d+)"
    assert said == printed(SOLUTIONS, "azure-histogram", shown)
