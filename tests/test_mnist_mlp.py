"""benchmarks/mnist_mlp.py: the recorded comparison on all 70,000 images is whole, and its searches come out again."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hpo_helpers.datasets import DataError, load_curves, load_table

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "mnist_mlp.py"


@pytest.fixture
def script(monkeypatch):
    """The script's names, changeable, without its folders on the path of other tests."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module")
def curves():
    return load_curves("mnist_70000_curves")


@pytest.fixture(scope="module")
def searches():
    return load_table("mnist_70000_searches")


def test_the_curves_are_whole_and_reach_to_the_bounds_of_the_space(script, curves):
    runs = curves.groupby(["learning_rate", "seed"])
    assert (runs["epoch"].apply(list).map(tuple) == tuple(range(1, 51))).all()
    assert runs.ngroups == 60 == curves["seed"].nunique()
    assert sorted(curves["learning_rate"].unique()) == script.LEARNING_RATES
    low, high = curves["learning_rate"].min(), curves["learning_rate"].max()
    assert (low, high) == (script.MNIST_MLP["learning_rate"].low, script.MNIST_MLP["learning_rate"].high)
    assert curves[["valid_error", "test_error"]].stack().between(0, 0.2).all() and not curves.isna().any().any()


def test_every_method_searched_under_thirty_seeds_and_stayed_in_the_space_and_its_budget(script, searches):
    assert searches.groupby("method", sort=False)["seed"].apply(list).to_dict() == {
        method: list(range(30)) for method in script.METHODS
    }
    for name, distribution in script.MNIST_MLP.items():
        assert searches[name].between(distribution.low, distribution.high).all()
    spent = searches.pivot(index="seed", columns="method", values="epochs_spent")
    assert (spent[script.MULTI_FIDELITY] <= script.BUDGET).all()
    assert 850 < spent["random search"].mean() < 950
    jobs = searches[searches["method"] != script.MULTI_FIDELITY]
    assert (jobs["n_evaluations"] == 30).all() and (jobs["n_distinct"] <= 30).all()


def test_the_refits_are_of_what_the_searches_chose(script, searches):
    refits = load_table("mnist_70000_refits")
    expected = script.refit_runs(searches).set_index(["configuration", "seed"]).sort_index()
    found = refits.groupby(["configuration", "seed"])
    pd.testing.assert_frame_equal(found[["learning_rate", "epochs"]].first(), expected)
    lengths = found["epochs"].first().to_list()
    assert found["epoch"].apply(list).to_list() == [list(range(1, length + 1)) for length in lengths]
    assert set(refits["seed"]) == {1000 + seed for seed in script.REFIT_SEEDS}
    assert not set(refits["seed"]) & set(load_curves("mnist_70000_curves")["seed"])

    again = script.with_refits(searches.drop(columns="test_accuracy"), refits).round({"test_accuracy": 4})
    pd.testing.assert_frame_equal(again, searches)
    assert searches["test_accuracy"].notna().sum() == len(script.METHODS) * len(script.REFIT_SEEDS)


@pytest.mark.parametrize("method", ["random search", "GA", "PSO", "PAES"])
def test_a_search_comes_out_again(script, curves, searches, method):
    again = pd.DataFrame([script.search(method, seed, curves) for seed in (0, 17)])
    recorded = searches[(searches["method"] == method) & searches["seed"].isin([0, 17])]
    pd.testing.assert_frame_equal(again, recorded.drop(columns="test_accuracy").reset_index(drop=True))


def test_the_summary_is_the_mean_over_the_refitted_seeds(script, searches):
    found = script.summary(searches)
    assert list(found.index) == list(script.METHODS)
    accuracy = searches.loc[searches["method"] == "PSO", "test_accuracy"].dropna()
    assert found.loc["PSO", "test_accuracy"] == round(accuracy.mean(), 4)
    assert found.loc["PSO", "standard_error"] == round(accuracy.std() / len(accuracy) ** 0.5, 4)
    assert found.loc["PSO", "published"] == 0.9795 and np.isnan(found.loc["GA", "published"])
    assert set(script.differences(searches)["method"]) == set(script.METHODS) - {script.MULTI_FIDELITY}


def test_a_job_is_answered_by_the_nearest_learning_rate_under_one_of_its_seeds(script, curves):
    recorded = {tuple(run["valid_error"]) for _, run in curves[curves["learning_rate"] == 0.07].groupby("seed")}
    drawn = set()
    for seed in range(20):
        answer = script.NearestCurves(seed, curves)
        for rate in (0.0651, 0.0699, 0.0749):
            curve = answer({"learning_rate": rate})
            assert curve == answer({"learning_rate": rate})
            assert all(metrics["seconds"] == 1 and "test_error" not in metrics for metrics in curve)
            drawn.add(tuple(metrics["valid_error"] for metrics in curve))
    assert drawn == recorded and len(drawn) == 3


def test_only_training_asks_for_the_images(script, searches, tmp_path, monkeypatch):
    """Without them, a script that has its recordings runs to its end; one that would have to train says so."""
    monkeypatch.setenv("HPO_HELPERS_MNIST", str(tmp_path / "nowhere"))
    curves = script.record_curves()
    assert len(curves) == 60 * 50 and len(script.record_refits(searches)) > 0
    for function in (script.record_curves, lambda: script.record_refits(searches)):
        monkeypatch.setitem(script.record_curves.__globals__, "DATA", tmp_path)
        with pytest.raises(DataError, match="HPO_HELPERS_MNIST names '.*nowhere'"):
            function()
    assert not list(tmp_path.iterdir())
