"""How much LocalLauncher costs: the start of a trial, and the epochs per second of two workers.

Run ``python benchmarks/local_launcher.py`` on an idle machine. It prints

- from `submit` to the first line of the training function, with MXNet and the data preloaded (median);
- the same for a fresh process, which imports MXNet and loads the data itself (median);
- the epochs per second of two jobs over those of two bare processes that run the same loop, and over those of
  one job, measured in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from hpo_helpers.jobs.local import LocalLauncher
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
import sys
from hpo_helpers.datasets import load_mnist
from hpo_helpers.mxnet_compat import mx
from hpo_helpers.train_mnist import train
load_mnist()
print("ready", flush=True)
arguments = eval(input())
for metrics in train(**arguments):
    pass
"""


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
            while not job.finished:
                launcher.wait([job])
            starts.append(job.new_reports()[0].value - before)
    return starts[1:]  # the first one waited for what is preloaded


def fresh_start() -> float:
    """Return the seconds that a new process needs until it could train."""
    before = time.monotonic()
    return float(bare_process(FRESH).communicate()[0]) - before


def launched_epochs_per_second(launcher: LocalLauncher, n_jobs: int, epochs: int) -> float:
    """Train jobs to their end, all at a time."""
    before = time.monotonic()
    jobs = [launcher.submit({"seed": seed}, epochs) for seed in range(n_jobs)]
    while not all(job.finished for job in jobs):
        launcher.wait(jobs)
    seconds = time.monotonic() - before
    n_reports = sum(len(job.new_reports()) for job in jobs)
    assert n_reports == n_jobs * epochs, [job.error for job in jobs]
    return n_reports / seconds


def bare_epochs_per_second(epochs: int) -> float:
    """Train in two processes that have MXNet and the data ready, to their end."""
    processes = [bare_process(BARE) for _ in range(2)]
    for process in processes:
        process.stdout.readline()
    before = time.monotonic()
    for seed, process in enumerate(processes):
        process.stdin.write(f"{HYPERPARAMETERS | {'seed': seed, 'epochs': epochs}}\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0, 0]
    seconds = time.monotonic() - before
    for process in processes:
        process.communicate()
    return 2 * epochs / seconds


def bare_process(code: str) -> subprocess.Popen[str]:
    """Start Python with one thread for linear algebra, as the launcher's workers have."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
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
    over_bare, over_one = [], []
    with LocalLauncher(train, 2, fixed=HYPERPARAMETERS) as launcher:
        launched_epochs_per_second(launcher, 2, 1)  # waits for what is preloaded
        for _ in range(rounds):
            two = launched_epochs_per_second(launcher, 2, epochs)
            bare = bare_epochs_per_second(epochs)
            one = launched_epochs_per_second(launcher, 1, epochs)
            over_bare.append(two / bare)
            over_one.append(two / one)
            print(f"epochs per second: two jobs {two:.2f}, two bare processes {bare:.2f}, one job {one:.2f}")
    print(f"two jobs over two bare processes: {describe(over_bare)}")
    print(f"two jobs over one: {describe(over_one)}")


def describe(ratios: list[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    main()
