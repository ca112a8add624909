"""A job's folder, which is ``/opt/ml`` in a container: what lies in it at first, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo_helpers.jobs.rehearsal.files import (
    Checkpoints,
    download_prefix,
    unpack_code,
    upload_archive,
)
from hpo_helpers.jobs.rehearsal.script import (
    read_hyperparameters,
    redirect,
    resource_config,
    script_command,
    script_environment,
)

FOLDERS = ("code", "model", "input/config", "input/data", "output/data")


class Workspace:
    """The folder of one job.

    Parameters
    ----------
    folder
        Where it is to be made.
    request
        What `CreateTrainingJob` was asked.
    s3
        A client of S3.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any], s3: Any) -> None:
        self.code = folder / "code"
        self.checkpoints: Checkpoints | None = None
        self._folder = folder
        self._request = request
        self._s3 = s3
        self._channels = {channel["ChannelName"]: channel for channel in request.get("InputDataConfig", [])}
        self._hyperparameters = read_hyperparameters(request.get("HyperParameters", {}))
        self._config = {
            "resource": resource_config(request["ResourceConfig"]["InstanceType"]),
            "input": {name: _channel_config(channel) for name, channel in self._channels.items()},
        }

    def prepare(self) -> None:
        """Make the folder and fetch everything that the script is to find."""
        for name in FOLDERS:
            (self._folder / name).mkdir(parents=True)
        self._write_config()
        for name, channel in self._channels.items():
            folder = self._folder / "input" / "data" / name
            folder.mkdir()
            download_prefix(self._s3, channel["DataSource"]["S3DataSource"]["S3Uri"], folder)
        unpack_code(self._s3, str(self._hyperparameters["sagemaker_submit_directory"]), self.code)
        if "CheckpointConfig" in self._request:
            self.checkpoints = self._make_checkpoints(self._request["CheckpointConfig"])

    def script(self, platform: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return the script's argument vector and environment, `platform` being what the service sets."""
        hyperparameters = {
            name: redirect(value, self._folder) for name, value in self._hyperparameters.items()
        }
        command = script_command(self.code, hyperparameters.get("sagemaker_program"), hyperparameters)
        asked = {
            name: redirect(text, self._folder) for name, text in self._request.get("Environment", {}).items()
        }
        return command, script_environment(self._folder, hyperparameters, self._config, {**asked, **platform})

    def failure(self) -> str | None:
        """Return what the script wrote into ``output/failure``, or None."""
        written = self._folder / "output" / "failure"
        return written.read_text(encoding="utf-8", errors="replace") if written.is_file() else None

    def upload_output(self) -> None:
        """Store checkpoints, and what the script wrote besides its model."""
        if self.checkpoints:
            self.checkpoints.upload()
        if any((self._folder / "output" / "data").iterdir()):
            upload_archive(self._s3, self._folder / "output" / "data", self._output_uri("output.tar.gz"))

    def upload_model(self) -> str:
        """Store the model and return its URI."""
        upload_archive(self._s3, self._folder / "model", self._output_uri("model.tar.gz"))
        return self._output_uri("model.tar.gz")

    def _output_uri(self, name: str) -> str:
        place = self._request["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        return f"{place}/{self._request['TrainingJobName']}/output/{name}"

    def _write_config(self) -> None:
        contents = {
            "hyperparameters": self._request.get("HyperParameters", {}),
            "resourceconfig": self._config["resource"],
            "inputdataconfig": self._config["input"],
        }
        for name, content in contents.items():
            path = self._folder / "input" / "config" / f"{name}.json"
            path.write_text(json.dumps(content), encoding="utf-8")

    def _make_checkpoints(self, config: Mapping[str, str]) -> Checkpoints:
        folder = redirect(config.get("LocalPath", "/opt/ml/checkpoints"), self._folder)
        checkpoints = Checkpoints(self._s3, config["S3Uri"], Path(folder))
        checkpoints.download()
        return checkpoints


def _channel_config(channel: Mapping[str, Any]) -> dict[str, str]:
    source = channel["DataSource"]["S3DataSource"]
    config = {
        "TrainingInputMode": "File",
        "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": "None",
    }
    return config | ({"ContentType": channel["ContentType"]} if "ContentType" in channel else {})
