"""What drives every optimizer of the comparison: the same curves, the same workers, and one virtual clock.

A driver gives `main` a dict of its methods. Each is a function of a space, a seed and first configurations, and
returns a `Peer`: the optimizer's own scheduler and searcher, behind three calls. The simulators and clocks
that some of these libraries bring are not used.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution

from hpo_helpers.curves import NoisyCurves, cnn_curves
from hpo_helpers.jobs import Job, Report
from hpo_helpers.jobs.replay import Curves, ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN

EPOCHS = 27  # of a full training
GRACE_PERIOD = 1  # epochs before which nothing is stopped
REDUCTION_FACTOR = 3
N_WORKERS = 4
METRIC = "valid_error"
WARM_UP_SEED = 1_000_000
CLOCK_TOLERANCE = 1e-6


@dataclass
class Training:
    """What an optimizer wants trained."""

    params: dict[str, Any]
    until: int = EPOCHS  #: the epoch after which it ends
    since: int = 0  #: the epoch of its checkpoint: those up to it are not trained again, and cost no time
    handle: Any = None  #: whatever the optimizer knows it by


class Peer(Protocol):
    """An optimizer, seen from the loop that runs its trainings."""

    def ask(self) -> Training | None:
        """Return what to train next; None if that depends on what still runs."""

    def report(self, training: Training, report: Report) -> bool:
        """Take note of an epoch, and say whether the training goes on."""

    def complete(self, training: Training, report: Report) -> None:
        """Take note of a training that came to its end with this last report."""


Space = Mapping[str, BaseDistribution]
Method = Callable[[Space, int, list[dict[str, Any]]], Peer]


class TimedLauncher(ReplayLauncher):
    """A replay that counts, and charges if told to, what time passes between its calls.

    All of that is the optimizer's: suggesting, deciding, bookkeeping. It is counted in seconds of the
    processor, as the recording counts its epochs, so that other programs on the machine add nothing. While the
    optimizer computes, running trainings go on and free workers wait.
    """

    def __init__(self, *, charge: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.optimizer_seconds = 0.0
        self._charge = charge
        self._returned = time.process_time()

    def submit(self, params: Mapping[str, Any], epochs: int) -> Job:
        with self._called():
            return super().submit(params, epochs)

    def wait(self, jobs: Sequence[Job], timeout: float | None = None) -> None:
        deadline = None if timeout is None else self.clock() + timeout
        with self._called():
            super().wait(jobs, None if deadline is None else max(0.0, deadline - self.clock()))

    @contextmanager
    def _called(self) -> Iterator[None]:
        spent = time.process_time() - self._returned
        self.optimizer_seconds += spent
        if self._charge:
            self.advance(spent)
        try:
            yield
        finally:
            self._returned = time.process_time()


def resumable(curves: Curves, without_noise: Curves) -> Curves:
    """Let a training begin after the epoch ``since``, where its parameters name one.

    What methods never see goes with each epoch: the ``expected_error`` of the configuration, its test error after
    a full training without noise.
    """

    def trained(params: Mapping[str, Any]) -> list[dict[str, Any]]:
        hyperparameters = {name: value for name, value in params.items() if name != "since"}
        expected = {"expected_error": without_noise(hyperparameters)[-1]["test_error"]}
        return [row | expected for row in curves(hyperparameters)[params.get("since", 0) :]]

    return trained


def run(peer: Peer, launcher: TimedLauncher, timeout: float) -> list[Report]:
    """Keep the workers busy with what a peer asks for, and return all reports in the order of their time."""
    running: dict[Job, Training] = {}
    reports: list[Report] = []
    while launcher.clock() < timeout - CLOCK_TOLERANCE:
        while len(running) < launcher.n_workers and (training := peer.ask()) is not None:
            running[submit(launcher, training)] = training
        if not running:
            break
        launcher.wait(list(running), max(0.0, timeout - launcher.clock()))
        arrived = [(report, job) for job in running for report in job.new_reports()]
        for report, job in sorted(arrived, key=lambda pair: (pair[0].time, pair[1].id)):
            if job not in running:
                continue  # stopped at an earlier report
            reports.append(report)
            if not peer.report(running[job], report):
                job.stop()
                del running[job]
            elif report.epoch == running[job].until:
                peer.complete(running.pop(job), report)
    return reports


def submit(launcher: ReplayLauncher, training: Training) -> Job:
    """Start a training, from its checkpoint if it has one."""
    return launcher.submit({**training.params, "since": training.since}, training.until - training.since)


def incumbents(reports: Iterable[Report], launcher: TimedLauncher, timeout: float) -> pd.DataFrame:
    """Return each report that was better than all before it, and the last such once more at `timeout`.

    That last row also says what the run came to: ``epochs`` and ``optimizer_seconds``.
    """
    reports = [report for report in reports if report.time <= timeout]
    rows, best = [], float("inf")
    for report in reports:
        if report.value < best:
            best = report.value
            judged = {name: report.metrics[name] for name in ("test_error", "expected_error")}
            rows.append({"time": report.time, "value": best, **judged})
    spent = {"epochs": len(reports), "optimizer_seconds": launcher.optimizer_seconds}
    return pd.DataFrame([*rows, {**rows[-1], "time": timeout, **spent}])


class Checkpoints:
    """How far each configuration was trained, where the objective function keeps checkpoints of each."""

    def __init__(self) -> None:
        self._trained: dict[tuple, int] = {}

    def training(self, params: Mapping[str, Any], until: int, handle: Any) -> Training:
        """Return a training that goes on from the checkpoint, if there is one of fewer epochs."""
        since = self._trained.get(self._key(params), 0)
        return Training(dict(params), until, since if since < until else 0, handle)

    def save(self, training: Training) -> None:
        """Note that a training came to its end."""
        self._trained[self._key(training.params)] = training.until

    @staticmethod
    def _key(params: Mapping[str, Any]) -> tuple:
        return tuple(sorted(params.items()))


def within(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the space's parameters as Python's numbers; rounding may have put one outside by a last digit."""
    inside = {}
    for name, distribution in space.items():
        number = type(distribution.low)(params[name])
        inside[name] = min(max(number, distribution.low), distribution.high)
    return inside


def main(methods: Mapping[str, Method], run: Callable[..., list[Report]] = run) -> None:
    """Run one method under some seeds, as the command line says, and write a file for each run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=list(methods), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--timeout", type=float, required=True, help="seconds of the virtual clock")
    parser.add_argument("--first", type=json.loads, default=[], help="configurations to begin with, as JSON")
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()

    def tabulate(seed: int, timeout: float, charge: bool) -> pd.DataFrame:
        # Some of these libraries draw from the global generators.
        random.seed(seed)
        np.random.seed(seed)
        settings = {"n_workers": N_WORKERS, "curves": resumable(NoisyCurves(seed), cnn_curves()), "metric": METRIC}
        with TimedLauncher(charge=charge, **settings) as launcher:
            peer = methods[arguments.method](MNIST_CNN, seed, arguments.first)
            return incumbents(run(peer, launcher, timeout), launcher, timeout)

    # What is imported or compiled at its first use is not charged.
    tabulate(WARM_UP_SEED, arguments.timeout / 10, charge=False)
    for seed in arguments.seeds:
        for charge in (False, True):
            path = result_path(arguments.folder, seed, charge)
            if not path.exists():
                write(tabulate(seed, arguments.timeout, charge), path)


def result_path(folder: Path, seed: int, charge: bool) -> Path:
    """Return the file of one run."""
    return folder / f"{seed}-{'charged' if charge else 'free'}.csv"


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    table.to_csv(unfinished, index=False)
    unfinished.replace(path)
