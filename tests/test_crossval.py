"""Folds and their jobs: real processes, what becomes of them, and a cloud that takes its time to stop."""

from __future__ import annotations

import doctest
import itertools
import os
import statistics
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import hpo_helpers.crossval
from hpo_helpers.crossval import FoldError, FoldValues, cross_validate, evaluate_folds, make_folds
from hpo_helpers.jobs import JobStatus, make_report
from hpo_helpers.jobs.local import LocalLauncher

PATIENCE = 30  # seconds, for what takes milliseconds on an idle machine
BAD_KS = [1, 0, -1, 11, 2.0, "5", True, None]


# What a fold may do. Each writes its process down in the folder that it is given.


def behave(fold, epochs, folder, does=None):
    (Path(folder) / f"fold-{fold}").write_text(str(os.getpid()))
    does = (does or {}).get(fold, "yield")
    if does == "wait for the others":
        wait_for(lambda: len(list(Path(folder).iterdir())) == 2)
    if does == "hang":
        time.sleep(3600)
    if does == "raise":
        raise ValueError("the solver gave up")
    if does == "exit":
        os._exit(0)
    if does == "be slow":
        time.sleep(0.5)
    if does != "yield nothing":
        yield {"auc": float("nan") if does == "nan" else (90 + fold) / 100}
    if does == "yield, then be slow":
        time.sleep(1)
    if does == "yield, then raise":
        raise ValueError("the disk is full")


def tune_alone(epochs, folder):
    """A worker that is itself a job: it launches the folds of its trials."""
    fixed = {"folder": folder, "does": {0: "hang", 1: "hang"}}
    with LocalLauncher(behave, 2, fixed=fixed, metric="auc", preload=()) as launcher:
        yield {"auc": cross_validate(launcher, {}, 2).mean}


def wait_for(is_true):
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


@pytest.fixture
def launch(tmp_path):
    """Make a launcher of `behave`, closed at the end of the test."""
    launchers = []

    def launch(n_workers, **does):
        does = {int(name.removeprefix("fold_")): what for name, what in does.items()}
        fixed = {"folder": str(tmp_path), "does": does}
        launchers.append(LocalLauncher(behave, n_workers, fixed=fixed, metric="auc", preload=()))
        return launchers[-1]

    yield launch
    for launcher in launchers:
        launcher.close()


@pytest.fixture
def alive(tmp_path):
    """Say which folds' processes there are."""

    def alive():
        pids = {path.name: int(path.read_text() or 0) for path in sorted(tmp_path.glob("fold-*"))}
        return [name for name, pid in pids.items() if psutil.pid_exists(pid)]

    return alive


# The cut.


@pytest.mark.parametrize("n", [100, 101, 37])
@pytest.mark.parametrize("k", range(2, 11))
def test_every_example_validates_in_one_of_k_folds_whatever_k(n, k):
    fold_of = make_folds(np.arange(n) % 2, k, seed=0)
    assert fold_of.shape == (n,)
    assert set(fold_of) == set(range(k))
    assert np.ptp(np.bincount(fold_of)) <= 1


@pytest.mark.parametrize("k", range(2, 11))
def test_each_class_is_spread_evenly(k):
    labels = np.array([3] * 60 + [5] * 41)
    fold_of = make_folds(labels, k, seed=1)
    assert all(np.ptp(np.bincount(fold_of[labels == digit])) <= 1 for digit in (3, 5))


def test_the_cut_is_the_seeds():
    labels = np.arange(50) % 2
    same, again, other = (list(make_folds(labels, 5, seed)) for seed in (0, 0, 1))
    assert same == again != other


@pytest.mark.parametrize("k", BAD_KS)
def test_a_wrong_k_is_named(k, launch):
    message = f"k must be a whole number from 2 to 10, got {k!r}"
    with pytest.raises(ValueError, match=message):
        make_folds([0, 1] * 20, k, seed=0)
    with pytest.raises(ValueError, match=message):
        cross_validate(launch(1), {}, k)


def test_a_class_that_some_fold_would_lack_is_named():
    with pytest.raises(ValueError, match="in each of the k=5 folds, got 4 of class 3"):
        make_folds([3] * 4 + [5] * 16, 5, seed=0)


# The values.


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8])
def test_the_values_come_in_the_order_of_the_folds_whichever_ends_first(launch, n_workers):
    launcher = launch(n_workers, fold_0="be slow")
    assert cross_validate(launcher, {}, 5).values == (0.9, 0.91, 0.92, 0.93, 0.94)
    assert list(evaluate_folds(launcher, {}, 2)) == [(0, 0.9), (1, 0.91)]


def test_the_folds_run_at_the_same_time(launch):
    launcher = launch(2, fold_0="wait for the others", fold_1="wait for the others")
    assert cross_validate(launcher, {}, 2, fold_timeout=PATIENCE).values == (0.9, 0.91)


def test_a_fold_that_has_reported_is_waited_for_without_haste(launch, monkeypatch):
    launcher = launch(2, fold_0="yield, then be slow", fold_1="yield, then be slow")
    waits, wait = [], launcher.wait
    monkeypatch.setattr(launcher, "wait", lambda *arguments: waits.append(arguments) or wait(*arguments))
    cross_validate(launcher, {}, 2)
    assert len(waits) <= 6


def test_the_standard_errors_are_those_of_the_formulas():
    found = FoldValues((0.91, 0.95, 0.93, 0.96))
    spread = statistics.stdev(found.values)
    assert found.mean == pytest.approx(0.9375)
    assert found.standard_error == pytest.approx(spread / 2)
    assert found.corrected_standard_error == pytest.approx(spread * (1 / 4 + 1 / 3) ** 0.5)
    assert FoldValues((0.0, 1.0)).corrected_standard_error == pytest.approx((0.5 * (1 / 2 + 1)) ** 0.5)


def test_the_corrected_standard_error_is_nearer_to_the_truth_than_the_naive_one():
    """The truth is the spread of the cross-validated mean over fresh data. The model predicts the training mean."""
    random, means, naive, corrected = np.random.RandomState(0), [], [], []
    for _ in range(400):
        y = random.exponential(size=20)
        labels = np.arange(20) % 2
        fold_of = make_folds(labels, 5, seed=0)
        losses = [np.mean((y[fold_of == fold] - y[fold_of != fold].mean()) ** 2) for fold in range(5)]
        found = FoldValues(tuple(losses))
        means.append(found.mean)
        naive.append(found.standard_error)
        corrected.append(found.corrected_standard_error)
    truth = np.std(means)
    assert np.mean(naive) < np.mean(corrected) < 1.3 * truth
    assert abs(np.mean(corrected) - truth) < abs(np.mean(naive) - truth)


# What goes wrong.

FAULTS = [
    ("raise", "fold 1 failed: ValueError: the solver gave up"),
    ("exit", "fold 1 failed: the process ended with exit status 0 before the end of training"),
    ("nan", "fold 1 failed: ValueError: 'auc' was nan after epoch 1"),
    ("yield nothing", "fold 1 failed: RuntimeError: training ended without a report"),
    ("yield, then raise", "fold 1 failed: ValueError: the disk is full"),
]


@pytest.mark.parametrize(("does", "message"), FAULTS)
def test_a_fold_that_fails_is_named_with_the_reason_and_stops_the_others(launch, alive, does, message):
    launcher = launch(3, fold_0="hang", fold_1=does, fold_2="hang")
    with pytest.raises(FoldError, match="^fold 1 failed") as caught:
        cross_validate(launcher, {}, 5)
    assert str(caught.value).startswith(message)
    assert caught.value.fold == 1
    assert alive() == []
    assert launcher.submit({"fold": 0, "does": {}}, epochs=1), "its workers are free again"


def test_a_fold_that_exceeds_its_time_is_named_and_stopped_with_the_others(launch, alive):
    launcher = launch(3, fold_2="hang")
    cross_validate(launcher, {"does": {}}, 3)  # the processes are warm now
    with pytest.raises(FoldError, match=r"^fold 2 had not ended after 1 s \(fold_timeout\)$"):
        cross_validate(launcher, {}, 4, fold_timeout=1)
    assert alive() == []
    assert cross_validate(launcher, {"does": {}}, 3, fold_timeout=PATIENCE).values == (0.9, 0.91, 0.92)


def test_whoever_stops_iterating_stops_the_folds(launch, alive):
    launcher = launch(2, fold_1="hang", fold_2="hang")
    for fold, _value in evaluate_folds(launcher, {}, 5):
        assert fold == 0
        break
    assert alive() == []


def test_an_interruption_leaves_no_fold(launch, alive, monkeypatch):
    launcher = launch(2, fold_0="hang", fold_1="hang")
    waits, wait = itertools.count(), launcher.wait

    def interrupt(*arguments):
        wait_for(lambda: len(alive()) == 2)
        if next(waits) == 0:
            raise KeyboardInterrupt
        wait(*arguments)

    monkeypatch.setattr(launcher, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(launcher, {}, 2)
    assert alive() == []


def test_a_worker_that_is_killed_takes_its_folds_along(alive, tmp_path):
    with LocalLauncher(tune_alone, 1, fixed={"folder": str(tmp_path)}, metric="auc", preload=()) as launcher:
        worker = launcher.submit({}, epochs=1)
        wait_for(lambda: len(alive()) == 2)
        worker.stop()
        wait_for(lambda: alive() == [])


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_wrong_timeout_is_named(launch, seconds):
    with pytest.raises(ValueError, match=f"fold_timeout must be positive, got {seconds!r}"):
        cross_validate(launch(1), {}, 3, fold_timeout=seconds)


# A cloud: its jobs go on for a while once they are told to stop, and it may lower its number of workers.


class SlowJob:
    error = None

    def __init__(self, cloud, params):
        self.cloud, self.params, self.ends = cloud, params, cloud.now + params.get("seconds", 10)
        self.status, self.unread = JobStatus.RUNNING, []

    @property
    def finished(self):
        if self.cloud.now >= self.ends and self.status is JobStatus.RUNNING:
            self.status = self.cloud.endings.get(self.params["fold"], JobStatus.COMPLETED)
            self.unread = [make_report({"auc": 0.5}, "auc", 0, self.cloud.now)] * self.cloud.reports
        return self.cloud.now >= self.ends

    def new_reports(self):
        reports, self.unread = self.unread, []
        return reports

    def stop(self):
        if self.status is JobStatus.RUNNING:
            self.status, self.ends = JobStatus.STOPPED, self.cloud.now + 60


class SlowCloud:
    metric = "auc"

    def __init__(self, n_workers, endings=None, reports=1):
        self.n_workers, self.endings, self.reports = n_workers, endings or {}, reports
        self.now, self.jobs, self.most = 0.0, [], 0

    def clock(self):
        return self.now

    def submit(self, params, epochs):
        assert sum(not job.finished for job in self.jobs) < self.n_workers, "all workers are taken"
        self.jobs.append(SlowJob(self, params))
        return self.jobs[-1]

    def wait(self, jobs, timeout=None):
        ends = [job.ends for job in jobs if not job.finished]
        assert ends, "nothing to wait for"
        self.now = min([*ends, *([self.now + timeout] if timeout is not None else [])])
        if self.now > 15:
            self.n_workers = min(self.n_workers, 2)


def test_a_cloud_that_lowers_its_number_of_workers_gets_no_more_jobs_than_it_takes():
    cloud = SlowCloud(n_workers=3)
    assert cross_validate(cloud, {}, 10).values == (0.5,) * 10
    assert cloud.n_workers == 2


def test_the_jobs_of_a_cloud_are_waited_for_until_they_have_stopped():
    cloud = SlowCloud(n_workers=4)
    with pytest.raises(FoldError, match="fold 0 had not ended after 5 s"):
        cross_validate(cloud, {}, 4, fold_timeout=5)
    assert cloud.now == 65
    assert all(job.finished and job.status is JobStatus.STOPPED for job in cloud.jobs)
    assert cross_validate(cloud, {}, 2).values == (0.5, 0.5)


def test_a_job_that_somebody_else_stopped_fails_its_fold():
    cloud = SlowCloud(n_workers=2, endings={1: JobStatus.STOPPED})
    with pytest.raises(FoldError, match="fold 1 was stopped from outside"):
        cross_validate(cloud, {}, 3)
    assert all(job.finished for job in cloud.jobs)


def test_a_job_that_ended_well_and_said_nothing_fails_its_fold():
    with pytest.raises(FoldError, match="fold 0 ended without a report"):
        cross_validate(SlowCloud(n_workers=2, reports=0), {}, 3)


def test_folds_that_came_before_the_failure_were_given():
    cloud = SlowCloud(n_workers=1, endings={2: JobStatus.STOPPED})
    came = []
    with pytest.raises(FoldError, match="fold 2"):
        for fold, _value in evaluate_folds(cloud, {}, 5):
            came.append(fold)
    assert came == [0, 1]
    assert len(cloud.jobs) == 3, "no later fold was started"


def test_the_example_of_the_docstring():
    assert doctest.testmod(hpo_helpers.crossval).failed == 0
