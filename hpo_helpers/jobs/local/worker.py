"""The process of one job: train, report, and say how it ended."""

import contextlib
import os
import pickle
import random
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpo_helpers.jobs import Report, make_report
from hpo_helpers.jobs.local.channel import send

INNER_FRAMES = 2  #: of a traceback, shown after the reader's own


def run_job(channel: socket.socket) -> None:
    """Receive a job, train, send its reports, and at last how it ended."""
    send(channel, ("started", os.getpid()))
    try:
        with channel.makefile("rb") as stream:
            job = pickle.load(stream)
        for report in reports(job):
            send(channel, ("report", report))
        ending = ("completed", None)
    except BaseException as error:  # SystemExit too: the launcher is told of all
        ending = ("failed", describe(error))
    send(channel, ending)


def reports(job: Mapping[str, Any]) -> Iterator[Report]:
    """Train and yield a report for each epoch of the job."""
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
    """Return what an exception says, and where outside this package it was raised.

    The launcher adds the lines of source: this process does not know those of a cell.
    """
    frames = [
        (frame.filename, frame.lineno, frame.name)
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent != Path(__file__).parent
    ]
    said = "".join(traceback.format_exception_only(error)).strip()
    return said, frames[:1] + frames[1:][-INNER_FRAMES:]


def _seed(job_id):
    # Forked jobs would all draw the same numbers where they set no seed.
    random.seed(job_id)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(job_id)
