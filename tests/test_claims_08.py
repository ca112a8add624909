"""What lesson 08 says of folds and of ways to tune by them, computed anew."""

import importlib.util
import inspect
import re
import runpy
import subprocess
import sys
import types
from statistics import fmean

import numpy as np
import optuna
import pytest
from claims import claimed, code_cells, lesson_text
from notebook_files import NOTEBOOKS, comparison
from optuna.samplers import TPESampler
from scipy.stats import binomtest, wilcoxon
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, TimeSeriesSplit

from hpo_helpers.comparing import paired_differences
from hpo_helpers.datasets import load_table
from hpo_helpers.jobs.sagemaker import image_uri

LESSON, SOLUTIONS = "08_cross_validation", "solutions/08_cross_validation_solutions"
DEFINITIONS = ("imports", "style", "threes-fives", "draw", "penalty", "fit", "auc", "deal", "make-folds-code", "train")
DEFINITIONS += ("errors", "evaluate", "space", "tune")
PROGRAM = NOTEBOOKS / "tune_folds.py"
CELLS = code_cells(LESSON)


@pytest.fixture(scope="module")
def lesson():
    """What the lesson defines: its imports, its data and its functions, as they stand in its cells."""
    # As in a kernel, so that functions travel by value.
    names = {"__name__": "__main__", "importlib": importlib}
    exec("\n\n".join(CELLS[name].source for name in DEFINITIONS), names)
    return names


@pytest.fixture(scope="module")
def ways():
    table = load_table("lesson_08_repetitions")
    return table.assign(too_high=table["estimate"] - table["test_auc"])


def by_way(ways, column):
    return ways.pivot(index="repetition", columns="way", values=column)


def mean_and_error(difference, digits=4):
    return [round(difference.mean(), digits), round(difference.sem(), digits)]


@pytest.mark.parametrize("cut", ["deal", "assign_folds"])
def test_the_folds_are_stratified_and_leave_nobody_over(lesson, cut):
    is_five = lesson["is_five"][lesson["few"]]
    for k in range(2, 11):
        fold_of = lesson[cut](is_five, k, seed=0)
        assert np.ptp(np.bincount(fold_of)) <= 2
        for five in (0, 1):
            sizes = np.bincount(fold_of[is_five == five], minlength=k)
            assert sizes.sum() == 100 and np.ptp(sizes) <= 1


def test_copies_of_an_image_belong_into_one_fold():
    said = claimed(LESSON, r"the figure rises to ([\d.]+)\. By source it is ([\d.]+\d)\.")
    assert said == [float(mean) for mean in re.findall(r"0\.\d+", comparison.printed(CELLS["copies"].outputs))]


def test_the_classes_of_folds_do_what_the_table_says():
    rows, source, rare = np.arange(60), np.arange(60) // 3, (np.arange(60) // 3 % 4 == 0).astype(int)
    for cut in (GroupKFold(5), StratifiedGroupKFold(5)):
        for training, validating in cut.split(rows, rare, source):
            assert not set(source[training]) & set(source[validating])
    assert {rare[validating].mean() for _, validating in cut.split(rows, rare, source)} == {0.25}
    assert all(training.max() < validating.min() for training, validating in TimeSeriesSplit(5).split(rows))


def test_the_penalty_is_named_as_scikit_learn_asks_before_version_1_8_and_since(lesson, monkeypatch):
    before, since = [{"penalty": "l1"}, {"penalty": "l2"}], [{"l1_ratio": 1.0}, {"l1_ratio": 0.0}]
    for default, names in ((None, before), (0.0, since)):
        monkeypatch.setitem(lesson, "LogisticRegression", lambda: types.SimpleNamespace(l1_ratio=default))
        assert [lesson["penalty"]("l1"), lesson["penalty"]("l2")] == names


def test_the_naive_standard_error_is_too_small_and_the_corrected_one_too_large():
    said = claimed(LESSON, r"naive standard error is (\d+) % too small, and the corrected one (\d+) % too large")
    naive, corrected = map(int, re.findall(r"([+-]\d+)%", comparison.printed(CELLS["truth"].outputs)))
    assert said == [-naive, corrected]
    (percent,) = claimed(LESSON, r"A hundred draws tell the spread to about (\d+) %")
    assert percent == round(100 / np.sqrt(2 * 99)), "standard error of a standard deviation"


def test_five_signs_alike_are_not_enough():
    assert "five signs alike give p = 2/2⁵ = 1/16 in a two-sided sign test" in lesson_text(LESSON)
    assert binomtest(5, 5).pvalue == pytest.approx(1 / 16)


def test_with_five_folds_the_correction_is_by_half(lesson):
    assert "two folds share three quarters of their training images" in lesson_text(LESSON)
    (factor,) = claimed(LESSON, r"With 5 folds it is ([\d.]+) times as large")
    values = (0.91, 0.95, 0.93, 0.96, 0.9)
    naive, corrected = lesson["standard_errors"](values)
    assert naive == pytest.approx(np.std(values, ddof=1) / np.sqrt(5))
    assert corrected / naive == pytest.approx(factor)


@pytest.fixture(scope="module")
def study(lesson):
    """The lesson's twenty suggestions, the folds one after the other."""
    study = optuna.create_study(study_name="lesson-08", direction="maximize", sampler=TPESampler(seed=0))
    for _ in range(20):
        trial = study.ask(lesson["SPACE"])
        values = lesson["evaluate"](lesson["few"], 0, trial.params)
        trial.set_user_attr("standard_error", lesson["standard_errors"](values)[1])
        study.tell(trial, fmean(values))
    return study


def test_twenty_suggestions_find_a_plateau(study):
    within, error = claimed(LESSON, r"lie within ([\d.]+) of each other, and the standard error .* about ([\d.]+\d)")
    best = sorted(study.trials, key=lambda trial: -trial.value)[:5]
    assert best[0].value - best[4].value <= within + 1e-9
    assert [round(trial.user_attrs["standard_error"], 2) for trial in best] == [round(error, 2)] * 5
    l2 = [trial for trial in study.trials if trial.params["regularization_type"] == "l2"]
    assert np.ptp([trial.value for trial in l2]) < min(trial.user_attrs["standard_error"] for trial in best)
    amounts = [trial.params["regularization_amount"] for trial in l2]
    assert "over seven powers of ten" in lesson_text(LESSON) and max(amounts) / min(amounts) > 1e7
    l1 = [trial for trial in study.trials if trial.params["regularization_type"] == "l1"]
    assert max(trial.value for trial in l1) < min(trial.value for trial in l2)
    assert min(l1, key=lambda trial: trial.value).params == max(
        (trial.params for trial in l1), key=lambda params: params["regularization_amount"]
    )


@pytest.mark.filterwarnings("error")
def test_the_penalties_do_what_the_lesson_says_and_no_warning_is_given(lesson):
    data = lesson["images"][lesson["few"]], lesson["is_five"][lesson["few"]]
    counts = [np.count_nonzero(lesson["fit"](*data, "l1", amount).coef_) for amount in (1e-6, 0.05, 1)]
    assert counts[0] > 100 and counts[1] < 20 and counts[2] == 0, "at the right end hardly any weight is left"
    assert np.count_nonzero(lesson["fit"](*data, "l2", 1).coef_) == np.count_nonzero(data[0].any(axis=0))
    assert "elsewhere in this space the AUC goes down to 0.5" in lesson_text(LESSON)
    worst = {"regularization_type": "l1", "regularization_amount": 1.0}
    assert lesson["evaluate"](lesson["few"], 0, worst) == [0.5] * 5


def test_the_recorded_first_repetition_is_the_one_that_the_lesson_runs(study, ways):
    recorded = ways.query("repetition == 0 and way == '5 folds'").iloc[0]
    assert study.best_params["regularization_amount"] == pytest.approx(recorded["regularization_amount"], abs=1e-6)
    assert study.best_value == pytest.approx(recorded["estimate"], abs=1e-4)
    printed = {name: comparison.printed(CELLS[name].outputs) for name in ("final", "nested", "pruner-saves")}
    assert f"{recorded['test_auc']:.4f}" in printed["final"]
    first = ways[ways["repetition"] == 0].set_index("way")
    assert f"Nested: {first.loc['nested', 'estimate']:.4f}" in printed["nested"]
    assert f"{first.loc['10 folds, pruned', 'fits']} folds instead of 200" in printed["pruner-saves"]


def test_the_winner_s_figure_is_too_high_and_the_other_s_is_not(ways):
    too_high = by_way(ways, "too_high")
    (said,) = claimed(LESSON, r"winner's figure is too high by ([\d.]+) on average")
    assert said == round(too_high["5 folds"].mean(), 4)
    assert abs(too_high["not tuned"].mean()) < too_high["not tuned"].sem()
    pair = too_high["5 folds"] - too_high["not tuned"]
    said = claimed(LESSON, r"In (\d+) of 20 repetitions the winner's figure is .* by ([\d.]+) ± ([\d.]+\d)")
    assert said == [(pair > 0).sum(), *mean_and_error(pair)]
    assert wilcoxon(pair).pvalue < 0.001


def test_two_draws_share_images(lesson):
    said = claimed(LESSON, r"two draws share (\d+) of their 200 images on average, and (\d+) of the 800")
    pairs = [(lesson["draw"](seed), lesson["draw"](seed + 20)) for seed in range(20)]
    shared = [[len(np.intersect1d(*parts)) for parts in zip(*pair, strict=True)] for pair in pairs]
    assert np.mean(shared, axis=0) == pytest.approx(said, abs=4)


def test_no_way_finds_anything_clearly_better_or_worse(ways):
    test_auc = by_way(ways, "test_auc")
    said = claimed(LESSON, r"Tuned, the AUC on untouched images is ([\d.]+); \*C\* = 1 has ([\d.]+\d)")
    assert said == [round(test_auc[way].mean(), 4) for way in ("5 folds", "not tuned")]
    compared = ways[ways["way"].isin(["5 folds", "not tuned", "10 folds", "hold-out", "one standard error"])]
    compared = compared.assign(time=0, error=1 - compared["test_auc"], method=compared["way"], seed=compared["repetition"])
    pairs = paired_differences(compared, "5 folds", value="error").set_index("method").round(4)
    assert set(pairs["verdict"]) == {"no difference"} and len(pairs) == 4
    said = claimed(LESSON, r"Not tuned against tuned: p = ([\d.]+) after .* A difference of ([\d.]+) would have been")
    assert said == list(pairs.loc["not tuned", ["p_adjusted", "detectable"]])
    said = claimed(LESSON, r"costs ([\d.]+)\. Its interval, from ([\d.]+) to ([\d.]+), .* comparisons p = ([\d.]+\d)")
    assert said == [*pairs.loc["one standard error", ["difference", "low", "high"]], round(pairs["p_adjusted"].iloc[2], 2)]


def test_the_nested_figure_is_right_on_average(ways):
    too_high = by_way(ways, "too_high")
    said = claimed(LESSON, r"as \*not tuned\* is: ([\d.]+) too high, ± ([\d.]+\d)")
    assert said == mean_and_error(too_high["nested"])
    said = claimed(LESSON, r"In (\d+) of 20 repetitions it lies below the winner's own figure, in (\d+) it equals")
    lower = (too_high["5 folds"] - too_high["nested"]).round(6)
    assert said == [(lower > 0).sum(), (lower == 0).sum()]
    (said,) = claimed(LESSON, r"the winner's figure is off by ([\d.]+) on average")
    assert said == round(too_high["5 folds"].abs().mean(), 3)
    assert too_high["nested"].std() > 0.9 * too_high["5 folds"].std(), "nesting takes none of the spread away"


def test_a_hold_out_promises_too_much(ways):
    held_out = ways[ways["way"] == "hold-out"]
    said = claimed(LESSON, r"\*Hold-out\* is too high by ([\d.]+); in (\d+) repetitions it promised a perfect 1")
    assert said == [round(held_out["too_high"].mean(), 4), (held_out["estimate"] == 1).sum()]
    fits = by_way(ways, "fits")
    assert (fits["hold-out"] == fits["5 folds"]).all(), "at equal cost"


def test_the_pruner_saves_little_and_changes_no_winner(ways):
    fits = by_way(ways, "fits").mean()
    said = claimed(LESSON, r"saves (\d+) % of the fits with 5 folds, (\d+) % with 10, and changes no winner")
    assert said == [round(100 * (1 - fits[f"{k} folds, pruned"] / fits[f"{k} folds"])) for k in (5, 10)]
    amounts = by_way(ways, "regularization_amount")
    for k in (5, 10):
        assert (amounts[f"{k} folds"] == amounts[f"{k} folds, pruned"]).all()


def test_the_pruner_cannot_act_before_the_fourth_fold(ways):
    assert "the test gives p = 1/8 after three folds and 1/16 after four" in lesson_text(LESSON)
    worse = -np.array([0.01, 0.02, 0.03, 0.04])
    assert wilcoxon(worse[:3], alternative="less", zero_method="zsplit").pvalue == 1 / 8
    assert wilcoxon(worse, alternative="less", zero_method="zsplit").pvalue == 1 / 16
    assert inspect.signature(optuna.pruners.WilcoxonPruner).parameters["p_threshold"].default == 0.1
    # So at most the fifth of five folds is saved, of each trial but the first.
    fits = by_way(ways, "fits")
    assert (fits["5 folds, pruned"] >= 100 - 19).all()


def test_the_simplest_configuration_has_fewer_weights(ways):
    said = claimed(LESSON, r"has (\d+) weights in the median, the best one (\d+)\.")
    weights = by_way(ways, "weights").median()
    assert said == [weights["one standard error"], weights["5 folds"]]


def test_some_of_a_recorded_repetition_comes_out_again(ways):
    script = runpy.run_path(str(NOTEBOOKS.parent / "data" / "record_lesson_08.py"))
    assert sorted(ways["repetition"].unique()) == list(script["REPETITIONS"])
    data, untouched = script["draw"](4)
    folds = script["cut"](data, 5, 4)
    studies = {"5 folds": script["tune"](data, folds, 4)}
    studies["hold-out"] = script["tune"](data, folds[:1], 4, n_trials=100)
    for way, study in studies.items():
        recorded = ways.query("repetition == 4 and way == @way").iloc[0]
        values = script["values_of"](study.best_trial)
        anew = script["judge"](data, untouched, study.best_params, values)
        assert study.best_params["regularization_type"] == recorded["regularization_type"]
        assert script["count_fits"](study) == recorded["fits"]
        numbers = ["estimate", "standard_error", "corrected_standard_error", "test_auc"]
        np.testing.assert_allclose([anew[name] for name in numbers], recorded[numbers].astype(float), atol=1e-4)
    simplest = script["simplest_within_one_standard_error"](data, studies["5 folds"]).params
    recorded = ways.query("repetition == 4 and way == 'one standard error'").iloc[0]
    assert simplest["regularization_amount"] == pytest.approx(recorded["regularization_amount"], abs=1e-6)


def test_without_the_extra_the_rehearsal_is_left_out(lesson, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "boto3" else find_spec(name))
    exec(CELLS["rehearse"].source, dict(lesson))
    assert capsys.readouterr().out == "The extra 'aws' is not installed here, or this is Windows: this step is left out.\n"


def test_the_cloud_step_only_rehearses_and_the_default_image_is_of_mxnet():
    assert "with Rehearsal() as rehearsal, mock.patch.dict(os.environ, rehearsal.environment)" in CELLS["rehearse"].source
    assert "/mxnet/training/docker/1.9/py3/Dockerfile.cpu" in lesson_text(LESSON)
    assert "/mxnet-training:1.9.0-cpu-py38" in image_uri("us-east-1"), "whose Python has no scikit-learn since 1.4"


def run_program(text, *arguments):
    return subprocess.run([sys.executable, "-", *map(str, arguments)], input=text, text=True, capture_output=True)


def test_the_program_is_the_lesson_s_and_prints_the_same(tmp_path):
    program = [cell for name, cell in CELLS.items() if name.startswith("own-project")]
    text = PROGRAM.read_text(encoding="utf-8")
    assert text == "\n\n".join(cell.source for cell in program) + "\n"
    ran = run_program(text, 5, "--trials", 20, "--into", tmp_path)
    assert ran.stdout == comparison.printed(program[-1].outputs), ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.joblib", "trials.csv"]
    said = claimed(LESSON, r"The error of ([\d.]+) is far below the gap to ([\d.]+)\.")
    assert f"standard error {said[0]:.3f}\nAUC on the test part: {said[1]:.3f}" in ran.stdout


def test_in_the_program_a_fold_that_fails_ends_its_trial_alone(tmp_path):
    text = PROGRAM.read_text(encoding="utf-8").replace("    classifier =", "    assert kind == 'l2'\n    classifier =")
    ran = run_program(text, 7, "--trials", 4, "--jobs", 2, "--into", tmp_path)
    assert "'FAIL': " in ran.stdout and "'COMPLETE': " in ran.stdout and "AUC of the 7 folds" in ran.stdout


def test_near_an_auc_of_1_the_luckier_figure_has_the_smaller_error():
    names = {}
    exec(CELLS["own-project"].source + "\n\n\n" + CELLS["own-project-3"].source, names)
    program, found = types.SimpleNamespace(**names), []
    model, cut = program.model(C=1, kind="l2"), program.StratifiedKFold(5, shuffle=True, random_state=0)
    for seed in range(20):
        data = program.load_breast_cancer(return_X_y=True)
        X, X_test, y, y_test = program.train_test_split(*data, train_size=200, random_state=seed)
        values = program.cross_val_score(model, X, y, cv=cut, scoring="roc_auc")
        test_auc = program.roc_auc_score(y_test, model.fit(X, y).decision_function(X_test))
        found.append((values.mean() - test_auc, values.std(ddof=1)))
    too_high, error = np.transpose(found)
    said = claimed(LESSON, r"right on average: ([\d.]+) too low \(± ([\d.]+)\).* the correlation is −([\d.]+\d)\.")
    assert said[:2] == [round(-too_high.mean(), 4), round(too_high.std(ddof=1) / 20**0.5, 4)]
    assert said[2] == -round(np.corrcoef(too_high, error)[0, 1], 2)


def printed_by_the_solution(name):
    return comparison.printed(code_cells(SOLUTIONS)[name].outputs)


def test_fewer_folds_are_too_pessimistic():
    rows = {int(line.split()[0]): line.split()[1:] for line in printed_by_the_solution("one-code").splitlines()[2:5]}
    said = claimed(
        SOLUTIONS, r"It lies ([\d.]+) ± ([\d.]+) below that of 10 folds; that of 5 folds lies ([\d.]+) ± ([\d.]+) below"
    )
    assert said == [-float(rows[2][2]), float(rows[2][3]), -float(rows[5][2]), float(rows[5][3])]
    assert said[0] > 2 * said[1] and said[2] > 2 * said[3]
    (error,) = claimed(SOLUTIONS, r"with a standard error of ([\d.]+), 5 and 10 folds")
    assert {float(rows[k][1]) for k in (5, 10)} == {error}


def test_a_bolder_pruner_saves_more(ways):
    rows = [line.split() for line in printed_by_the_solution("two-run").splitlines()[2:7]]
    said = claimed(SOLUTIONS, r"takes (\d+) fits on average and saves (\d+) %, twice what the default saves")
    fits = np.mean([float(row[1]) for row in rows])
    assert said == [round(fits), round(100 - fits / 2)]
    default = 100 * (1 - by_way(ways, "fits")["10 folds, pruned"].mean() / 200)
    assert said[1] / default == pytest.approx(2, abs=0.1)
    assert all(row[2] == row[3] for row in rows), "the same winners"


def test_tuning_pays_in_noise():
    text = printed_by_the_solution("three-run")
    for name, pattern in {
        "tuned": r"gains ([\d.]+) ± ([\d.]+), in each of the 5 draws",
        "tuned, wider": r"up to 100, the gain is ([\d.]+) ± ([\d.]+\d)",
    }.items():
        gain, error = claimed(SOLUTIONS, pattern)
        found = re.search(rf"^{name}: \+([\d.]+), standard error ([\d.]+), better in 5 of 5 draws$", text, re.MULTILINE)
        assert [gain, error] == [round(float(figure), 3) for figure in found.groups()]
