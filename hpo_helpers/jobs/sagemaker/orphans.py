"""Whose a job is; those that a killed program left running, and how the next one stops them."""

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Any

import psutil

from hpo_helpers.jobs.sagemaker.setup import SageMakerError, explained
from hpo_helpers.jobs.sagemaker.watch import search

NAME, OWNER = "hpo-helpers:name", "hpo-helpers:owner"
RUN, PROCESS = "hpo-helpers:run", "hpo-helpers:process"


def owner() -> str:
    """Return the random word, kept in the cache folder, by which this user's jobs are known.

    Who shares an account with others, as a class does, never stops or deletes theirs.
    """
    from platformdirs import user_cache_dir

    cache = os.environ.get("HPO_HELPERS_CACHE") or user_cache_dir("hpo_helpers")
    path = Path(cache).expanduser() / "sagemaker-owner"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), open(path, "x") as file:
        file.write(secrets.token_hex(8))
    return path.read_text()


def tags_of(name: str, run: str) -> list[dict[str, str]]:
    """Return the tags that every job of a run carries; a tuning job hands them on to its jobs."""
    process = f"{os.getpid()} {psutil.Process().create_time():.0f}"
    tags = {NAME: name, OWNER: owner(), RUN: run, PROCESS: process}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def read_tags(job: dict[str, Any]) -> dict[str, str]:
    """Return the tags of a job that Search has found."""
    return {tag["Key"]: tag["Value"] for tag in job["Tags"]}


@explained()
def stop_orphans(sagemaker: Any, name: str) -> list[str]:
    """Stop the owner's jobs of that name whose process is gone; name them."""
    tags = {f"Tags.{NAME}": name, f"Tags.{OWNER}": owner()}
    jobs = search(sagemaker, "Equals", TrainingJobStatus="InProgress", **tags)
    jobs = [job for job in jobs if "TuningJobArn" not in job]  # a tuner needs no process
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
        if not re.search(r"\((ValidationException|ResourceNotFound)\)", str(error)):  # not known, or ended
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
    pid, started = read_tags(job)[PROCESS].split()
    try:
        process = psutil.Process(int(pid))
        # A later process may have that number; the clock may have been set since.
        return abs(process.create_time() - float(started)) <= 2
    except psutil.NoSuchProcess:
        return False
