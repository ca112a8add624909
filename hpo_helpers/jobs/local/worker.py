"""The process of one job: train, report, and say how it ended."""

import os
import pickle
import socket

from hpo_helpers.jobs.local.channel import send
from hpo_helpers.jobs.training import describe, reports


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
