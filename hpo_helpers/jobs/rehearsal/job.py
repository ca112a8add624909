"""The life of one training job: a thread that fetches its data, runs its script and stores what it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpo_helpers.jobs.rehearsal.files import DataError
from hpo_helpers.jobs.rehearsal.log import JobLog
from hpo_helpers.jobs.rehearsal.record import ENDED, Record, now
from hpo_helpers.jobs.rehearsal.script import ScriptError
from hpo_helpers.jobs.rehearsal.tags import from_list
from hpo_helpers.jobs.rehearsal.workspace import Workspace

MONITOR = Path(__file__).with_name("monitor.py")
CHECKPOINT_SECONDS = 0.5
LONGEST_REASON = 1024
READ_BYTES = 65536


class JobFailed(Exception):
    """The job has failed; the message is its FailureReason."""


class TrainingJob:
    """One training job, and the thread that it lives in.

    Parameters
    ----------
    request
        What `CreateTrainingJob` was asked.
    arn
        The job's name among all of AWS.
    folder
        Its own folder, not made yet.
    clients
        ``"s3"`` and ``"logs"``, clients of the rehearsal itself.
    switches
        The rehearsal: ``start_seconds``, ``stop_seconds`` and ``keeps_folders`` are read from it.
    failure
        The FailureReason of a job that is to fail without running, or None.
    when_ended
        Called once the job has ended.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        arn: str,
        folder: Path,
        clients: Mapping[str, Any],
        switches: Any,
        failure: str | None,
        when_ended: Callable[[], None],
    ) -> None:
        self.name: str = request["TrainingJobName"]
        self.tags = from_list(request.get("Tags", []))
        self._arn = arn
        self._folder = folder
        self._switches = switches
        self._failure = failure
        self._when_ended = when_ended
        self._limit = request["StoppingCondition"]["MaxRuntimeInSeconds"]
        self._workspace = Workspace(folder, request, clients["s3"])
        self._log = JobLog(
            clients["logs"], self.name, request["AlgorithmSpecification"].get("MetricDefinitions", [])
        )
        fields = {name: value for name, value in request.items() if name != "Tags"}
        self._record = Record({**fields, "TrainingJobArn": arn})
        self._lock = threading.RLock()  # of the three below
        self._stopping = threading.Event()
        self._over_time = False
        self._monitor: subprocess.Popen[bytes] | None = None
        self._timers: list[threading.Timer] = []
        self._thread = threading.Thread(target=self._live, name=f"training job {self.name}", daemon=True)

    @property
    def status(self) -> str:
        """The job's TrainingJobStatus."""
        return self._record.status

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in ENDED

    def record(self) -> dict[str, Any]:
        """Return what `DescribeTrainingJob` shows, now."""
        metrics = self._log.final_metrics()
        return self._record.snapshot() | ({"FinalMetricDataList": metrics} if metrics else {})

    def values(self, metric: str) -> list[float]:
        """Return what the script has printed of a metric, oldest first."""
        return self._log.values(metric)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the script to end, and kill it if it has not after the rehearsal's ``stop_seconds``."""
        with self._lock:
            if self.ended or self._stopping.is_set():
                return
            self._stopping.set()
            self._record.move_to("Stopping")
            if self._monitor is not None:
                self._ask_script_to_end()

    def kill(self) -> None:
        """End the script and all that it started, at once."""
        with self._lock:
            self._stopping.set()
            self._close_lifeline()

    def join(self) -> None:
        """Return once it has ended."""
        self._thread.join()

    # The thread

    def _live(self) -> None:
        try:
            self._run_through()
            ending = self._ending()
        except (JobFailed, DataError, ScriptError) as error:
            ending = self._fail(_reason(error))
        except Exception as error:  # a job always ends, and says why
            ending = self._fail(f"InternalServerError: {type(error).__name__}: {error}")
        finally:
            self._clean_up()
        self._record.end(ending)
        self._when_ended()

    def _run_through(self) -> None:
        if self._stopping.wait(self._switches.start_seconds):
            return
        if self._failure is not None:
            raise JobFailed(self._failure)
        self._record.set(TrainingStartTime=now())
        self._after(self._limit, self._exceed)
        self._step_to("Downloading")
        self._workspace.prepare()
        if self._start_script():
            self._follow()
            self._finish(self._monitor.wait())

    def _start_script(self) -> bool:
        """Start the script, unless the job was stopped before."""
        region = self._arn.split(":")[3]
        platform = {
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "TRAINING_JOB_NAME": self.name,
            "TRAINING_JOB_ARN": self._arn,
        }
        self._command, environment = self._workspace.script(platform)
        self._log.open()
        with self._lock:
            if self._stopping.is_set():
                return False
            self._monitor = _start_monitor(self._command, environment, self._workspace.code)
            self._record.move_to("Training")
        return True

    def _follow(self) -> None:
        """Pass on what the script prints, until it has ended."""
        checkpoints, next_upload = self._workspace.checkpoints, time.monotonic() + CHECKPOINT_SECONDS
        while output := os.read(self._monitor.stdout.fileno(), READ_BYTES):
            self._log.write(output)
            if checkpoints and time.monotonic() > next_upload:
                checkpoints.upload_settled()
                next_upload = time.monotonic() + CHECKPOINT_SECONDS
        self._log.close()
        self._monitor.stdout.close()

    def _finish(self, exit_code: int) -> None:
        failed = exit_code != 0 and not self._stopping.is_set()
        self._step_to("Uploading")
        self._workspace.upload_output()
        if failed:
            raise JobFailed(self._failure_reason(exit_code))
        self._record.set(ModelArtifacts={"S3ModelArtifacts": self._workspace.upload_model()})

    def _failure_reason(self, exit_code: int) -> str:
        """Return what the script wrote about its failure, else what the toolkit writes."""
        text = self._workspace.failure()
        if text is None:
            text = (
                f'ExecuteUserScriptError:\nExitCode {exit_code}\nErrorMessage "{self._log.error()}"\n'
                f'Command "{" ".join(self._command)}"'
            )
        return f"AlgorithmError: {text[: LONGEST_REASON - 40]}, exit code: 1"

    # Its end

    def _exceed(self) -> None:
        with self._lock:
            self._over_time = not self._stopping.is_set()
        self.stop()

    def _ask_script_to_end(self) -> None:
        try:
            os.write(self._monitor.stdin.fileno(), b"s")
        except (BrokenPipeError, ValueError):  # it has just ended
            return
        self._after(self._switches.stop_seconds, self._close_lifeline)

    def _close_lifeline(self) -> None:
        if self._monitor is not None:
            self._monitor.stdin.close()

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), act)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _clean_up(self) -> None:
        for timer in self._timers:
            timer.cancel()
        with self._lock:
            self._close_lifeline()
        if not self._switches.keeps_folders:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ending(self) -> str:
        if self._over_time:
            return "MaxRuntimeExceeded"
        return "Stopped" if self._stopping.is_set() else "Completed"

    def _fail(self, reason: str) -> str:
        self._record.set(FailureReason=reason[:LONGEST_REASON])
        return "Failed"

    def _step_to(self, secondary: str) -> None:
        with self._lock:
            if not self._stopping.is_set():  # what is being stopped says so to its end
                self._record.move_to(secondary)


def _start_monitor(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-E", str(MONITOR), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
        )
    except (OSError, ValueError) as error:  # a name or value that no environment can hold
        raise ScriptError(f"the script cannot be started: {error}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, DataError):
        return f"ClientError: Data download failed: {error}"
    return f"AlgorithmError: {error}, exit code: 1" if isinstance(error, ScriptError) else str(error)
