"""Recorded curves and their replay in virtual time."""

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution

from hpo_helpers.comparing import reports
from hpo_helpers.curves import NoisyCurves, RecordedCurves, cnn_curves, expected_errors
from hpo_helpers.datasets import load_curves
from hpo_helpers.jobs import JobStatus
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.tuning import tune

CENTRE = {"learning_rate": 0.05, "momentum": 0.6, "batch_size": 64, "n_channels": 10, "dropout": 0.2}


def constant(seconds, n=3):
    """Return curves of n epochs, each of so many seconds."""
    return lambda params: [{"valid_error": 0.5, "seconds": seconds}] * n


def values(job):
    return [(report.epoch, report.time) for report in job.new_reports()]


# The launcher


def test_wait_moves_the_clock_to_the_next_report_or_its_deadline_and_no_further():
    launcher = ReplayLauncher(curves=lambda params: [{"valid_error": 0.5, "seconds": params["x"]}] * 2)
    slow, fast = launcher.submit({"x": 5.0}, 2), launcher.submit({"x": 2.0}, 2)
    launcher.wait([slow, fast])
    assert launcher.clock() == 2.0
    assert (values(slow), values(fast)) == ([], [(1, 2.0)])
    launcher.wait([slow, fast])
    assert launcher.clock() == 4.0
    assert fast.status is JobStatus.COMPLETED and slow.status is JobStatus.RUNNING
    launcher.wait([slow], timeout=0.5)
    assert launcher.clock() == 4.5 and values(slow) == []


def test_wait_returns_at_once_while_a_report_is_unread_or_an_end_was_not_waited_for():
    launcher = ReplayLauncher(curves=constant(1.0, n=1))
    job = launcher.submit({}, 1)
    launcher.wait([job])
    launcher.wait([job])
    assert launcher.clock() == 1.0
    values(job)
    for jobs in ([job], []):
        with pytest.raises(ValueError, match="no running job"):
            launcher.wait(jobs)


def test_jobs_go_on_while_the_clock_is_moved():
    launcher = ReplayLauncher(curves=constant(1.0))
    job = launcher.submit({}, 3)
    launcher.advance(2.5)
    assert values(job) == [(1, 1.0), (2, 2.0)]


def test_a_stopped_job_delivers_nothing_and_frees_its_worker():
    launcher = ReplayLauncher(1, curves=constant(1.0))
    job = launcher.submit({}, 3)
    with pytest.raises(RuntimeError, match="all 1 workers are taken"):
        launcher.submit({}, 3)
    launcher.advance(1.0)
    job.stop()
    job.stop()
    assert job.status is JobStatus.STOPPED and values(job) == []
    job = launcher.submit({}, 3)
    launcher.advance(3.0)
    job.stop()  # which has completed, and stays so
    assert job.status is JobStatus.COMPLETED and values(job) == []


def test_closing_stops_what_runs_and_takes_no_more():
    with ReplayLauncher(curves=constant(1.0)) as launcher:
        job = launcher.submit({}, 3)
    assert job.status is JobStatus.STOPPED
    with pytest.raises(RuntimeError, match="closed"):
        launcher.submit({}, 3)


def test_a_curve_that_fails_fails_the_job_when_it_happens():
    def curves(params):
        yield {"valid_error": 0.5, "seconds": 1.0}
        yield {"valid_error": float("nan"), "seconds": 1.0}

    launcher = ReplayLauncher(curves=curves)
    job = launcher.submit({}, 3)
    launcher.advance(1.0)
    assert job.error is None and job.status is JobStatus.RUNNING
    launcher.advance(1.0)
    assert job.status is JobStatus.FAILED and "nan after epoch 2" in job.error
    assert values(job) == [(1, 1.0)]


@pytest.mark.parametrize("settings", [{"n_workers": 0}, {"n_workers": 1.5}, {"fixed": {"epochs": 3}}])
def test_a_bad_setting_is_quoted(settings):
    (value,) = settings.values()
    with pytest.raises(ValueError, match=f"got {value}"):
        ReplayLauncher(curves=constant(1.0), **settings)


def test_more_epochs_than_were_recorded_are_refused():
    with pytest.raises(ValueError, match="ends after 27 epochs, got epochs=28"):
        ReplayLauncher().submit(CENTRE, 28)


# The recorded curves


def test_a_recorded_configuration_is_answered_as_it_was_recorded():
    table = load_curves()
    for configuration in (0, 500, 1007):
        curve = table[table["configuration"] == configuration].sort_values("epoch")
        params = curve[list(MNIST_CNN)].iloc[0].to_dict()
        answer = pd.DataFrame(cnn_curves()(params))
        for name in ("epoch", "valid_error", "test_error", "seconds"):
            np.testing.assert_allclose(answer[name], curve[name], rtol=1e-9)


def test_halfway_on_the_searched_scale_the_answer_is_the_geometric_mean():
    space = {"x": FloatDistribution(0.01, 1.0, log=True)}
    rows = [(x, epoch, x * epoch) for x in (0.01, 1.0) for epoch in (1, 2)]
    table = pd.DataFrame(rows, columns=["x", "epoch", "valid_error"])
    table = table.assign(test_error=table["valid_error"], seconds=2.0)
    answer = RecordedCurves(table, space)({"x": 0.1})
    assert [metrics["valid_error"] for metrics in answer] == pytest.approx([0.1, 0.2])
    assert [metrics["seconds"] for metrics in answer] == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 2.0}, "'learning_rate' must lie in .*, got 2.0"),
        ({"n_channels": 32}, "'n_channels' must lie in .*, got 32"),
        ({"depth": 3}, "'depth': 3"),
    ],
)
def test_a_configuration_outside_the_space_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ReplayLauncher().submit(CENTRE | change, 27)


def test_a_missing_hyperparameter_is_named():
    with pytest.raises(ValueError, match="a configuration has .*'momentum'"):
        cnn_curves()({name: value for name, value in CENTRE.items() if name != "momentum"})


def test_fixed_hyperparameters_leave_the_others_to_be_searched():
    fixed = {name: value for name, value in CENTRE.items() if name != "learning_rate"}
    with ReplayLauncher(fixed=fixed) as launcher:
        job = launcher.submit({"learning_rate": CENTRE["learning_rate"]}, 1)
        launcher.wait([job])
        assert job.new_reports()[0].value == cnn_curves()(CENTRE)[0]["valid_error"]


def test_a_recording_of_less_than_the_space_or_with_a_hole_is_refused():
    with pytest.raises(ValueError, match=r"'dropout' is recorded in \[0.0, 0.5\]"):
        RecordedCurves(space=MNIST_CNN | {"dropout": FloatDistribution(0.0, 0.9)})
    with pytest.raises(ValueError, match="27216 rows, got 27215"):
        RecordedCurves(load_curves().drop(index=5))


# Noise


def test_an_incumbent_is_judged_by_a_full_training_without_noise():
    rows = pd.DataFrame([{"epoch": 3} | {f"params_{name}": CENTRE[name] for name in CENTRE}])
    assert expected_errors(rows)["expected_error"].tolist() == [cnn_curves()(CENTRE)[26]["test_error"]]


def test_the_last_digits_of_a_configuration_change_nothing():
    close = CENTRE | {"learning_rate": np.nextafter(0.05, 1), "dropout": np.nextafter(0.2, 0)}
    assert NoisyCurves(0)(close) == NoisyCurves(0)(CENTRE)


def test_noise_depends_on_configuration_and_seed_alone_and_leaves_the_seconds_alone():
    first, again, other = NoisyCurves(1)(CENTRE), NoisyCurves(1)(CENTRE), NoisyCurves(2)(CENTRE)
    assert first == again and first != other
    assert NoisyCurves(1)({**CENTRE, "batch_size": np.int64(64)}) == first
    seconds = [[metrics["seconds"] for metrics in curve] for curve in (first, cnn_curves()(CENTRE))]
    assert seconds[0] == pytest.approx(seconds[1])


def test_noise_is_as_wide_as_it_was_recorded_and_leaves_the_median_where_it_was():
    best = load_curves("mnist_cnn_noise").query("epoch == 27").groupby("configuration")["valid_error"]
    recorded = np.log(pd.concat(errors / errors.mean() for _, errors in best)).std()
    params = load_curves("mnist_cnn_noise").query("configuration == configuration[0]")[list(MNIST_CNN)]
    params = params.iloc[0].to_dict()
    drawn = np.log([NoisyCurves(seed)(params)[-1]["valid_error"] for seed in range(200)])
    assert 0.5 * recorded < drawn.std() < 2 * recorded
    assert drawn.mean() == pytest.approx(np.log(cnn_curves()(params)[-1]["valid_error"]), abs=0.03)


def test_four_workers_are_busy_all_the_time():
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3), pruner=optuna.pruners.NopPruner())
    with ReplayLauncher(4) as launcher:
        tune(study, MNIST_CNN, launcher, epochs=27, n_trials=40, progress=False)
    seconds = reports(study)["seconds"].sum()
    assert seconds / (4 * launcher.clock()) > 0.85
