"""What lesson 05 says of methods in general, computed anew."""

import heapq
import math
import runpy
from bisect import insort
from zlib import crc32

import numpy as np
import optuna
import pandas as pd
import pytest
from claims import claimed, code_cells, define
from notebook_files import NOTEBOOKS
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import TrialState
from scipy.stats import binomtest, ttest_ind

from hpo_helpers.comparing import anytime, paired_differences
from hpo_helpers.curves import NoisyCurves, expected_errors
from hpo_helpers.datasets import load_curves, load_study, load_table
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN, to_unit_cube
from hpo_helpers.tuning import tune

LESSON, SOLUTIONS = "05_multi_fidelity", "solutions/05_multi_fidelity_solutions"
CURVES = load_curves()
ERRORS = CURVES.pivot(index="configuration", columns="epoch", values="valid_error")
TEST_ERRORS = CURVES.pivot(index="configuration", columns="epoch", values="test_error")


def names_of(notebook, noise_cell):
    """The functions that a notebook writes out, as they stand in its cells, and its noise."""
    names = {"curves": CURVES, "errors": ERRORS, "test_errors": TEST_ERRORS, "error_after": ERRORS.to_dict()}
    names |= {
        "test_error_after": TEST_ERRORS.to_dict(),
        "optuna": optuna,
        "crc32": crc32,
        "load_curves": load_curves,
    }
    names |= {"np": np, "pd": pd, "math": math, "heapq": heapq, "insort": insort}
    names |= {"paired_differences": paired_differences}
    define(notebook, names)
    exec(code_cells(notebook)[noise_cell].source, names)
    return names


def compared(names, notebook, cell, baseline, **settings):
    """Run a cell of a comparison, and return its table and the differences, in percentage points."""
    exec(code_cells(notebook)[cell].source, names)
    found = next(
        value for value in reversed(names.values()) if isinstance(value, pd.DataFrame) and "method" in value
    )
    return found, names["compared"](found, baseline, **settings)


@pytest.fixture(scope="module")
def lesson():
    return names_of(LESSON, "d135f8ba")


def rank_correlations(among, column=27):
    return among[[1, 3, 9, 26, 27]].corrwith(among[column], method="spearman").round(2)


def test_an_early_epoch_ranks_much_as_the_last_one_does():
    said = claimed(LESSON, r"After one epoch it is ([\d.]+), after nine ([\d.]+)\.")
    assert said == list(rank_correlations(ERRORS)[[1, 9]])
    (rank,) = claimed(LESSON, r"It is, at rank (\d+)")
    assert rank == ERRORS[1].rank(method="min")[ERRORS[27].idxmin()]


def test_curves_that_start_badly_end_in_the_worse_half():
    sentence = r"Of all (\d+) curves that are above 80 % after one epoch, (\d+) end in the worse half"
    start_badly = ERRORS.index[ERRORS[1] > 0.8]
    n_worse = (ERRORS.loc[start_badly, 27] > ERRORS[27].median()).sum()
    assert claimed(LESSON, sentence) == [len(start_badly), n_worse]
    said = claimed(LESSON, r"(\d+) of the 1,008 curves are below (\d+) % .* above (\d+) %")
    assert said == [((ERRORS[1] < 0.3) & (ERRORS[27] > 0.8)).sum(), 30, 80]


def test_among_the_best_no_epoch_ranks_well():
    said = claimed(
        LESSON,
        r"In the best tenth the correlation after one epoch is ([\d.]+)\. .* no more than ([\d.]+), "
        r"and the test error of the very same network ([\d.]+\d)",
    )
    tenth = ERRORS.loc[ERRORS[27].rank(method="first") <= len(ERRORS) / 10]
    by_test = tenth[27].corr(TEST_ERRORS.loc[tenth.index, 27], method="spearman").round(2)
    assert said == [*rank_correlations(tenth)[[1, 26]], by_test]
    epochs = [1, 3, 9, 26]
    assert (rank_correlations(tenth)[epochs] < rank_correlations(ERRORS)[epochs] - 0.4).all()
    ends = claimed(LESSON, r"end between ([\d.]+) % and ([\d.]+) %")
    assert ends == pytest.approx([100 * tenth[27].min(), 100 * tenth[27].max()])


def test_a_seed_moves_an_error_as_far_as_the_lesson_says():
    noise = load_curves("mnist_cnn_noise").query("epoch == 27").groupby("configuration")["valid_error"]
    six = 100 * noise.std()[noise.mean().nsmallest(6).index]
    said = claimed(LESSON, r"moves an error by ([\d.]+) to ([\d.]+) percentage points")
    assert said == [round(six.min(), 1), round(six.max(), 1)]


def test_early_epochs_favour_small_batches_and_no_dropout():
    kinds = CURVES.drop_duplicates("configuration").set_index("configuration")
    hundreds = [kinds.loc[ERRORS[epoch].nsmallest(100).index] for epoch in (1, 27)]
    small = claimed(LESSON, r"lead after one epoch, (\d+) have the batch size 16.* in the end, (\d+) have")
    assert small == [(hundred["batch_size"] == 16).sum() for hundred in hundreds]
    dropped = claimed(LESSON, r"goes the other way: from (\d+) to (\d+)")
    assert dropped == [(hundred["dropout"] == 0.5).sum() for hundred in hundreds]
    # The margin, on pairs that differ in dropout alone and of which one ends well.
    others = [name for name in MNIST_CNN if name != "dropout"]
    pairs = CURVES.pivot(index=others, columns=["dropout", "epoch"], values="valid_error")
    pairs = pairs[pairs.xs(27, axis=1, level="epoch").min(axis=1) < 0.055]
    dropout_wins = (pairs[0.5] < pairs[0.0]).sum()
    assert binomtest(int(dropout_wins[3]), len(pairs), alternative="less").pvalue < 0.01
    assert binomtest(int(dropout_wins[27]), len(pairs), alternative="greater").pvalue < 0.01


def test_a_cosine_schedule_hides_nothing_that_300_trainings_would_show():
    table = load_table("mnist_mlp_13").query(
        "method == 'random' and state == 'complete' and 1000 <= seed <= 1005"
    )
    table = table.pivot(index=["schedule", "seed", "trial"], columns="epoch", values="valid_error")
    better = table[table[27] <= table[27].median()]

    def correlations(some, epoch=9):
        groups = [some.loc[schedule] for schedule in ("cosine", "constant")]
        return [group[epoch].corr(group[27], method="spearman") for group in groups]

    sentence = r"without, ([\d.]+) and ([\d.]+) after nine epochs; in the better half ([\d.]+) and ([\d.]+\d)"
    said = claimed(LESSON, sentence)
    assert said == [round(found, 2) for found in correlations(table) + correlations(better)]
    random = np.random.RandomState(0)
    resamples = [better.sample(frac=1, replace=True, random_state=random).sort_index() for _ in range(300)]
    resampled = [correlations(some) for some in resamples]
    low, high = np.quantile(np.diff(resampled), [0.025, 0.975])
    assert low < 0 < high
    falls = table.rank(pct=True)[3] - table.rank(pct=True)[27]
    test = ttest_ind(falls["cosine"], falls["constant"])
    low, high = test.confidence_interval()
    detectable = 2.8 * (high - low) / 2 / 1.97
    sentence = (
        r"constant by −([\d.]+) of the ranks \(95 % interval −([\d.]+) to ([\d.]+)\), and ([\d.]+) would"
    )
    said = claimed(LESSON, sentence)
    assert said == pytest.approx([-(low + high) / 2, -low, high, detectable], abs=0.00051)
    (rate,) = claimed(LESSON, r"After nine epochs the rate is still at (\d+) % of the first")
    assert rate == round(50 * (1 + math.cos(math.pi * 9 / 27)))


def test_resuming_saves_a_quarter_of_a_bracket():
    sentence = r"takes (\d+) epochs for 27 .* at each rung, it would take (\d+), .* = (\d+) instead of (\d+)"
    said = claimed(LESSON, sentence)
    assert said == [cost(27, 1), 27 * 1 + 9 * 3 + 3 * 9 + 27, 1 + 3 + 9 + 27, 27]


def test_successive_halving_beats_random_search_at_the_same_number_of_epochs(lesson):
    found, pairs = compared(lesson, LESSON, "387ed794", "random search")
    medians = 100 * found.groupby("method")["test_error"].median()
    sentence = r"end at ([\d.]+) % or below with successive halving, and at ([\d.]+) % or below with random"
    said = claimed(LESSON, sentence)
    assert said == list(medians[["successive halving", "random search"]].round(1))
    (difference,) = claimed(LESSON, r"The means differ by ([\d.]+) percentage points")
    assert difference == -pairs["difference"].round(1).item()
    assert list(pairs["verdict"]) == ["better"]


def test_asha_tries_more_and_finds_lower_validation_errors_but_no_better_configurations(lesson):
    found, pairs = compared(lesson, LESSON, "0aba6a13", "synchronous", confidence=0.975)
    chosen_by = lesson["compared"](found, "synchronous", value="valid_error", confidence=0.975)
    medians = found.groupby(["method", "time"])[["busy", "tried"]].median()
    said = claimed(LESSON, r"keep 4 workers busy for (\d+) % of the time, 16 workers for (\d+) %")
    assert said == list((100 * medians.loc["synchronous", "busy"]).round())
    said = claimed(LESSON, r"ASHA tries (\d+) and about (\d+) configurations instead of (\d+)")
    assert said == pytest.approx([*medians.loc["ASHA", "tried"], 108], abs=6)
    said = claimed(LESSON, r"lower validation errors, by ([\d.]+) and ([\d.]+) points")
    assert said == list(-chosen_by["difference"]) and set(chosen_by["verdict"]) == {"better"}
    said = claimed(LESSON, r"is left: \+([\d.]+) and −([\d.]+) points, where ([\d.]+) and ([\d.]+) would")
    assert said == [*pairs["difference"] * [1, -1], *pairs["detectable"]]
    assert set(pairs["verdict"]) == {"no difference"}


def test_asha_goes_on_with_nobody_twice_and_only_with_the_best_third_so_far(lesson):
    order = np.random.RandomState(0).permutation(ERRORS.index)
    jobs = lesson["asynchronous"](order, ERRORS.to_dict(), 60)
    assert not jobs.duplicated(["configuration", "label"]).any()
    for low, high in ((1, 3), (3, 9), (9, 27)):
        ended = jobs[jobs["label"] == f"to epoch {low}"]
        for promoted in jobs[jobs["label"] == f"to epoch {high}"].itertuples():
            so_far = ended[ended["end"] <= promoted.start]
            own = ERRORS.at[promoted.configuration, low]
            assert (ERRORS.loc[so_far["configuration"], low] < own).sum() < len(so_far) // 3


def test_the_brackets_cost_about_the_same(lesson):
    said = claimed(
        LESSON,
        r"brackets cost between (\d+) and (\d+) epochs, (\d+) together\. "
        r"Four brackets of step 2 cost (\d+), and 13 full trainings (\d+)",
    )
    costs = [cost(bracket["configurations"], bracket["first rung"]) for bracket in lesson["brackets"]()]
    assert said == [min(costs), max(costs), sum(costs), 4 * cost(27, 1), 13 * 27]


def cost(n_started, first_rung):
    """Return the epochs of a bracket in which a third goes on from each rung."""
    rungs = [rung for rung in (1, 3, 9, 27) if rung >= first_rung]
    steps = np.diff((0, *rungs))
    return sum(n_started // 3**number * step for number, step in enumerate(steps))


def test_hyperband_pays_a_little_for_its_hedge(lesson):
    found, pairs = compared(lesson, LESSON, "2f857b49", "Hyperband")
    means = (100 * found.groupby("method")["test_error"].mean()).round(2)
    sentence = r"end at a mean test error of ([\d.]+) %, Hyperband at ([\d.]+) %, random search at ([\d.]+) %"
    assert claimed(LESSON, sentence) == list(means[["four brackets of step 2", "Hyperband", "random search"]])
    verdicts = pairs.droplevel("time")[["difference", "verdict"]]
    assert list(verdicts["verdict"][["four brackets of step 2", "random search"]]) == ["better", "worse"]
    (hedge,) = claimed(LESSON, r"the hedge costs ([\d.]+) points")
    assert hedge == -verdicts.at["four brackets of step 2", "difference"]


def hyperband(max_epochs):
    """Return a pruner that has made its brackets, as it does at the first report, and its study."""
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max_epochs, reduction_factor=3)
    study = optuna.create_study(study_name="mine", pruner=pruner)
    trial = study.ask()
    trial.report(0.5, 1)
    trial.should_prune()
    return pruner, study


def test_a_bracket_is_drawn_as_optuna_draws_it(lesson):
    pruner, study = hyperband(27)
    for _ in range(99):
        study.ask()
    drawn = [pruner._get_bracket_id(study, trial) for trial in study.trials]
    assert drawn == [lesson["bracket_of"]("mine", number) for number in range(100)]
    assert set(drawn) == {0, 1, 2, 3}


@pytest.mark.parametrize("max_epochs", [9, 27, 81])
def test_the_brackets_are_of_the_sizes_that_optuna_gives_them(lesson, max_epochs):
    sizes = [bracket["configurations"] for bracket in lesson["brackets"](max_epochs)]
    assert sizes == hyperband(max_epochs)[0]._trial_allocation_budgets


def test_optuna_makes_a_bracket_less_where_the_logarithm_comes_out_too_low(lesson):
    assert (hyperband(243)[0]._n_brackets, len(list(lesson["brackets"](243)))) == (5, 6)


class Spy(optuna.samplers.TPESampler):
    """TPE that notes how many trials its model learns from."""

    seen: dict[int, int] = {}

    def _sample(self, study, trial, search_space):
        self.seen[trial.number] = len(study._get_trials(deepcopy=False))
        return super()._sample(study, trial, search_space)


def test_tpe_learns_from_the_trials_of_all_brackets_after_ten_random_ones():
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3)
    study = optuna.create_study(study_name="mine", sampler=Spy(seed=0), pruner=pruner)
    for number in range(14):
        trial = study.ask(MNIST_CNN)
        trial.report(number, 1)
        trial.should_prune()  # makes the brackets
        study.tell(trial, number)
    assert Spy.seen == {number: number + 1 for number in range(10, 14)}  # itself among them


@pytest.mark.parametrize("seed", [0, 1])
def test_the_good_group_is_the_one_that_optuna_takes(lesson, seed):
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(study_name="replayed", sampler=sampler, pruner=pruner)
    with ReplayLauncher(n_workers=4, curves=NoisyCurves(seed)) as launcher:
        tune(study, MNIST_CNN, launcher, epochs=27, n_trials=70, progress=False)
    # All of them, and only those that were stopped, which fill the group where too few were trained.
    for trials in (study.trials, [trial for trial in study.trials if trial.state == TrialState.PRUNED]):
        taken, _ = _split_trials(study, trials, default_gamma(len(trials)))
        assert {trial.number for trial in taken} == {trial.number for trial in lesson["good_group"](trials)}
    if seed == 0:
        (n_complete,) = claimed(LESSON, r"large: (\d+) trials were trained to the end")
        assert n_complete == sum(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_the_recorded_run_stands_at_the_edge_of_its_range():
    study = load_study("lesson_05_live")
    params = study.trials[int(anytime(study)["trial"].iloc[-1])].params
    said = claimed(
        LESSON, r"its momentum of ([\d.]+) has the quantile ([\d.]+)\. The range ends at ([\d.]+\d)"
    )
    quantile = to_unit_cube(MNIST_CNN, params)["momentum"]
    assert said == [round(params["momentum"], 2), round(quantile, 2), MNIST_CNN["momentum"].high]


def test_the_noise_of_a_small_test_part_is_what_the_lesson_says():
    error, noise = claimed(LESSON, r"error of (\d+) %, that alone is worth another ([\d.]+) % either way")
    share = error / 100
    assert noise == round(100 * np.sqrt(share * (1 - share) / 1000), 1)


@pytest.fixture(scope="module")
def changes(lesson):
    table = expected_errors(load_table("lesson_05_settings"))
    table = table.rename(columns={"setting": "method", "trainings": "time"})
    assert set(table.groupby(["method", "time"])["seed"].nunique()) == {100}
    return lesson["compared"](table, "TPE + Hyperband", value="expected_error", confidence=0.975)


def test_one_change_of_the_settings_holds_and_the_others_are_as_small_as_said(changes):
    few, more = changes.loc[5], changes.loc[20]
    holds = few[few["verdict"] != "no difference"]
    assert list(holds.index) == ["successive halving"] and set(more["verdict"]) == {"no difference"}
    (lower,) = claimed(LESSON, r"\(successive halving\) ends ([\d.]+) points lower")
    assert lower == -holds["difference"].item()
    sentence = (
        r"(\d+) changes holds\. The largest difference is ([\d.]+) points, .* ([\d.]+) and ([\d.]+) points"
    )
    said = claimed(LESSON, sentence)
    assert said == [
        len(more),
        more["difference"].abs().max(),
        more["detectable"].min(),
        more["detectable"].max(),
    ]
    (random,) = claimed(LESSON, r"random proposals end ([\d.]+) points lower")
    assert random == -more.at["random sampler", "difference"]
    sampler = ["random sampler", "multivariate=False", "n_startup_trials=30", "constant_liar=False"]
    (most,) = claimed(LESSON, r"the sampler's settings change less than ([\d.]+) points")
    assert most > few.loc[sampler, "difference"].abs().max()


def test_what_is_recorded_of_the_settings_comes_out_again():
    script = runpy.run_path(str(NOTEBOOKS.parent / "data" / "record_lesson_05_settings.py"))
    recorded = load_table("lesson_05_settings")
    assert set(recorded["setting"]) == set(script["SETTINGS"]) and set(recorded["seed"]) == set(
        script["SEEDS"]
    )
    for setting, seed in (("TPE + Hyperband", 6003), ("min_resource=3", 6029)):
        anew = script["compare"](setting, [seed]).drop(columns=["setting"])
        same = recorded.query("setting == @setting and seed == @seed")[anew.columns]
        np.testing.assert_allclose(anew.astype(float), same.astype(float), rtol=1e-5)


@pytest.fixture(scope="module")
def solutions():
    return names_of(SOLUTIONS, "8c2d7b15")


def test_a_smaller_reduction_factor_makes_no_difference(solutions):
    found, pairs = compared(solutions, SOLUTIONS, "20468864", "factor 3")
    means = (100 * found.groupby("method")["test_error"].mean()).round(2)
    assert claimed(SOLUTIONS, r"the means are ([\d.]+) % and ([\d.]+) %") == list(
        means[["factor 3", "factor 2"]]
    )
    assert list(pairs["verdict"]) == ["no difference"]
    said = claimed(
        SOLUTIONS, r"interval from −([\d.]+) to ([\d.]+) points: .* small, and ([\d.]+) points would"
    )
    assert said == list((pairs[["low", "high", "detectable"]] * [-1, 1, 1]).iloc[0])


def test_pruners_save_most_epochs(solutions):
    found, pairs = compared(solutions, SOLUTIONS, "0d36c8a2", "no pruner")
    epochs = found.groupby("method")["epochs"].median()
    saved = (100 * (1 - epochs / epochs["no pruner"])).round()
    said = claimed(SOLUTIONS, r"saves (\d+) % of the epochs, the median pruner (\d+) %, Hyperband (\d+) %")
    assert said == list(saved[["successive halving", "median", "Hyperband"]])
    pairs = pairs.loc[["successive halving", "median", "Hyperband"]]
    sentence = r"show: −([\d.]+), −([\d.]+) and ([\d.]+) points, where ([\d.]+), ([\d.]+) and ([\d.]+) points"
    said = claimed(SOLUTIONS, sentence)
    assert said == [*pairs["difference"] * [-1, -1, 1], *pairs["detectable"]]
    assert set(pairs["verdict"]) == {"no difference"}
