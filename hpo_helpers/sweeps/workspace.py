"""A sweep job for Azure: its YAML, what travels with it, and the workspace that runs it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml

from hpo_helpers.sweeps.settings import Sweep, check_sweep

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Job
    from azure.ai.ml.sweep import SweepJob

PACKAGE = Path(__file__).parents[1]

#: What a trial imports on Azure: MXNet for the training, MLflow with Azure's plug-in for the log.
CONDA = """\
name: mnist
dependencies:
  - python=3.11
  - pip
  - pip:
      - mxnet==1.9.1
      - numpy==1.26.4
      - azureml-mlflow
"""

#: Statuses after which nothing happens any more, as azure-ai-ml lists them.
ENDED = ("Completed", "Failed", "Canceled", "NotResponding")


def write_sweep(sweep: Sweep, path: str | os.PathLike[str]) -> None:
    """Write a sweep job's YAML; ValueError as `check_sweep` raises it."""
    check_sweep(sweep)
    Path(path).write_text(yaml.safe_dump(dict(sweep), sort_keys=False, width=88), encoding="utf-8")


def read_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Read a sweep job's YAML, whoever wrote it; ValueError as `check_sweep` raises it."""
    sweep = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    check_sweep(sweep)
    return sweep


def write_code(folder: str | os.PathLike[str]) -> list[str]:
    """Put what a trial on MNIST needs into a folder, and return the files' names.

    ``train_mnist.py`` as it is, ``mxnet_compat.py`` beside it, ``log_metrics.py``, which runs it and logs a metric
    once an epoch, ``mnist.npz`` with 5,000 images, and ``conda.yml`` for the environment.
    """
    from hpo_helpers.datasets import load_mnist, save_npz

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train_mnist.py", "mxnet_compat.py"):
        shutil.copy(PACKAGE / name, folder / name)
    shutil.copy(PACKAGE / "sweeps" / "log_metrics.py", folder / "log_metrics.py")
    save_npz(folder / "mnist.npz", load_mnist())
    (folder / "conda.yml").write_text(CONDA, encoding="utf-8")
    return sorted(path.name for path in folder.iterdir())


def to_job(sweep: Sweep, folder: str | os.PathLike[str] = ".") -> SweepJob:
    """Make `azure-ai-ml`'s job of a sweep, which is its offline validation too.

    Parameters
    ----------
    sweep
        A sweep job.
    folder
        Where the job's relative paths begin.

    Raises
    ------
    ValueError
        As `check_sweep` does.
    marshmallow.exceptions.ValidationError
        On what `azure-ai-ml` finds wrong: an unknown key, a wrong type, a file that is not there.
    """
    from azure.ai.ml import load_job

    check_sweep(sweep)
    text = io.StringIO(yaml.safe_dump(dict(sweep), sort_keys=False))
    return load_job(text, relative_origin=str(Path(folder, "sweep.yml").resolve()))


def connect(path: str | os.PathLike[str] = ".") -> MLClient | None:
    """Return a client of the workspace that ``config.json`` names, or None where there is no such file.

    The file is the one that Azure's studio offers for download; it is looked for in `path` and the folders above.
    Nothing is sent before the client is used, and no telemetry ever: in a notebook the client would otherwise report
    each call to Microsoft.
    """
    from azure.ai.ml import MLClient
    from azure.ai.ml.exceptions import ValidationException
    from azure.identity import DefaultAzureCredential

    settings = {"enable_telemetry": False, "show_progress": False}
    try:
        return MLClient.from_config(DefaultAzureCredential(), path=path, **settings)
    except ValidationException:
        return None


def submit(sweep: Sweep, client: MLClient, folder: str | os.PathLike[str] = ".") -> SubmittedSweep:
    """Upload a sweep's code and start it; Ctrl-C while it starts cancels it.

    With the job go the address, branch and commit of the Git repository in which this is called, if there is one.

    Raises
    ------
    ValueError
        As `check_sweep` does.
    azure.core.exceptions.HttpResponseError
        If the workspace refuses.
    """
    job = to_job(sweep, folder)
    # A name of our own: without one there would be nothing to cancel until the service has answered.
    job.name = job.name or f"sweep-{uuid.uuid4().hex[:12]}"
    submitted = SubmittedSweep(client, job.name)
    try:
        client.jobs.create_or_update(job)
    except KeyboardInterrupt:
        from azure.core.exceptions import HttpResponseError

        with contextlib.suppress(HttpResponseError):  # it may not have come so far
            submitted.cancel()
        raise
    return submitted


class SubmittedSweep:
    """A sweep in a workspace.

    Parameters
    ----------
    client
        Of the workspace.
    name
        The sweep's, as `submit` gave it or the studio shows it.
    """

    def __init__(self, client: MLClient, name: str) -> None:
        self.name = name
        self._client = client

    @property
    def status(self) -> str:
        """Where the sweep stands, in Azure's words."""
        status = self._client.jobs.get(self.name).status
        return getattr(status, "value", status)  # an enumeration, where azure-ai-ml knows the word

    def wait(self, seconds: float = 30.0) -> str:
        """Ask every so many seconds until the sweep has ended, and return its status; Ctrl-C cancels it."""
        try:
            while (status := self.status) not in ENDED:
                time.sleep(seconds)
        except KeyboardInterrupt:
            self.cancel()
            raise
        return status

    def children(self) -> pd.DataFrame:
        """Return the sweep's trials: ``child`` (its name) and ``status``."""
        jobs = self._client.jobs.list(parent_job_name=self.name)
        return pd.DataFrame([{"child": job.name, "status": job.status} for job in jobs], columns=["child", "status"])

    def best(self) -> Job:
        """Return the best trial so far; ``client.jobs.download(name, all=True)`` fetches its files.

        Raises
        ------
        LookupError
            If the workspace names none, because none has logged the metric.
        """
        properties = self._client.jobs.get(self.name).properties
        if "best_child_run_id" not in properties:
            raise LookupError(f"{self.name} has no best trial yet: none has logged the primary metric")
        return self._client.jobs.get(properties["best_child_run_id"])

    def cancel(self) -> None:
        """Cancel the sweep with all its trials, and wait until Azure has taken note."""
        self._client.jobs.begin_cancel(self.name).result()
