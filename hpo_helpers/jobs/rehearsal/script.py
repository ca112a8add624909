"""Script mode: the command and the environment in which a job's script runs.

Both are what ``sagemaker-training`` 5.1.4, the toolkit inside Amazon's images, gives a script, but
for what describes a cluster of machines. The folder ``/opt/ml`` is another one here.
"""

import contextlib
import json
import os
import re
import sys
from pathlib import Path

from hpo_helpers.jobs.rehearsal.files import JobFailed
from hpo_helpers.jobs.rehearsal.requests import Fields

#: As Amazon's images set them, and one thread each, since jobs share this machine.
IMAGE_ENVIRONMENT = {
    **dict.fromkeys(("LANG", "LC_ALL"), "C.UTF-8"),
    **dict.fromkeys(("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"), "1"),
    "PYTHONIOENCODING": "UTF-8",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


class Script:
    """The script of a training job, whose ``/opt/ml`` is `folder`."""

    def __init__(self, job: Fields, folder: Path) -> None:
        self._job = job
        self._folder = folder
        self.code = folder / "code"
        texts = sorted(job["HyperParameters"].items())
        given = {name: _decoded(text, folder) for name, text in texts}
        self.code_uri = str(given["sagemaker_submit_directory"])
        self._program = str(given["sagemaker_program"])
        toolkits = ("sagemaker_", "_tuning_")
        self._own = {name: given[name] for name in given if not name.startswith(toolkits)}
        self.command = [sys.executable, "--", self._program]
        for name, value in self._own.items():
            self.command += [f"--{name}" if len(name) > 1 else f"-{name}", _argument(value)]

    @property
    def environment(self) -> dict[str, str]:
        """All variables that it finds. A request cannot replace the toolkit's."""
        arn = self._job["TrainingJobArn"]
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            **IMAGE_ENVIRONMENT,
            **self._job.get("Environment", {}),
            **dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), arn.split(":")[3]),
            "TRAINING_JOB_NAME": self._job["TrainingJobName"],
            "TRAINING_JOB_ARN": arn,
            "PYTHONPATH": str(self.code),
            **{f"SM_{name.upper()}": _text(value) for name, value in self._settings().items()},
        }

    def check(self) -> None:
        """Raise JobFailed if it is not there, or needs an installation."""
        found = sorted(os.listdir(self.code))
        if not (self.code / self._program).is_file():
            raise algorithm_error(f"The source directory has {found}, but no {self._program!r}.")
        if unwanted := {"requirements.txt", "setup.py"} & set(found):
            raise algorithm_error(f"the rehearsal installs nothing, and there is {unwanted}.")

    def failure(self, exit_code: int, quoted: str) -> JobFailed:
        """Return what the script wrote about its failure, else what the toolkit writes."""
        written = self._folder / "output" / "failure"
        if written.is_file():
            return algorithm_error(written.read_text(encoding="utf-8", errors="replace"))
        return algorithm_error(
            f'ExecuteUserScriptError:\nExitCode {exit_code}\nErrorMessage "{quoted}"\n'
            f'Command "{" ".join(self.command)}"'
        )

    def _settings(self):
        channels = [channel["ChannelName"] for channel in self._job.get("InputDataConfig", [])]
        data = self._folder / "input" / "data"
        return {
            "channels": sorted(channels),
            **{"current_host": "algo-1", "hosts": ["algo-1"]},
            "hps": self._own,
            "model_dir": str(self._folder / "model"),
            **{"num_cpus": os.cpu_count(), "num_gpus": 0},
            "output_data_dir": str(self._folder / "output" / "data"),
            "output_dir": str(self._folder / "output"),
            **{f"channel_{name}": str(data / name) for name in channels},
            **{f"hp_{name}": value for name, value in self._own.items()},
        }


def algorithm_error(text: str) -> JobFailed:
    """Return the failure of a job whose script is to blame."""
    return JobFailed(f"AlgorithmError: {text[:980]}, exit code: 1")


def _argument(value):
    if isinstance(value, dict):
        return ",".join(f"{name}={value[name]}" for name in sorted(value))
    return "" if value is None else str(value)


def _text(value):
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _decoded(text, folder):
    """Return a hyperparameter as its JSON says, a path in ``/opt/ml`` as one in `folder`."""
    with contextlib.suppress(ValueError):
        text = json.loads(text)
    if isinstance(text, str) and re.match("/opt/ml(/|$)", text):
        return f"{folder}{text.removeprefix('/opt/ml')}"
    return text
