"""Train many configurations on all workers, resumably, into one table; used by the scripts that record curves.

Interrupt it at any time: every finished run lies in ``data/NAME.csv``, and the next call goes on from there. A table
that is whole is compressed to ``data/NAME.csv.gz``.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from hpo_helpers.jobs import Job, JobStatus, Report
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.train_mnist import PRELOAD, train

Training = Callable[..., Iterator[dict]]

HERE = Path(__file__).resolve().parent
N_WORKERS = 2


def record(
    name: str, runs: pd.DataFrame, epochs: int, fixed: Mapping[str, Any], train: Training = train
) -> pd.DataFrame:
    """Train every run that is not recorded yet, and return the whole table, one row an epoch.

    Parameters
    ----------
    name
        Of the table, in ``data/``.
    runs
        One row a run: its ``configuration`` (a number), and arguments of `train`, ``seed`` among them.
    epochs
        Number of passes over the training part; a run's own ``epochs`` goes before, where it has them.
    fixed
        Arguments of `train` that are the same for all.
    train
        Yields a dict of metrics once an epoch.
    """
    whole, unfinished = HERE / f"{name}.csv.gz", HERE / f"{name}.csv"
    if whole.exists():
        return pd.read_csv(whole)
    done = read_finished(unfinished, epochs)
    waiting = without(runs, done)
    timed = functools.partial(train_timed, train)
    for rows in train_all(name, waiting, epochs, fixed, timed):
        rows.to_csv(unfinished, mode="a", index=False, header=not unfinished.exists())
    table = pd.read_csv(unfinished).sort_values(["configuration", "seed", "epoch"], ignore_index=True)
    table.to_csv(whole, index=False, compression={"method": "gzip", "mtime": 0})
    unfinished.unlink()
    return table


def read_finished(path: Path, epochs: int) -> pd.DataFrame:
    """Read the runs that are recorded whole; cut off what an interruption left of another."""
    if not path.exists():
        return pd.DataFrame(columns=["configuration", "seed"])
    text = path.read_text()
    path.write_text(text[: text.rfind("\n") + 1])
    table = pd.read_csv(path)
    lengths = table["epochs"] if "epochs" in table else epochs
    finished = table.groupby(["configuration", "seed"])["epoch"].transform("size") == lengths
    table[finished].to_csv(path, index=False)
    return table[finished]


def without(runs: pd.DataFrame, done: pd.DataFrame) -> pd.DataFrame:
    """Leave out the runs that are done; mix the rest, so that the bar's forecast holds for all of them."""
    finished = set(zip(done["configuration"], done["seed"], strict=True))
    keys = zip(runs["configuration"], runs["seed"], strict=True)
    return runs[[key not in finished for key in keys]].sample(frac=1, random_state=0)


def train_all(
    name: str, runs: pd.DataFrame, epochs: int, fixed: Mapping[str, Any], train: Training
) -> Iterator[pd.DataFrame]:
    """Train the runs on all workers, and yield the rows of each as it ends."""
    waiting = runs.to_dict("records")
    running: dict[Job, tuple[dict, list[Report]]] = {}
    with (
        LocalLauncher(train, N_WORKERS, fixed=fixed, preload=PRELOAD) as launcher,
        tqdm(total=len(runs), desc=name, smoothing=0, mininterval=10) as bar,
    ):
        while waiting or running:
            while waiting and len(running) < N_WORKERS:
                run = waiting.pop(0)
                params = {key: value for key, value in run.items() if key != "configuration"}
                running[launcher.submit(params, epochs)] = run, []
            launcher.wait(list(running))
            ended = [job for job in running if job.finished]  # first: their last reports are then there to be read
            for job, (_, reports) in running.items():
                reports += job.new_reports()
            for job in ended:
                yield rows_of(job, *running.pop(job))
                bar.update()


def train_timed(train: Training, **arguments) -> Iterator[dict]:
    """Train, and count the processor's seconds of each epoch: what else runs on the machine hardly adds to them."""
    start = time.process_time()
    for metrics in train(**arguments):
        yield {**metrics, "seconds": time.process_time() - start}
        start = time.process_time()


def rows_of(job: Job, run: dict, reports: list[Report]) -> pd.DataFrame:
    """Return what a run reported as a table; RuntimeError if it did not train to its end."""
    if job.status is not JobStatus.COMPLETED:
        raise RuntimeError(f"training {run} ended {job.status.value}: {job.error}")
    rows = pd.DataFrame([report.metrics for report in reports])
    rows["seconds"] = rows["seconds"].round(4)
    return pd.DataFrame([run]).merge(rows, how="cross")
