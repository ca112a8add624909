"""What lesson 13 says of a round of tuning, of transfer, failures and schedules, and what a report holds."""

import os
import runpy
import shutil

import numpy as np
import optuna
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from claims import claimed, code_cells, lesson_text
from notebook_files import NOTEBOOKS, comparison
from scipy.stats import binom

from hpo_helpers import comparing, report
from hpo_helpers.curves import expected_errors
from hpo_helpers.datasets import load_curves, load_table

LESSON = "13_your_own_project"
SCRIPT = runpy.run_path(str(NOTEBOOKS.parent / "data" / "record_lesson_13.py"))
TEXT = lesson_text(LESSON)


@pytest.fixture(scope="module")
def ends():
    """Return the 500 trainings of random search that the round is about, after 27 epochs."""
    return load_table("mnist_mlp_13").query("method == 'random' and state == 'complete' and epoch == 27 and seed >= 1000")


def test_a_nuisance_hyperparameter_decides_the_answer_where_it_is_fixed(ends):
    best = ends.loc[ends.groupby(["seed", "optimizer"])["valid_error"].idxmin()]
    pair = comparing.paired_differences(best.assign(method=best["optimizer"], time=0), "sgd").iloc[0]
    assert pair["verdict"] == "no difference"
    assert claimed(LESSON, r"a difference of (\d) points would show") == [round(100 * pair["detectable"])]
    decade = np.floor(np.log10(ends["learning_rate"]))
    lowest = ends.groupby([decade, "optimizer"])["valid_error"].min().unstack()
    said = claimed(LESSON, r"Adam's best is ([\d.]+) % and SGD's ([\d.]+); above 0.1 they are ([\d.]+) and ([\d.]+)\.")
    assert [f"{number}%" for number in said] == list(map("{:.1%}".format, lowest.loc[[-3, -1]].to_numpy().ravel()))


def test_the_checks_find_what_the_next_round_is_told(ends):
    ten = pd.concat([group.nsmallest(10, "valid_error") for _, group in ends.groupby("optimizer")])
    n_good = (ends["valid_error"] < ends["valid_error"].min() + 0.01).sum()
    assert "Nine trials of 500 are good, not quite one a run" in TEXT and n_good == 9
    curves = load_table("mnist_mlp_13").merge(ten[["method", "seed", "trial", "state"]])
    means = curves.groupby("epoch")["valid_error"].mean()
    assert "Errors fall by a third" in TEXT and 0.6 < means[27] / means[9] < 0.7
    share = np.log(ten["learning_rate"] / 1e-4) / np.log(1e4)
    assert (share > 0.9).groupby(ten["optimizer"]).sum().to_dict() == {"adam": 0, "sgd": 3}
    assert "among twelve counts chance alone makes about one such" in TEXT and round(12 * binom.sf(2, 10, 0.1)) == 1


def test_searches_vary_more_than_trainings_and_not_every_default_is_beaten():
    refits = load_table("mnist_mlp_13").query("state == 'refit' and epoch == 27 and (method != 'random' or seed >= 1000)")
    by_run = refits.groupby(["method", "seed"])["test_error"].agg(["mean", "var"])
    random = by_run.loc["random"]
    assert "Here the search varies most" in TEXT
    assert random["mean"].std() > 2 * np.sqrt(random["var"].mean())
    default = by_run.loc["default alone", "mean"]
    assert default.mean() - random["mean"].mean() > 2 * np.hypot(default.sem(), random["mean"].sem())
    training = load_curves().groupby("configuration")["seconds"].sum().mean()
    cnn = load_table("method_comparison").query("setting == 'cnn'")
    cnn = expected_errors(comparing.at_times(cnn, [20 * training / 4])).groupby("method")["expected_error"].mean()
    assert "On the CNN the gain is negative" in TEXT and cnn["default alone"] == cnn.min()


def differences(name, baseline, value):
    pairs = comparing.paired_differences(load_table(f"lesson_13_{name}").assign(time=0), baseline, value=value)
    return pairs.set_index("method")


def test_another_model_gains_more_than_tuning():
    pairs = differences("boosting", "default", "test_error")
    assert (pairs["verdict"] == "better").all()
    said = claimed(LESSON, r"Tuning lowers the error by ([\d.]+) on average, ridge regression by ([\d.]+)")
    methods = ["tuned", "ridge regression"]
    assert said == list((-pairs["difference"]).round(1)[methods])
    errors = load_table("lesson_13_boosting").pivot(index="seed", columns="method", values="test_error")
    corrected = errors[methods].sub(errors["default"], axis=0).std() * np.sqrt(1 / 20 + 110 / (442 - 110))
    assert claimed(LESSON, r"Corrected, the standard errors are ([\d.]+) and ([\d.]+)") == list(corrected.round(1))
    assert list(-pairs["difference"][methods] > 2 * corrected) == [False, True]


def test_what_a_sampler_is_not_told_it_does_not_avoid():
    means = load_table("lesson_13_failures")
    means["failed"] = means["failures"].str.count("x")
    said = claimed(LESSON, r"Told FAIL, TPE fails ([\d.]+) times in 40, told the error of guessing ([\d.]+) times")
    failed = means.groupby("method")["failed"].mean()
    assert np.allclose(said, failed[["TPE, told FAIL", "TPE, told 90 %"]], atol=0.051)
    pairs = comparing.paired_differences(means.assign(time=0), "TPE, told 90 %", value="failed")
    assert (pairs["verdict"] == "worse").all() and "nearly half of the configurations diverge" in TEXT
    assert 0.4 < failed["random search"] / 40 < 0.5
    fail = differences("failures", "TPE, told 90 %", "valid_error").loc["TPE, told FAIL"]
    assert fail["verdict"] == "no difference"
    assert claimed(LESSON, r"error no difference was seen; one of ([\d.]+)") == [round(100 * fail["detectable"], 1)]


def test_the_default_is_worth_more_than_an_earlier_study():
    training = load_curves().groupby("configuration")["seconds"].sum().mean()
    found = comparing.at_times(load_table("lesson_13_transfer"), training * np.array([5, 10, 20]))
    found = expected_errors(found).assign(time=np.tile([5, 10, 20], len(found) // 3))
    pairs = comparing.paired_differences(found, "default", value="expected_error", confidence=1 - 0.05 / 3)
    pairs = pairs.set_index(["method", "time"])
    assert list(pairs.index[pairs["verdict"] != "no difference"]) == [("nothing", 5)]
    assert claimed(LESSON, r"error is ([\d.]+) points higher at 5") == [round(100 * pairs["difference"]["nothing", 5], 2)]
    best = (100 * pairs.loc["default, best three", 10][["difference", "detectable"]].astype(float)).round(2)
    assert claimed(LESSON, r"with ([\d.]+) points at 10 trainings; ([\d.]+) would") == [-best.iloc[0], best.iloc[1]]
    assert pairs["difference"].loc[:, 10].idxmin() == "default, best three"


def test_early_rungs_do_not_keep_a_cosine_schedule_back():
    runs = load_table("mnist_mlp_13").query("method == 'random' and state == 'complete' and seed >= 1000")
    leaders = runs.sort_values("valid_error").groupby(["epoch", "seed"]).head(10)
    counts = (leaders["schedule"] == "cosine").groupby([leaders["seed"], leaders["epoch"]]).sum().unstack()
    long = counts[[3, 9, 27]].rename_axis(columns="method").stack().rename("cosine").reset_index().assign(time=0)
    pairs = comparing.paired_differences(long, 27, value="cosine")
    assert (pairs["verdict"] == "no difference").all()
    assert claimed(LESSON, r"one of ([\d.]+) among ten would have been") == [round(pairs["detectable"].max(), 1)]


@pytest.mark.parametrize(
    "name, method, seed",
    [("boosting", "tuned", 7), ("failures", "TPE, told FAIL", 13007), ("transfer", "default, all trials, scaled", 13007)],
)
def test_some_recorded_runs_come_out_again(name, method, seed):
    run, methods, seeds = SCRIPT["EXPERIMENTS"][name]
    recorded = load_table(f"lesson_13_{name}")
    assert set(zip(recorded["method"], recorded["seed"], strict=True)) == {(m, s) for m in methods for s in seeds}
    recorded, anew = recorded.query("method == @method and seed == @seed"), run(method, seed).round(6)
    pd.testing.assert_frame_equal(anew, recorded[anew.columns].set_axis(anew.index), atol=2e-5, check_dtype=False)


@pytest.mark.skipif(not (shutil.which("awk") and hasattr(os, "fork")), reason="needs awk, and to fork")
def test_the_program_in_awk_finds_what_was_recorded():
    recorded, anew = load_table("lesson_13_awk"), SCRIPT["lesson_awk"]()
    pd.testing.assert_frame_equal(anew[recorded.columns], recorded, rtol=1e-3, check_dtype=False)


def test_the_twins_agree_within_their_errors():
    twins = load_table("lesson_13_twins").set_index("twin")
    distance = twins["test_error"].diff().abs().iloc[-1]
    assert set(twins.index) == {"mxnet", "torch"} and distance < 3 * np.hypot(*twins["standard_error"])


@pytest.fixture(params=["one objective", "two objectives"])
def study(request):
    study = optuna.create_study(study_name="<b>", directions=["minimize"] * (1 + (request.param == "two objectives")))
    for number in range(12):
        trial = study.ask()
        x = trial.suggest_float("x", 0.001, 1, log=True) if number else None
        y = trial.suggest_categorical("y", ["a", "b"])
        values = [(x or 1) + (y == "a"), 1 - (x or 1)][: len(study.directions)]
        study.tell(trial, None if number == 3 else values, state=optuna.trial.TrialState.FAIL if number == 3 else None)
    return study


def test_a_report_holds_what_one_would_ask(study, tmp_path):
    told = {"planned": {"trials": 12}, "not_claimed": ["a < b"], "reproduce": {"commit": "0abc"}}
    path = tmp_path / "report.html"
    headings = report.write_report(path, study, tests=pd.DataFrame({"error": {"tuned": 0.1}}), **told)
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    assert [heading.text for heading in page.find_all("h2")] == headings
    assert page.h1.text == "<b>" and "a < b" in page.text and "0abc" in page.text and page.find("svg")
    is_single = len(study.directions) == 1
    assert ("Pareto front" in headings) != is_single and any("PED-ANOVA" in heading for heading in headings) == is_single
    cells = [cell.text for cell in page.find_all(["th", "td"])]
    assert cells[cells.index("fail") + 1] == "1" and cells[cells.index("complete") + 1] == "11"


def test_a_best_value_at_a_bound_is_said(tmp_path):
    study = optuna.create_study(study_name="bound", sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda trial: trial.suggest_float("rate", 1e-3, 1, log=True) + trial.suggest_int("k", 0, 10) ** 2, 30)
    space = report.search_space(study)
    assert space.loc["k", ["range", "best", "near a bound"]].tolist() == ["0 to 10", "0", True]
    assert space.loc["rate", "range"] == "0.001 to 1, logarithmic"


def test_the_report_of_the_lesson_says_what_one_would_rather_not_hear():
    assert "the learning rate is at a bound, the importances come from six trials" in TEXT
    outputs = {name: comparison.printed(code_cells(LESSON)[name].outputs) for name in ("report", "report-space")}
    assert "from 6 complete trials" in outputs["report"]
    assert [line.split()[0] for line in outputs["report-space"].splitlines() if "True" in line] == ["learning_rate"]
