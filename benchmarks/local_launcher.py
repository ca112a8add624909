"""How much LocalLauncher costs: the start of a trial, and the epochs per second of two workers.

Run ``python benchmarks/local_launcher.py`` on an idle machine. It prints

- from `submit` to the first line of the training function, with MXNet and the data preloaded (median);
- the same for a fresh process, which imports MXNet and loads the data itself (median);
- the epochs per second of two jobs over those of two bare processes that run the same loop, and over those of
  one job, measured in turn;
- the processor time of an epoch in a bare process over that in a job, which other programs on the machine
  hardly change.
"""

import argparse
import ast
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo_helpers.jobs import Report
from hpo_helpers.jobs.local import LocalJob, LocalLauncher
from hpo_helpers.train_mnist import PRELOAD, train

HYPERPARAMETERS = {"learning_rate": 0.05, "batch_size": 64, "n_channels": 8}
FRESH = """
import time
from hpo_helpers.datasets import load_mnist
from hpo_helpers.mxnet_compat import mx
load_mnist()
print(time.monotonic())
"""
BARE = """
from hpo_helpers.datasets import load_mnist
from hpo_helpers.mxnet_compat import mx
from local_launcher import measured_train
load_mnist()
print("ready", flush=True)
arguments = eval(input())
print([metrics["processor_seconds"] for metrics in measured_train(**arguments)])
"""


@dataclass
class Speed:
    """What one measurement found."""

    epochs_per_second: float
    processor_seconds: list[float]  #: of an epoch, for each process


def measured_train(**hyperparameters: Any) -> Iterator[dict[str, Any]]:
    """Train, and tell after each epoch how much processor time the process has used."""
    for metrics in train(**hyperparameters):
        yield {**metrics, "processor_seconds": time.process_time()}


def first_line(epochs: int) -> Iterator[dict[str, float]]:
    """Report the moment at which the training function's first line ran."""
    yield {"valid_error": time.monotonic()}


def warm_starts(n: int) -> list[float]:
    """Return the seconds from `submit` to the first line of `n` jobs, one after the other."""
    starts = []
    with LocalLauncher(first_line, 1, preload=PRELOAD) as launcher:
        for _ in range(n + 1):
            before = time.monotonic()
            job = launcher.submit({}, 1)
            [report] = finish(launcher, [job])[0]
            starts.append(report.value - before)
    return starts[1:]  # the first one waited for what is preloaded


def fresh_start() -> float:
    """Return the seconds that a new process needs until it could train."""
    before = time.monotonic()
    return float(bare_process(FRESH).communicate()[0]) - before


def run_jobs(launcher: LocalLauncher, n_jobs: int, epochs: int) -> Speed:
    """Train jobs to their end, all at a time."""
    before = time.monotonic()
    jobs = [launcher.submit({"seed": seed}, epochs) for seed in range(n_jobs)]
    reports = finish(launcher, jobs)
    seconds = time.monotonic() - before
    assert [len(r) for r in reports] == [epochs] * n_jobs, [job.error for job in jobs]
    used = [[report.metrics["processor_seconds"] for report in r] for r in reports]
    return Speed(n_jobs * epochs / seconds, [per_epoch(u) for u in used])


def finish(launcher: LocalLauncher, jobs: list[LocalJob]) -> list[list[Report]]:
    """Return the reports of jobs, once they have ended."""
    reports = [[] for _ in jobs]
    ended = False
    while not ended:
        launcher.wait(jobs)
        ended = all(job.finished for job in jobs)  # before their last reports are read
        for received, job in zip(reports, jobs, strict=True):
            received += job.new_reports()
    return reports


def run_bare_processes(n_processes: int, epochs: int) -> Speed:
    """Train to their end in processes that have MXNet and the data ready."""
    processes = [bare_process(BARE) for _ in range(n_processes)]
    for process in processes:
        process.stdout.readline()
    before = time.monotonic()
    for seed, process in enumerate(processes):
        process.stdin.write(f"{HYPERPARAMETERS | {'seed': seed, 'epochs': epochs}}\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0] * n_processes
    seconds = time.monotonic() - before
    used = [ast.literal_eval(process.communicate()[0]) for process in processes]
    return Speed(n_processes * epochs / seconds, [per_epoch(u) for u in used])


def per_epoch(used: list[float]) -> float:
    """Return the processor time of an epoch, the first one aside."""
    return (used[-1] - used[0]) / (len(used) - 1)


def bare_process(code: str) -> subprocess.Popen[str]:
    """Start Python with one thread for linear algebra, as the launcher's workers have."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    warm = warm_starts(arguments.starts)
    fresh = [fresh_start() for _ in range(5)]
    print(f"warm trial: {statistics.median(warm) * 1000:.1f} ms, at most {max(warm) * 1000:.1f} ms")
    print(f"fresh process: {statistics.median(fresh) * 1000:.0f} ms")
    compare(arguments.rounds, arguments.epochs)


def compare(rounds: int, epochs: int) -> None:
    """Measure two jobs, two bare processes and one job in turn, and print the medians of the ratios."""
    over_bare, over_one, processor = [], [], []
    with LocalLauncher(measured_train, 2, fixed=HYPERPARAMETERS, preload=PRELOAD) as launcher:
        run_jobs(launcher, 2, 2)  # waits for what is preloaded
        for _ in range(rounds):
            two = run_jobs(launcher, 2, epochs)
            bare = run_bare_processes(2, epochs)
            one = run_jobs(launcher, 1, epochs)
            speeds = [speed.epochs_per_second for speed in (two, bare, one)]
            over_bare.append(speeds[0] / speeds[1])
            over_one.append(speeds[0] / speeds[2])
            processor.append(sum(bare.processor_seconds) / sum(two.processor_seconds))
            print("epochs per second: 2 jobs {:.2f}, 2 bare processes {:.2f}, 1 job {:.2f}".format(*speeds))
    print(f"two jobs over two bare processes: {describe(over_bare)}")
    print(f"two jobs over one: {describe(over_one)}")
    print(f"processor time of a bare epoch over a job's: {describe(processor)}")


def describe(ratios: list[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    main()
