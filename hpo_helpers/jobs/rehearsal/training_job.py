"""The life of a training job: it fetches data, runs its script and stores what that leaves."""

import contextlib
import math
import os
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import Any

from hpo_helpers.jobs.rehearsal.files import JobFailed, Store
from hpo_helpers.jobs.rehearsal.job import ENDED, Job, now
from hpo_helpers.jobs.rehearsal.log import JobLog
from hpo_helpers.jobs.rehearsal.requests import Fields, check_training
from hpo_helpers.jobs.rehearsal.script import Script, algorithm_error

#: What a process runs before it becomes the script: on Linux, that ends with the rehearsal however this ends.
END_TOO = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.execv(sys.argv[1], sys.argv[1:])
"""
A_DAY = 86400  #: how long a job may run that does not say
LOOK_SECONDS = 0.05  #: how often a job that prints nothing looks whether it is to end


class TrainingJob(Job):
    """One training job. Clients and switches are the rehearsal's."""

    kind = "TrainingJob"
    check = staticmethod(check_training)

    def __init__(self, request: Fields, arn: str, operations: Any) -> None:
        super().__init__(request, arn)
        self._rehearsal = rehearsal = operations.rehearsal
        self._store = Store(rehearsal.s3)
        metrics = request["AlgorithmSpecification"].get("MetricDefinitions", [])
        self.log = JobLog(rehearsal.logs, self.name, metrics)
        self._failure = rehearsal.failures.pop(0) if rehearsal.failures else None
        seconds = request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", A_DAY)
        self._deadline = time.monotonic() + seconds
        self._kill_at = math.inf
        self._is_asked_to_end = self._is_over_time = False
        self.move_to("Starting")

    def kill(self) -> None:
        self._kill_at = 0.0
        self.stop()

    def move_to(self, status: str, **fields: Any) -> None:
        """Begin the next step, a SecondaryStatus; what is being stopped says so to its end."""
        primary = "Stopped" if status == "MaxRuntimeExceeded" else status
        with self.lock:
            if self.stopping.is_set() and primary not in ENDED:
                return
            time, before = now(), self.fields.get("SecondaryStatusTransitions", [])
            steps = [{"EndTime": time, **step} for step in before]
            steps.append({"Status": status, "StartTime": time})
            primary = primary if primary in (*ENDED, "Stopping") else "InProgress"
            fields |= {"SecondaryStatus": status, "SecondaryStatusTransitions": steps}
            super().move_to(primary, **fields)

    def record(self) -> Fields:
        printed = list(self.log.values.items())
        last = [{"MetricName": name, "Value": values[-1]} for name, values in printed]
        return super().record() | ({"FinalMetricDataList": last} if last else {})

    def live(self) -> None:
        fields: Fields = {}
        try:
            with tempfile.TemporaryDirectory("", "rehearsal-", None, True) as folder:
                ending = self._run(Path(folder).resolve(), fields)
        except Exception as error:  # a job always ends, and says why
            is_known = isinstance(error, JobFailed)
            reason = str(error) if is_known else f"InternalServerError: {error!r}"
            ending, fields = "Failed", {"FailureReason": reason}
        if start := self.fields.get("TrainingStartTime"):
            end = now()
            seconds = math.ceil((end - start).total_seconds())
            fields |= dict.fromkeys(("TrainingTimeInSeconds", "BillableTimeInSeconds"), seconds)
            fields["TrainingEndTime"] = end
        self.move_to(ending, **fields)

    def _run(self, folder, fields):
        """Go through all steps but the last one; return that, and the fields that come with it."""
        if self.stopping.wait(self._rehearsal.start_seconds):
            return "Stopped"
        if self._failure is not None:
            raise JobFailed(self._failure)
        self.move_to("Downloading", TrainingStartTime=now())
        script = self._fetch(folder)
        self.log.open()
        process = _start(script)
        self.move_to("Training")
        exit_code = self._follow(process)
        self.move_to("Uploading")
        place = self.fields["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        place = f"{place}/{self.name}/output"
        if any((folder / "output/data").iterdir()):
            self._store.pack(folder / "output/data", f"{place}/output.tar.gz")
        if exit_code != 0 and not self.stopping.is_set():
            raise script.failure(exit_code, self.log.error())
        self._store.pack(folder / "model", f"{place}/model.tar.gz")
        fields["ModelArtifacts"] = {"S3ModelArtifacts": f"{place}/model.tar.gz"}
        if self._is_over_time:
            return "MaxRuntimeExceeded"
        return "Stopped" if self.stopping.is_set() else "Completed"

    def _fetch(self, folder):
        """Fetch everything that the script is to find."""
        for name in ("code", "model", "input/data", "output/data"):
            (folder / name).mkdir(parents=True)
        script = Script(self.fields, folder)
        try:
            for channel in self.fields.get("InputDataConfig", []):
                uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
                if not self._store.download(uri, folder / "input/data" / channel["ChannelName"]):
                    raise FileNotFoundError(f'No S3 objects found under S3 URL "{uri}".')
            self._store.unpack(script.code_uri, script.code)
        except Exception as error:  # no bucket, no object, no archive, a name that leads elsewhere
            raise JobFailed(f"ClientError: Data download failed: {error}") from error
        script.check()
        return script

    def _follow(self, process):
        """Pass on what the script prints until it has ended, and return its exit code."""
        try:
            with process.stdout:
                while (output := _read(process)) is not None:
                    self.log.write(output)
                    self._end_in_time(process)
            self.log.write(b"\n")  # the last line need not have an end
            return process.wait()
        finally:
            _kill(process)

    def _end_in_time(self, process):
        """Ask the script to end, or kill it, if it is time for that."""
        moment = time.monotonic()
        if moment > self._deadline and not self.stopping.is_set():
            self._is_over_time = True
            self.stop()
        if self.stopping.is_set() and not self._is_asked_to_end:
            self._is_asked_to_end = True
            self._kill_at = min(self._kill_at, moment + self._rehearsal.stop_seconds)
            process.terminate()
        if moment > self._kill_at:
            _kill(process)


def _start(script):
    command = [sys.executable, "-I", "-S", "-c", END_TOO, *script.command]
    options = {"cwd": script.code, "env": script.environment, "stdin": DEVNULL, "stderr": STDOUT}
    try:  # in a session of its own it is out of reach of the terminal's Ctrl-C
        return Popen(command, stdout=PIPE, start_new_session=True, **options)
    except (OSError, ValueError) as error:  # a name or value that no environment can hold
        raise algorithm_error(f"the script cannot be started: {error}") from error


def _kill(process):
    """Kill a script with what it has started, but for what has left its session."""
    with contextlib.suppress(OSError):  # nothing of it is left
        os.killpg(process.pid, signal.SIGKILL)


def _read(process):
    """Return what the script has printed, after a moment at most; None once it has ended."""
    has_ended = process.poll() is not None
    if select.select([process.stdout], [], [], LOOK_SECONDS)[0]:
        if output := os.read(process.stdout.fileno(), 16384):
            return output
    # What a script has started may hold the output open.
    return None if has_ended else b""
