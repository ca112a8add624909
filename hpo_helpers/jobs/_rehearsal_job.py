"""The life of one training job: a thread that fetches its data, runs its script and stores what it leaves."""

from __future__ import annotations

import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpo_helpers.jobs._rehearsal_files import (
    Checkpoints,
    DataError,
    download_prefix,
    unpack_code,
    upload_archive,
)
from hpo_helpers.jobs._rehearsal_log import JobLog
from hpo_helpers.jobs._rehearsal_script import (
    ScriptError,
    read_hyperparameters,
    redirect,
    resource_config,
    script_command,
    script_environment,
)
from hpo_helpers.jobs._rehearsal_tags import from_list

MONITOR = Path(__file__).with_name("_rehearsal_monitor.py")
CHECKPOINT_SECONDS = 1.0
LONGEST_REASON = 1024
READ_BYTES = 65536
ENDED = ("Completed", "Failed", "Stopped")
#: What the service says at each step of `SecondaryStatusTransitions`.
MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
}


class JobFailed(Exception):
    """The job has failed; the message is its FailureReason."""


class TrainingJob:
    """One training job: its record as the service shows it, and the thread that changes it.

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
        Called with the job once it has ended.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        arn: str,
        folder: Path,
        clients: Mapping[str, Any],
        switches: Any,
        failure: str | None,
        when_ended: Callable[[TrainingJob], None],
    ) -> None:
        self.name: str = request["TrainingJobName"]
        self.tags = from_list(request.get("Tags", []))
        self._request = request
        self._folder = folder
        self._clients = clients
        self._switches = switches
        self._failure = failure
        self._when_ended = when_ended
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._over_time = False
        self._monitor: subprocess.Popen[bytes] | None = None
        self._killer: threading.Timer | None = None
        self._log: JobLog | None = None
        now = _now()
        fields = {name: value for name, value in request.items() if name != "Tags"}
        self._record = {**fields, "TrainingJobArn": arn, "CreationTime": now, "SecondaryStatusTransitions": []}
        self._move_to("Starting")
        self._thread = threading.Thread(target=self._live, name=f"training job {self.name}", daemon=True)

    @property
    def status(self) -> str:
        """The job's TrainingJobStatus."""
        return self._record["TrainingJobStatus"]

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status in ENDED

    def record(self) -> dict[str, Any]:
        """Return what `DescribeTrainingJob` shows, now."""
        with self._lock:
            record = dict(self._record)
            record["SecondaryStatusTransitions"] = [dict(step) for step in record["SecondaryStatusTransitions"]]
            if self._log is not None:
                record["FinalMetricDataList"] = self._log.final_metrics()
        return record

    def values(self, metric: str) -> list[float]:
        """Return what the script has printed of a metric, oldest first."""
        return [] if self._log is None else self._log.values(metric)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the script to end, and kill it if it has not after the rehearsal's ``stop_seconds``."""
        with self._lock:
            if self.ended or self._stopping.is_set():
                return
            self._stopping.set()
            self._move_to("Stopping")
            self._end_script()

    def kill(self) -> None:
        """End the script and all that it started, at once, and wait for it."""
        with self._lock:
            self._stopping.set()
            self._close_lifeline()
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
        if not self._switches.keeps_folders:
            shutil.rmtree(self._folder, ignore_errors=True)
        with self._lock:
            if "TrainingStartTime" in self._record:
                self._bill()
            self._move_to(ending)
        self._when_ended(self)

    def _run_through(self) -> None:
        if self._stopping.wait(self._switches.start_seconds):
            return
        if self._failure is not None:
            raise JobFailed(self._failure)
        with self._lock:
            self._record["TrainingStartTime"] = _now()
        limit = threading.Timer(self._request["StoppingCondition"]["MaxRuntimeInSeconds"], self._exceed)
        limit.daemon = True
        limit.start()
        try:
            self._step_to("Downloading")
            self._prepare()
            self._train()
        finally:
            limit.cancel()
            if self._killer is not None:
                self._killer.cancel()

    def _prepare(self) -> None:
        """Lay out what is ``/opt/ml`` in a container."""
        for name in ("code", "model", "input/config", "input/data", "output/data"):
            (self._folder / name).mkdir(parents=True)
        self._hyperparameters = read_hyperparameters(self._request.get("HyperParameters", {}))
        channels = {channel["ChannelName"]: channel for channel in self._request.get("InputDataConfig", [])}
        for name, channel in channels.items():
            (self._folder / "input" / "data" / name).mkdir()
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            download_prefix(self._clients["s3"], uri, self._folder / "input" / "data" / name)
        unpack_code(
            self._clients["s3"], str(self._hyperparameters["sagemaker_submit_directory"]), self._folder / "code"
        )
        self._config = {
            "resource": resource_config(self._request["ResourceConfig"]["InstanceType"]),
            "input": {name: _channel_config(channel) for name, channel in channels.items()},
        }
        self._write_config()
        self._checkpoints = self._make_checkpoints()

    def _write_config(self) -> None:
        contents = {
            "hyperparameters": self._request.get("HyperParameters", {}),
            "resourceconfig": self._config["resource"],
            "inputdataconfig": self._config["input"],
        }
        for name, content in contents.items():
            path = self._folder / "input" / "config" / f"{name}.json"
            path.write_text(json.dumps(content), encoding="utf-8")

    def _make_checkpoints(self) -> Checkpoints | None:
        config = self._request.get("CheckpointConfig")
        if config is None:
            return None
        folder = Path(redirect(config.get("LocalPath", "/opt/ml/checkpoints"), self._folder))
        checkpoints = Checkpoints(self._clients["s3"], config["S3Uri"], folder)
        checkpoints.download()
        return checkpoints

    def _train(self) -> None:
        definitions = self._request["AlgorithmSpecification"].get("MetricDefinitions", [])
        self._log = JobLog(self._clients["logs"], self.name, definitions)
        command = self._start_script()
        if command is None:
            return
        self._follow()
        exit_code = self._monitor.wait()
        self._step_to("Uploading")
        self._upload(exit_code == 0 or self._stopping.is_set())
        if exit_code != 0 and not self._stopping.is_set():
            raise JobFailed(self._failure_reason(command, exit_code))

    def _start_script(self) -> list[str] | None:
        """Start the script and return its command, or None if the job was stopped before."""
        hyperparameters = {
            name: redirect(value, self._folder) for name, value in self._hyperparameters.items()
        }
        command = script_command(
            self._folder / "code", hyperparameters.get("sagemaker_program"), hyperparameters
        )
        job = {name: redirect(text, self._folder) for name, text in self._request.get("Environment", {}).items()}
        job |= self._platform_environment()
        environment = script_environment(self._folder, hyperparameters, self._config, job)
        with self._lock:
            if self._stopping.is_set():
                return None
            try:
                self._monitor = subprocess.Popen(
                    [sys.executable, "-E", str(MONITOR), *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=self._folder / "code",
                    env=environment,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:  # a name or value that no environment can hold
                raise ScriptError(f"the script cannot be started: {error}") from error
            self._move_to("Training")
        return command

    def _platform_environment(self) -> dict[str, str]:
        arn = self._record["TrainingJobArn"]
        region = arn.split(":")[3]
        return {
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "TRAINING_JOB_NAME": self.name,
            "TRAINING_JOB_ARN": arn,
        }

    def _follow(self) -> None:
        """Pass on what the script prints, until it has ended."""
        next_upload = time.monotonic() + CHECKPOINT_SECONDS
        while output := os.read(self._monitor.stdout.fileno(), READ_BYTES):
            self._log.write(output)
            if self._checkpoints and time.monotonic() > next_upload:
                self._checkpoints.upload()
                next_upload = time.monotonic() + CHECKPOINT_SECONDS
        self._log.close()
        self._monitor.stdout.close()

    def _upload(self, with_model: bool) -> None:
        s3, place = self._clients["s3"], self._request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        if self._checkpoints:
            self._checkpoints.upload()
        if any((self._folder / "output" / "data").iterdir()):
            upload_archive(s3, self._folder / "output" / "data", f"{place}/{self.name}/output/output.tar.gz")
        if with_model:
            uri = f"{place}/{self.name}/output/model.tar.gz"
            upload_archive(s3, self._folder / "model", uri)
            self._record["ModelArtifacts"] = {"S3ModelArtifacts": uri}

    def _failure_reason(self, command: list[str], exit_code: int) -> str:
        """Return what the script wrote about its failure, else what the toolkit writes."""
        written = self._folder / "output" / "failure"
        if written.is_file():
            text = written.read_text(encoding="utf-8", errors="replace")
        else:
            text = (
                f'ExecuteUserScriptError:\nExitCode {exit_code}\nErrorMessage "{self._log.error()}"\n'
                f'Command "{" ".join(command)}"'
            )
        return f"AlgorithmError: {text[:LONGEST_REASON - 40]}, exit code: 1"

    # Its end

    def _exceed(self) -> None:
        with self._lock:
            self._over_time = not self._stopping.is_set()
        self.stop()

    def _end_script(self) -> None:
        if self._monitor is None:
            return
        try:
            os.write(self._monitor.stdin.fileno(), b"s")
        except (BrokenPipeError, ValueError):  # it has just ended
            return
        self._killer = threading.Timer(self._switches.stop_seconds, self._close_lifeline)
        self._killer.daemon = True
        self._killer.start()

    def _close_lifeline(self) -> None:
        if self._monitor is not None:
            self._monitor.stdin.close()

    def _ending(self) -> str:
        if self._over_time:
            return "MaxRuntimeExceeded"
        return "Stopped" if self._stopping.is_set() else "Completed"

    def _fail(self, reason: str) -> str:
        self._record["FailureReason"] = reason[:LONGEST_REASON]
        return "Failed"

    def _bill(self) -> None:
        end = _now()
        seconds = math.ceil((end - self._record["TrainingStartTime"]).total_seconds())
        self._record |= {
            "TrainingEndTime": end,
            "TrainingTimeInSeconds": seconds,
            "BillableTimeInSeconds": seconds,
        }

    def _step_to(self, secondary: str) -> None:
        with self._lock:
            if not self._stopping.is_set():  # what is being stopped says so to its end
                self._move_to(secondary)

    def _move_to(self, secondary: str) -> None:
        now = _now()
        step = {"Status": secondary, "StartTime": now, "StatusMessage": MESSAGES[secondary]}
        transitions = self._record["SecondaryStatusTransitions"]
        if transitions:
            transitions[-1]["EndTime"] = now
        status = {"MaxRuntimeExceeded": "Stopped", "Stopping": "Stopping"}.get(secondary, secondary)
        primary = status if status in (*ENDED, "Stopping") else "InProgress"
        if primary in ENDED:
            step["EndTime"] = now
            self._close_lifeline()
        transitions.append(step)
        self._record |= {
            "SecondaryStatus": secondary,
            "TrainingJobStatus": primary,
            "LastModifiedTime": now,
        }


def _channel_config(channel: Mapping[str, Any]) -> dict[str, str]:
    source = channel["DataSource"]["S3DataSource"]
    config = {
        "TrainingInputMode": "File",
        "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": "None",
    }
    return config | ({"ContentType": channel["ContentType"]} if "ContentType" in channel else {})


def _reason(error: Exception) -> str:
    if isinstance(error, DataError):
        return f"ClientError: Data download failed: {error}"
    return f"AlgorithmError: {error}, exit code: 1" if isinstance(error, ScriptError) else str(error)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
