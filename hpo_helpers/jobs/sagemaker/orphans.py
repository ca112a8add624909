"""Jobs that a killed program left running, and how the next one stops them."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

import psutil

from hpo_helpers.jobs.sagemaker.setup import SageMakerError, explained
from hpo_helpers.jobs.sagemaker.watch import search

NAME, OWNER, PROCESS = "hpo-helpers:name", "hpo-helpers:owner", "hpo-helpers:process"


def tags_of_this_process(name: str) -> list[dict[str, str]]:
    """Return the tags that every job of a launcher carries.

    The owner is a random word in the user's cache folder: who shares an account with
    others, as a class does, never stops their jobs.
    """
    process = f"{os.getpid()} {psutil.Process().create_time():.0f}"
    tags = {NAME: name, OWNER: _owner(), PROCESS: process}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


@explained()
def stop_orphans(sagemaker: Any, name: str) -> list[str]:
    """Stop the owner's jobs of that name whose process is gone; name them."""
    tags = {f"Tags.{NAME}": name, f"Tags.{OWNER}": _owner()}
    jobs = search(sagemaker, "Equals", TrainingJobStatus="InProgress", **tags)
    names = sorted(job["TrainingJobName"] for job in jobs if not _is_alive(job))
    for job_name in names:
        stop_job(sagemaker, job_name)
    return names


@explained()
def stop_job(sagemaker: Any, job_name: str) -> None:
    """Stop a training job, if it runs."""
    try:
        sagemaker.stop_training_job(TrainingJobName=job_name)
    except sagemaker.exceptions.ClientError as error:
        if "(ValidationException)" not in str(error):  # not known, or ended
            raise


def stop_all(sagemaker: Any, names: set[str]) -> None:
    """Stop these jobs and forget their names; SageMakerError if one cannot be."""
    failure = None
    for name in sorted(names):
        try:
            stop_job(sagemaker, name)
            names.discard(name)
        except KeyboardInterrupt:  # a second Ctrl-C
            stop_all(sagemaker, names)
            raise
        except SageMakerError as error:
            failure = error
    if failure:
        left = f"could not stop {', '.join(sorted(names))}, max_run will end them"
        raise SageMakerError(f"{left}: {failure}") from failure


def _is_alive(job):
    tags = {tag["Key"]: tag["Value"] for tag in job["Tags"]}
    pid, started = tags[PROCESS].split()
    try:
        process = psutil.Process(int(pid))
        # A later process may have that number; the clock may have been set since.
        return abs(process.create_time() - float(started)) <= 2
    except psutil.NoSuchProcess:
        return False


def _owner():
    from platformdirs import user_cache_dir

    cache = os.environ.get("HPO_HELPERS_CACHE") or user_cache_dir("hpo_helpers")
    path = Path(cache).expanduser() / "sagemaker-owner"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), open(path, "x") as file:
        file.write(secrets.token_hex(8))
    return path.read_text()
