"""What becomes of a training function in a process of any launcher: reports, or a reason."""

import contextlib
import pickle
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from hpo_helpers.jobs import Job, Report, check_fixed, make_report

INNER_FRAMES = 2  #: of a traceback, shown after the reader's own


def pack(train: Callable[..., Iterable[Mapping[str, Any]]], fixed: Mapping[str, Any] | None) -> bytes:
    """Return a training function with the arguments of every job, ready to be sent."""
    if not callable(train):
        raise TypeError(f"train must be a function, not its result, got {train!r}")
    return cloudpickle.dumps((train, check_fixed(fixed)))


def pack_job(job: Job, metric: str, training: bytes, start: float) -> bytes:
    """Return a job, ready to be sent; `start` is when its launcher's clock read 0."""
    described = {"id": job.id, "params": job.params, "epochs": job.epochs}
    return cloudpickle.dumps(described | {"metric": metric, "training": training, "start": start})


def reports(job: Mapping[str, Any]) -> Iterator[Report]:
    """Train and yield a report for each epoch of an unpacked job."""
    train, fixed = pickle.loads(job["training"])
    _seed(job["id"])
    training = train(**{**fixed, **job["params"], "epochs": job["epochs"]})
    if not hasattr(training, "close"):
        raise TypeError(f"train must yield a dict of metrics once per epoch, but it returned {training!r}")
    epoch = 0
    with contextlib.closing(training):  # its `finally` runs, whatever went wrong outside it
        for metrics in training:
            if epoch >= job["epochs"]:  # the code after its loop has had its turn
                return
            report = make_report(metrics, job["metric"], epoch, time.monotonic() - job["start"])
            epoch = report.epoch
            yield report
    if epoch == 0:
        raise RuntimeError("training ended without a report: it must yield a dict of metrics once per epoch")


def describe(error: BaseException) -> tuple[str, list[tuple]]:
    """Return what an exception says, and where outside of the launchers it was raised."""
    frames = [
        (frame.filename, frame.lineno, frame.name)
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(__file__).parent not in Path(frame.filename).parents
    ]
    said = "".join(traceback.format_exception_only(error)).strip()
    return said, frames[:1] + frames[1:][-INNER_FRAMES:]


def explain(said: str, frames: Iterable[tuple]) -> str:
    """Return what was described, with the lines of source: only the launcher's process knows a cell's."""
    lines = traceback.format_list([traceback.FrameSummary(*frame) for frame in frames])
    return "\n".join([said, *"".join(lines).splitlines()])


def _seed(job_id):
    # Forked jobs would all draw the same numbers where they set no seed.
    random.seed(job_id)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(job_id)
