"""Folds and their jobs: real processes, what becomes of them, and a cloud that takes its time to stop."""

import os
import time
from pathlib import Path

import psutil
import pytest

from hpo_helpers.crossval import FoldError, evaluate_folds
from hpo_helpers.jobs import JobStatus, make_report
from hpo_helpers.jobs.local import LocalLauncher

PATIENCE = 30  # seconds, for what takes milliseconds on an idle machine


# What a fold may do. Each writes its process down in the folder that it is given.


def behave(fold, epochs, folder, does):
    (Path(folder) / f"fold-{fold}").write_text(str(os.getpid()))
    does = does.get(fold, "yield")
    if does == "hang":
        time.sleep(3600)
    if does == "raise":
        raise ValueError("the solver gave up")
    if does == "wait for the last":
        wait_for(lambda: (Path(folder) / "fold-4").exists())
    yield {"auc": (90 + fold) / 100}


def wait_for(is_true):
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def workers():
    with LocalLauncher(behave, 3, metric="auc") as launcher:
        yield launcher


@pytest.fixture
def launcher(workers, monkeypatch):
    """The launcher of all tests; a test may change its number of workers, and need not change it back."""
    monkeypatch.setattr(workers, "n_workers", 3)
    return workers


@pytest.fixture
def params(tmp_path):
    """Make the parameters of folds that do something else than to yield."""

    def params(**does):
        return {"folder": str(tmp_path), "does": {int(name[-1]): what for name, what in does.items()}}

    return params


@pytest.fixture
def alive(tmp_path):
    """Say which folds' processes there are."""

    def alive():
        pids = {path.name: int(path.read_text() or 0) for path in sorted(tmp_path.glob("fold-*"))}
        return [name for name, pid in pids.items() if psutil.pid_exists(pid)]

    return alive


@pytest.mark.parametrize("n_workers", [1, 2, 8])
def test_folds_run_side_by_side_and_their_values_come_in_order_whichever_ends_last(launcher, params, n_workers):
    launcher.n_workers = n_workers
    does = params() if n_workers == 1 else params(fold_0="wait for the last")
    assert list(evaluate_folds(launcher, does, 5)) == [0.9, 0.91, 0.92, 0.93, 0.94]


def test_a_fold_that_fails_is_named_with_its_reason_and_stops_others(launcher, params, alive):
    with pytest.raises(FoldError, match="^fold 1 failed: ValueError: the solver gave up"):
        list(evaluate_folds(launcher, params(fold_0="hang", fold_1="raise", fold_2="hang"), 5))
    assert alive() == []


def test_a_fold_that_exceeds_its_time_is_named_and_stopped_with_the_others(launcher, params, alive):
    with pytest.raises(FoldError, match=r"^fold 2 had not ended after 1 s \(fold_timeout\)$"):
        list(evaluate_folds(launcher, params(fold_2="hang", fold_3="hang"), 4, fold_timeout=1))
    assert alive() == []
    assert list(evaluate_folds(launcher, params(), 3, fold_timeout=PATIENCE)) == [0.9, 0.91, 0.92]


def test_whoever_stops_iterating_stops_the_folds(launcher, params, alive):
    for fold, _value in enumerate(evaluate_folds(launcher, params(fold_1="hang", fold_2="hang"), 5)):
        assert fold == 0
        break
    assert alive() == []


@pytest.mark.parametrize("k", [1, 11, 2.5])
def test_a_wrong_k_is_named(launcher, k):
    with pytest.raises(ValueError, match=f"k must be a whole number from 2 to 10, got {k!r}"):
        list(evaluate_folds(launcher, {}, k))


# A cloud: its jobs go on for a while once they are told to stop, and it may lower its number of workers.


class SlowJob:
    error = None

    def __init__(self, cloud, params):
        self.cloud, self.params, self.ends = cloud, params, cloud.now + 10
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
        self.now, self.jobs = 0.0, []

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
    assert list(evaluate_folds(cloud, {}, 10)) == [0.5] * 10
    assert cloud.n_workers == 2


def test_the_jobs_of_a_cloud_are_waited_for_until_they_have_stopped():
    cloud = SlowCloud(n_workers=4)
    with pytest.raises(FoldError, match="fold 0 had not ended after 5 s"):
        list(evaluate_folds(cloud, {}, 4, fold_timeout=5))
    assert cloud.now == 65
    assert all(job.finished and job.status is JobStatus.STOPPED for job in cloud.jobs)
    assert list(evaluate_folds(cloud, {}, 2)) == [0.5, 0.5]


FAULTS = [({"endings": {0: JobStatus.STOPPED}}, "was stopped from outside"), ({"reports": 0}, "ended without a report")]


@pytest.mark.parametrize(("does", "fault"), FAULTS)
def test_a_job_that_gives_no_value_fails_its_fold(does, fault):
    with pytest.raises(FoldError, match=f"fold 0 {fault}"):
        list(evaluate_folds(SlowCloud(n_workers=2, **does), {}, 3))
