"""Record the learning curves that every comparison of the series replays.

    python data/record_mnist_cnn_curves.py          # about two hours on 2 cores

Three tables: a full grid of the CNN, its best and some poorer configurations under many seeds, and a smaller grid
of another network on which nothing is chosen. Interrupt it at any time: every finished configuration lies in
``data/NAME.csv``, and the next run goes on from there. A table that is whole is compressed to ``data/NAME.csv.gz``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from hpo_helpers.jobs import Job, JobStatus, Report
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.train_mnist import PRELOAD, train

HERE = Path(__file__).resolve().parent
EPOCHS = 27
N_WORKERS = 2

# Learning rates are close to each other, as the error depends on them most. Steps of the momentum m grow smaller
# towards its upper end, as what counts is 1 / (1 - m). Dropout hardly matters.
CNN_GRID = {
    "learning_rate": [float(f"{rate:.4g}") for rate in np.geomspace(1e-3, 1, 14)],
    "momentum": [0.0, 0.5, 0.8, 0.95],
    "batch_size": [16, 45, 128],
    "n_channels": [4, 8, 16],
    "dropout": [0.0, 0.5],
}
MLP_GRID = {
    "learning_rate": [float(f"{rate:.4g}") for rate in np.geomspace(1e-3, 1, 10)],
    "momentum": [0.0, 0.5, 0.8, 0.95],
    "batch_size": [16, 45, 128],
    "dropout": [0.0, 0.25, 0.5],
}

# The noise is measured at the best configurations, among which a tuner has to decide, and at poorer ones.
N_BEST = 6
POORER = (0.03, 0.1, 0.25, 0.5, 0.75, 0.9)  # quantiles of the validation error
NOISE_SEEDS = range(2000, 2020)  # none of the grid's


def main() -> None:
    grid = record("mnist_cnn_curves", grid_of(CNN_GRID), network="cnn")
    record("mnist_cnn_noise", noise_of(grid), network="cnn")
    record("mnist_mlp_curves", grid_of(MLP_GRID), network="mlp")


def grid_of(levels: dict[str, list]) -> pd.DataFrame:
    """Combine all levels: one row a configuration, each trained with a seed of its own, its number."""
    configurations = pd.DataFrame(itertools.product(*levels.values()), columns=list(levels))
    configurations.insert(0, "configuration", range(len(configurations)))
    return configurations.assign(seed=configurations["configuration"])


def noise_of(grid: pd.DataFrame) -> pd.DataFrame:
    """Choose configurations of the grid, from best to poor, and give each of them many seeds."""
    # Averaged over the last epochs: the best of a thousand single errors is the luckiest one.
    last = grid[grid["epoch"] > EPOCHS - 3]
    ranked = last.groupby("configuration")["valid_error"].mean().sort_values(kind="stable").index
    ranks = [*range(N_BEST), *(int(quantile * len(ranked)) for quantile in POORER)]
    chosen = grid[grid["epoch"] == 1].set_index("configuration").loc[ranked[ranks]].reset_index()
    names = [name for name in CNN_GRID]
    seeds = pd.DataFrame({"seed": list(NOISE_SEEDS)})
    return chosen[["configuration", *names]].merge(seeds, how="cross")


def record(name: str, runs: pd.DataFrame, network: str) -> pd.DataFrame:
    """Train every run that is not recorded yet, and return the whole table, one row an epoch."""
    whole, unfinished = HERE / f"{name}.csv.gz", HERE / f"{name}.csv"
    if whole.exists():
        return pd.read_csv(whole)
    done = read_finished(unfinished)
    for rows in train_all(name, without(runs, done), network):
        rows.to_csv(unfinished, mode="a", index=False, header=not unfinished.exists())
    table = pd.read_csv(unfinished).sort_values(["configuration", "seed", "epoch"], ignore_index=True)
    table.to_csv(whole, index=False, compression={"method": "gzip", "mtime": 0})
    unfinished.unlink()
    return table


def read_finished(path: Path) -> pd.DataFrame:
    """Read the runs that are recorded whole; cut off what an interruption left of another."""
    if not path.exists():
        return pd.DataFrame(columns=["configuration", "seed"])
    text = path.read_text()
    path.write_text(text[: text.rfind("\n") + 1])
    table = pd.read_csv(path)
    finished = table.groupby(["configuration", "seed"])["epoch"].transform("size") == EPOCHS
    table[finished].to_csv(path, index=False)
    return table[finished]


def without(runs: pd.DataFrame, done: pd.DataFrame) -> pd.DataFrame:
    """Leave out the runs that are done; mix the rest, so that the bar's forecast holds for all of them."""
    finished = set(zip(done["configuration"], done["seed"], strict=True))
    keys = zip(runs["configuration"], runs["seed"], strict=True)
    return runs[[key not in finished for key in keys]].sample(frac=1, random_state=0)


def train_all(name: str, runs: pd.DataFrame, network: str) -> Iterator[pd.DataFrame]:
    """Train the runs on all workers, and yield the rows of each as it ends."""
    waiting = runs.to_dict("records")
    running: dict[Job, tuple[dict, list[Report]]] = {}
    with (
        LocalLauncher(train_timed, N_WORKERS, fixed={"network": network}, preload=PRELOAD) as launcher,
        tqdm(total=len(runs), desc=name, smoothing=0, mininterval=10) as bar,
    ):
        while waiting or running:
            while waiting and len(running) < N_WORKERS:
                run = waiting.pop(0)
                params = {key: value for key, value in run.items() if key != "configuration"}
                running[launcher.submit(params, EPOCHS)] = run, []
            launcher.wait(list(running))
            ended = [job for job in running if job.finished]  # first: their last reports are then there to be read
            for job, (_, reports) in running.items():
                reports += job.new_reports()
            for job in ended:
                yield rows_of(job, *running.pop(job))
                bar.update()


def train_timed(**arguments) -> Iterator[dict]:
    """Train, and count the processor's seconds of each epoch: what else runs on the machine hardly adds to them."""
    start = time.process_time()
    for metrics in train(**arguments):
        yield {**metrics, "seconds": time.process_time() - start}
        start = time.process_time()


def rows_of(job: Job, run: dict, reports: list[Report]) -> pd.DataFrame:
    if job.status is not JobStatus.COMPLETED:
        raise RuntimeError(f"training {run} ended {job.status.value}: {job.error}")
    rows = pd.DataFrame([report.metrics for report in reports])
    rows["seconds"] = rows["seconds"].round(4)
    return pd.DataFrame([run]).merge(rows, how="cross")


if __name__ == "__main__":
    main()
