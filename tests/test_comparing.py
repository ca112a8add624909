"""Comparing methods: who is the incumbent when, and which differences hold."""

import math

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import RandomSampler, TPESampler
from scipy.stats import wilcoxon
from virtual import VirtualLauncher

from hpo_helpers.comparing import (
    at_times,
    paired_differences,
    run_methods,
    summarise,
)

SPACE = {"x": FloatDistribution(0.0, 1.0)}


def falling(params):
    """Nine epochs of one second; the better configuration has the smaller x."""
    for epoch in range(1, 10):
        yield 1.0, params["x"] + 1 / epoch


def broken(params):
    raise OSError("the disk is full")


def random_search(seed):
    return optuna.create_study(study_name=f"random-{seed}", sampler=RandomSampler(seed=seed))


def tpe_and_hyperband(seed):
    pruner = HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
    sampler = TPESampler(seed=seed, n_startup_trials=3)
    return optuna.create_study(study_name=f"bohb-{seed}", sampler=sampler, pruner=pruner)


def compare(methods, seeds=(0, 1), curve=falling, **settings):
    limits = {"epochs": 9, "timeout": 40.0, "n_jobs": 1} | settings
    return run_methods(methods, seeds, space=SPACE, launcher=lambda seed: VirtualLauncher(curve, 2), **limits)


def table_of(columns, name="test_error"):
    """One row for each method and seed at one time, from ``{method: [one number a seed]}``."""
    rows = [(m, seed, 1.0, error) for m, errors in columns.items() for seed, error in enumerate(errors)]
    return pd.DataFrame(rows, columns=["method", "seed", "time", name])


def test_every_method_runs_with_every_seed_and_the_incumbents_come_in_that_order():
    table = compare({"tpe": tpe_and_hyperband, "random": random_search}, seeds=[7, 3])
    runs = list(table[["method", "seed"]].drop_duplicates().itertuples(index=False, name=None))
    assert runs == [("tpe", 7), ("tpe", 3), ("random", 7), ("random", 3)]
    assert list(table)[:6] == ["method", "seed", "trial", "epoch", "time", "value"] and "valid_error" in table
    for _, run in table.groupby(["method", "seed"]):
        assert run["time"].is_monotonic_increasing and run["time"].max() <= 40
        assert run["value"].is_monotonic_decreasing and run["value"].is_unique
    assert table[table["seed"] == 7]["value"].min() != table[table["seed"] == 3]["value"].min()


def test_the_table_is_the_same_in_two_processes():
    again = lambda seed: tpe_and_hyperband(seed)  # noqa: E731, as one writes it in a cell of a notebook
    methods = {"random": random_search, "tpe": tpe_and_hyperband, "again": again}
    table = compare(methods)
    pd.testing.assert_frame_equal(compare(methods, n_jobs=2), table)
    tpe, again = (table[table["method"] == name].drop(columns="method") for name in ("tpe", "again"))
    pd.testing.assert_frame_equal(tpe.reset_index(drop=True), again.reset_index(drop=True))


def test_a_run_that_fails_is_named_with_its_reason():
    with pytest.raises(RuntimeError, match=r"method 'random' failed with seed 5.*the disk is full"):
        compare({"random": random_search}, seeds=[5], curve=broken, n_jobs=2)


def test_a_run_in_which_nothing_was_reported_is_an_error_and_not_left_out():
    with pytest.raises(RuntimeError, match=r"'random' failed with seed 0.*reported anything in 0.5 s"):
        compare({"random": random_search}, timeout=0.5)


def test_a_method_must_return_a_new_study_with_a_name():
    study = random_search(0)
    with pytest.raises(RuntimeError, match="'same' failed with seed 1.*'random-0' has trials already"):
        compare({"same": lambda seed: study})
    with pytest.raises(RuntimeError, match="'nameless' failed with seed 0.*study_name"):
        compare({"nameless": lambda seed: optuna.create_study()})


def test_seeds_must_be_distinct_and_at_least_one():
    for seeds in ([], [1, 2, 1]):
        with pytest.raises(ValueError, match="distinct seeds"):
            compare({"random": random_search}, seeds=seeds)


def test_the_incumbent_at_a_time_is_the_last_one_reported_by_then():
    rows = [
        ("a", 0, 1.0, 3, 0.50, 0.55),
        ("a", 0, 4.0, 4, 0.20, 0.25),
        ("a", 0, 8.0, 5, 0.10, 0.30),  # better on validation, worse on test
        ("a", 1, 2.0, 1, 0.40, 0.45),
        ("b", 0, 3.0, 2, 0.30, 0.35),
        ("b", 1, 3.0, 9, 0.30, 0.15),
    ]
    columns = ["method", "seed", "time", "trial", "value", "test_error"]
    incumbents = pd.DataFrame(rows, columns=columns)
    table = at_times(incumbents, [4, 1.5, 100])
    run = table[(table["method"] == "a") & (table["seed"] == 0)]
    assert run["time"].tolist() == [4.0, 1.5, 100.0]
    assert run["trial"].tolist() == [4, 3, 5]
    assert run["test_error"].tolist() == [0.25, 0.55, 0.30]  # that of the incumbent, not the lowest so far
    assert len(table) == 4 * 3
    late = table[(table["method"] == "a") & (table["seed"] == 1)]["test_error"]
    assert late.tolist() == pytest.approx([0.45, math.nan, 0.45], nan_ok=True)  # none before its first


def test_median_and_quartiles_are_over_seeds():
    errors = [0.5, 0.1, 0.2, 0.4]
    (row,) = summarise(table_of({"a": errors})).to_dict("records")
    assert row == {
        "method": "a",
        "time": 1.0,
        "n_seeds": 4,
        "n_missing": 0,
        "lower_quartile": pytest.approx(np.quantile(errors, 0.25)),
        "median": pytest.approx(0.3),
        "upper_quartile": pytest.approx(np.quantile(errors, 0.75)),
    }


def test_a_missing_value_is_worse_than_all_others_in_a_median():
    (row,) = summarise(table_of({"a": [math.nan, 0.3, 0.1]})).to_dict("records")
    assert (row["lower_quartile"], row["median"], row["n_missing"]) == (pytest.approx(0.2), 0.3, 1)
    assert math.isnan(row["upper_quartile"])


def test_only_seeds_that_all_methods_have_are_compared():
    found = paired_differences(table_of({"a": [0.3, 0.1, 0.1], "b": [0.2, 0.2, 0.2, 0.0]}), "a")
    assert found["n_seeds"].tolist() == [3]
    with pytest.raises(ValueError, match=r"2 seeds must be common.*got \[0\]"):
        paired_differences(table_of({"a": [0.1], "b": [0.2, 0.3]}), "a")


def test_a_difference_of_the_detectable_size_is_found_four_times_out_of_five():
    random = np.random.default_rng(0)
    sample = random.normal(size=40)
    sample = (sample - sample.mean()) / sample.std(ddof=1)
    size = paired_differences(table_of({"base": 0 * sample, "other": sample}), "base")["detectable"][0]
    p_values = wilcoxon(random.normal(size, 1, (1000, 40)), axis=1).pvalue
    assert 0.75 < (p_values < 0.05).mean() < 0.83


@pytest.fixture
def clear():
    """Twenty seeds that differ far more than the methods do: only pairs tell good and poor from base."""
    random = np.random.default_rng(0)
    level = random.uniform(0.1, 0.5, 20)
    base, same = level + random.normal(0, 0.002, 20), level + random.normal(0, 0.002, 20)
    return table_of({"poor": level + 0.01, "base": base, "good": level - 0.01, "same": same})


def verdicts_of(table):
    found = paired_differences(table, "base")
    return list(found[["method", "verdict"]].itertuples(index=False, name=None))


def test_better_and_worse_are_said_where_they_hold_and_again(clear):
    assert verdicts_of(clear) == [("poor", "worse"), ("good", "better"), ("same", "no difference")]
    pd.testing.assert_frame_equal(paired_differences(clear, "base"), paired_differences(clear, "base"))


def test_the_p_value_is_that_of_the_signed_ranks_and_five_seeds_are_too_few():
    # All of six differences are negative and distinct: the exact p-value is 2 / 2**6.
    errors = [0.4, 0.39, 0.38, 0.37, 0.36, 0.35]
    (row,) = paired_differences(table_of({"base": [0.5] * 6, "a": errors}), "base").to_dict("records")
    assert row["p_value"] == pytest.approx(2 / 64)
    assert row["verdict"] == "better"
    (row,) = paired_differences(table_of({"base": [0.5] * 5, "a": errors[:5]}), "base").to_dict("records")
    assert row["high"] < 0 and row["verdict"] == "no difference"


def test_differences_that_only_rounding_keeps_apart_tie():
    errors = np.arange(10) / 1000
    signs = np.array([1, 1, 1, 1, 1, 1, 1, -1, -1, -1])
    apart = paired_differences(table_of({"base": errors, "a": errors + signs / 1000}), "base")
    whole = paired_differences(table_of({"base": np.zeros(10), "a": signs}), "base")
    assert apart["p_value"].tolist() == whole["p_value"].tolist()


@pytest.mark.filterwarnings("error")
def test_a_method_that_is_the_baseline_does_not_differ():
    table = table_of({"base": [0.1, 0.2, 0.3], "twin": [0.1, 0.2, 0.3]})
    (row,) = paired_differences(table, "base").to_dict("records")
    assert (row["difference"], row["low"], row["high"], row["p_value"]) == (0, 0, 0, 1)
    assert row["verdict"] == "no difference"


def test_p_values_are_adjusted_by_holm_among_the_methods_of_a_time():
    random = np.random.default_rng(1)
    shifts = {"base": 0.0, "a": 0.05, "b": 0.03, "c": 0.02}
    one = table_of({name: shift + random.normal(0, 0.05, 12) for name, shift in shifts.items()})
    two = one.assign(time=2.0, test_error=random.normal(0, 1, 48))
    found = paired_differences(pd.concat([one, two]), "base")
    at_one = found[found["time"] == 1.0].sort_values("p_value")
    p = at_one["p_value"].to_numpy()
    by_hand = [3 * p[0], max(3 * p[0], 2 * p[1]), max(3 * p[0], 2 * p[1], p[2])]
    assert at_one["p_adjusted"].tolist() == pytest.approx([min(1, value) for value in by_hand])
    assert (found["p_adjusted"] >= found["p_value"]).all() and found["p_adjusted"].max() <= 1


def test_an_unknown_baseline_and_a_missing_incumbent_are_errors(clear):
    with pytest.raises(ValueError, match="got 'bass'"):
        paired_differences(clear, "bass")
    with pytest.raises(ValueError, match="two or more methods"):
        paired_differences(clear[clear["method"] == "base"], "base")
    clear.loc[3, "test_error"] = math.nan
    with pytest.raises(ValueError, match="'method': 'poor', 'seed': 3, 'time': 1.0"):
        paired_differences(clear, "base")
