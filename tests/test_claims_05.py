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
from claims import claimed, define, follows_a_model, lesson_text
from notebook_files import NOTEBOOKS
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.trial import TrialState
from scipy.stats import binomtest, wilcoxon

from hpo_helpers.comparing import paired_differences
from hpo_helpers.curves import NoisyCurves
from hpo_helpers.datasets import load_curves, load_table
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.tuning import tune

LESSON, SOLUTIONS = "05_multi_fidelity", "solutions/05_multi_fidelity_solutions"
CURVES = load_curves()
ERRORS = CURVES.pivot(index="configuration", columns="epoch", values="valid_error")
TEST_ERRORS = CURVES.pivot(index="configuration", columns="epoch", values="test_error")
ERROR_AFTER = ERRORS.to_dict()


@pytest.fixture(scope="module")
def lesson():
    """The functions that the lesson writes out, as they stand in its cells."""
    names = {"curves": CURVES, "errors": ERRORS, "test_errors": TEST_ERRORS, "error_after": ERROR_AFTER}
    names |= {"test_error_after": TEST_ERRORS.to_dict(), "TrialState": TrialState, "crc32": crc32}
    names |= {"np": np, "pd": pd, "math": math, "heapq": heapq, "insort": insort}
    define(LESSON, names)
    return names


def rank_correlations(among, column=27):
    return among[[1, 3, 9, 26, 27]].corrwith(among[column], method="spearman").round(2)


def test_an_early_epoch_ranks_much_as_the_last_one_does():
    said = claimed(LESSON, r"After one epoch it is ([\d.]+), after nine ([\d.]+)\.")
    assert said == list(rank_correlations(ERRORS)[[1, 9]])
    curves = load_curves("mnist_cnn_81_curves")
    others = curves.pivot(index="configuration", columns="epoch", values="valid_error")
    said = claimed(LESSON, r"At the 81 random configurations .*: ([\d.]+) and ([\d.]+\d)")
    assert said == list(rank_correlations(others)[[1, 9]])
    (place,) = claimed(LESSON, r"It is, at place (\d+)")
    assert place == ERRORS[1].rank(method="min")[ERRORS[27].idxmin()]


def test_curves_that_start_badly_end_in_the_worse_half():
    sentence = r"Of all (\d+) curves that are above 80 % after one epoch, (\d+) end in the worse half"
    start_badly = ERRORS.index[ERRORS[1] > 0.8]
    n_worse = (ERRORS.loc[start_badly, 27] > ERRORS[27].median()).sum()
    assert claimed(LESSON, sentence) == [len(start_badly), n_worse]


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


@pytest.fixture(scope="module")
def draws():
    random = np.random.RandomState(0)
    return [random.choice(ERRORS.index, size=27, replace=False) for _ in range(1000)]


def test_successive_halving_beats_random_search_at_the_same_number_of_epochs(lesson, draws):
    halving = np.array([TEST_ERRORS.at[lesson["halve"](draw), 27] for draw in draws])
    random = np.array([TEST_ERRORS.at[lesson["best_of"](draw[:3]), 27] for draw in draws])
    sentence = r"end at ([\d.]+) % or below with successive halving, and at ([\d.]+) % or below with random"
    medians = claimed(LESSON, sentence)
    assert medians == [round(100 * np.median(errors), 1) for errors in (halving, random)]
    shares = claimed(LESSON, r"In (\d+) of 100 draws successive halving finds .* in (\d+) they tie")
    assert shares == [round(100 * np.mean(halving < random)), round(100 * np.mean(halving == random))]
    # The margin: better in at least three quarters of the draws that do not tie, on either half of the draws.
    for half in (slice(0, 500), slice(500, None)):
        decided = halving[half] != random[half]
        assert np.mean(halving[half][decided] < random[half][decided]) > 3 / 4


def test_the_more_workers_there_are_the_more_it_costs_to_wait(lesson):
    orders = [np.random.RandomState(seed).permutation(ERRORS.index) for seed in range(100)]
    said = claimed(
        LESSON,
        r"With 4 workers .* busy for (\d+) % .* tries (\d+) configurations instead of (\d+), and ends with "
        r"a better one in (\d+) orders, a worse one in (\d+): chance .* With 16 workers, busy for (\d+) % "
        r".* a better one in (\d+) orders, a worse one in (\d+)",
    )
    computed = []
    for n_workers in (4, 16):
        table = pd.DataFrame([lesson["compare"](order, n_workers) for order in orders])
        gain, busy = table["gain"], round(100 * table["synchronous, busy"].median())
        tried = [table["tried by ASHA"].median(), 4 * 27] if n_workers == 4 else []
        computed += [busy, *tried, (gain > 0).sum(), (gain < 0).sum()]
        # The margin: 16 workers differ at the level of 0.1 %, 4 do not at 5 %.
        assert wilcoxon(gain).pvalue < 0.001 if n_workers == 16 else wilcoxon(gain).pvalue > 0.05
    assert said == computed


def test_asha_goes_on_with_nobody_twice_and_only_with_the_best_third_so_far(lesson):
    order = np.random.RandomState(0).permutation(ERRORS.index)
    jobs = lesson["asynchronous"](order, 60)
    assert not jobs.duplicated(["configuration", "label"]).any()
    for low, high in ((1, 3), (3, 9), (9, 27)):
        ended = jobs[jobs["label"] == f"to epoch {low}"]
        for promoted in jobs[jobs["label"] == f"to epoch {high}"].itertuples():
            so_far = ended[ended["end"] <= promoted.start]
            (own,) = so_far.loc[so_far["configuration"] == promoted.configuration, "error"]
            assert (so_far["error"] < own).sum() < len(so_far) // 3


def test_some_curves_start_well_and_diverge_later():
    n_curves, before, after = claimed(LESSON, r"(\d+) of the 1,008 curves are below (\d+) % .* above (\d+) %")
    assert n_curves == ((ERRORS[1] < before / 100) & (ERRORS[27] > after / 100)).sum()


def test_the_brackets_cost_about_the_same(lesson):
    said = claimed(
        LESSON,
        r"brackets cost between (\d+) and (\d+) epochs, (\d+) together\. "
        r"Four ladders of step 2 cost (\d+), and 13 full trainings (\d+)",
    )
    costs = [cost(bracket["configurations"], bracket["first rung"]) for bracket in lesson["brackets"]()]
    assert said == [min(costs), max(costs), sum(costs), 4 * cost(27, 1), 13 * 27]


def cost(n_started, first_rung):
    """Return the epochs of a bracket in which a third goes on from each rung."""
    rungs = [rung for rung in (1, 3, 9, 27) if rung >= first_rung]
    steps = np.diff((0, *rungs))
    return sum(n_started // 3**number * step for number, step in enumerate(steps))


def test_hyperband_pays_a_little_for_its_hedge(lesson):
    halve, best_of, random = lesson["halve"], lesson["best_of"], np.random.RandomState(0)
    for _ in range(1000):  # as the lesson has drawn before
        random.choice(ERRORS.index, size=27, replace=False)
    rows = []
    for order in [random.permutation(ERRORS.index) for _ in range(1000)]:
        ladders = [halve(order[27 * number : 27 * number + 27]) for number in range(4)]
        found = [best_of(ladders), lesson["hyperband"](order), best_of(order[:13])]
        rows.append([TEST_ERRORS.at[configuration, 27] for configuration in found])
    table = pd.DataFrame(rows)
    sentence = r"end at a mean test error of ([\d.]+) %, Hyperband at ([\d.]+) %, random search at ([\d.]+) %"
    said = claimed(LESSON, sentence)
    assert said == list((100 * table.mean()).round(2))
    # The margin: four times the standard error of the difference.
    for better, worse in ((0, 1), (1, 2)):
        difference = table[worse] - table[better]
        assert difference.mean() > 4 * difference.sem()


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


@follows_a_model
@pytest.mark.parametrize("seed", [0, 1])
def test_the_good_group_is_the_one_that_optuna_takes(lesson, seed):
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(study_name="bohb", sampler=sampler, pruner=pruner)
    with ReplayLauncher(n_workers=4, curves=NoisyCurves(seed)) as launcher:
        tune(study, MNIST_CNN, launcher, epochs=27, n_trials=70, progress=False)
    # All of them, and only those that were stopped, which fill the group where too few were trained.
    for trials in (study.trials, [trial for trial in study.trials if trial.state == TrialState.PRUNED]):
        taken, _ = _split_trials(study, trials, default_gamma(len(trials)))
        assert {trial.number for trial in taken} == {trial.number for trial in lesson["good_group"](trials)}
    if seed == 0:
        (n_complete,) = claimed(LESSON, r"large: (\d+) trials were trained to the end")
        assert n_complete == sum(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_the_noise_of_a_small_test_part_is_what_the_lesson_says():
    error, noise = claimed(LESSON, r"error of (\d+) %, that alone is worth another ([\d.]+) % either way")
    share = error / 100
    assert noise == round(100 * np.sqrt(share * (1 - share) / 1000), 1)


def halve_by(draw, rungs, reduction_factor):
    for rung in rungs:
        draw = sorted(draw, key=ERROR_AFTER[rung].get)[: len(draw) // reduction_factor]
    return TEST_ERRORS.at[draw[0], 27]


@pytest.fixture(scope="module")
def pairs():
    table = load_table("lesson_05_settings").rename(columns={"setting": "method", "trainings": "time"})
    return paired_differences(table, "TPE + Hyperband")


def test_no_setting_makes_a_difference_that_shows(pairs):
    sentence = r"holds for none of these (\d+) changes, .* the intervals reach ([\d.]+) points"
    n_changes, reach = claimed(LESSON, sentence)
    assert n_changes == pairs["method"].nunique()
    assert set(pairs["n_seeds"]) == {30}
    assert set(pairs["verdict"]) == {"no difference"}
    assert reach == (100 * pairs[["low", "high"]].abs().to_numpy().max()).round(1)


@follows_a_model
def test_what_is_recorded_of_the_settings_comes_out_again():
    script = runpy.run_path(str(NOTEBOOKS.parent / "data" / "record_lesson_05_settings.py"))
    recorded = load_table("lesson_05_settings")
    assert set(recorded["setting"]) == set(script["SETTINGS"])
    for setting, seed in (("TPE + Hyperband", 3), ("min_resource=3", 29)):
        anew = script["compare"](setting, [seed])
        same = recorded.query("setting == @setting and seed == @seed")
        np.testing.assert_allclose(anew[["value", "test_error"]], same[["value", "test_error"]], atol=1e-4)


def test_a_smaller_reduction_factor_makes_no_difference(draws):
    said = claimed(SOLUTIONS, r"the means are ([\d.]+) % and ([\d.]+) %, closer than their standard errors")
    three = np.array([halve_by(draw, (1, 3, 9), 3) for draw in draws])
    two = np.array([halve_by(draw[:24], (1, 2, 4, 8), 2) for draw in draws])
    assert said == [round(100 * errors.mean(), 2) for errors in (three, two)]
    assert abs(three.mean() - two.mean()) < two.std() / np.sqrt(len(two))


def test_pruners_save_most_epochs_and_find_as_good_a_configuration():
    said = claimed(
        SOLUTIONS,
        r"saves (\d+) % of the epochs\. The median test error of what it finds is ([\d.]+) %, and ([\d.]+) % "
        r"without a pruner.* The median pruner saves (\d+) %\. Hyperband saves (\d+) %",
    )
    pruners = {
        "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        "median": optuna.pruners.MedianPruner(n_startup_trials=5),
        "hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3),
    }
    draws = [np.random.RandomState(seed).choice(ERRORS.index, 81, replace=False) for seed in range(20)]
    played = {"none": np.array([play_on(draw) for draw in draws])}
    for name, pruner in pruners.items():
        played[name] = np.array([play(pruner, draw, f"draw-{seed}") for seed, draw in enumerate(draws)])
    epochs, errors = ({name: np.median(played[name][:, i]) for name in played} for i in (0, 1))
    assert "twenty draws cannot tell them apart" in lesson_text(SOLUTIONS)
    assert wilcoxon(played["halving"][:, 1], played["none"][:, 1]).pvalue > 0.05
    saved = {name: round(100 * (1 - epochs[name] / epochs["none"])) for name in pruners}
    found = [round(100 * errors[name], 2) for name in ("halving", "none")]
    assert said == [saved["halving"], *found, saved["median"], saved["hyperband"]]


def play_on(draw):
    """Return what `play` does, without a pruner."""
    lowest = ERRORS.loc[draw].min(axis=1)
    _, best = min(zip(lowest, lowest.index))
    return len(draw) * 27, TEST_ERRORS.at[best, 27]


def play(pruner, draw, name):
    """Return the epochs that a pruner lets pass, and the test error of the incumbent's configuration."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=name, pruner=pruner)
    n_epochs, best = 0, (1.0, None)
    for configuration, errors in zip(draw, ERRORS.loc[draw].to_numpy().tolist(), strict=True):
        trial = study.ask()
        for epoch, error in enumerate(errors, start=1):
            n_epochs += 1
            best = min(best, (error, configuration))
            trial.report(error, epoch)
            if trial.should_prune():
                break
        study.tell(trial, error)
    return n_epochs, TEST_ERRORS.at[best[1], 27]
