"""Jobs that a program left running when it was killed: how the next one knows them, and stops them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any

import psutil

from hpo_helpers.jobs.sagemaker.errors import NOT_FOUND, SageMakerError, code_of, explained

NAME_TAG, OWNER_TAG, PROCESS_TAG = "hpo-helpers:name", "hpo-helpers:owner", "hpo-helpers:process"


def tags_of_this_process(name: str) -> dict[str, str]:
    """Return the tags that every job of a launcher carries.

    The owner is a random word that is kept in the user's cache folder: who shares an AWS account with others, as a
    class does, never stops their jobs.
    """
    process = f"{_host()} {os.getpid()} {psutil.Process().create_time():.0f}"
    return {NAME_TAG: name, OWNER_TAG: _owner(), PROCESS_TAG: process}


def stop_orphans(sagemaker: Any, name: str) -> list[str]:
    """Stop the owner's jobs of that name whose process has ended, or ran on another machine; return their names."""
    with explained():
        orphans = [job for job in _running_jobs(sagemaker, name) if _is_orphan(_tags(sagemaker, job), name)]
        names = sorted(job["TrainingJobName"] for job in orphans)
        return [name for name in names if stop_job(sagemaker, name)]


def stop_job(sagemaker: Any, job_name: str) -> bool:
    """Stop a training job; return False if there is none that runs."""
    try:
        sagemaker.stop_training_job(TrainingJobName=job_name)
    except sagemaker.exceptions.ClientError as error:
        # This is also how SageMaker answers for a job that it does not know, or that has ended.
        if code_of(error) == "ValidationException" or code_of(error) in NOT_FOUND:
            return False
        raise
    return True


def stop_all(sagemaker: Any, names: set[str], pid: int) -> None:
    """Stop every job of `names`, and take each out that needs no stopping any more.

    Parameters
    ----------
    pid
        The process whose jobs they are; in a fork of it nothing is stopped.

    Raises
    ------
    SageMakerError
        If some could not be stopped.
    """
    if os.getpid() != pid:
        return
    failure, interruption = None, None
    for name in sorted(names):
        while name in names:
            try:
                with explained():
                    stop_job(sagemaker, name)
                names.discard(name)
            except KeyboardInterrupt as error:  # an impatient second Ctrl-C must not leave jobs behind
                interruption = error
            except Exception as error:
                failure = error
                break
        if failure is not None and not isinstance(failure, SageMakerError):
            break  # there is no network: the others would take as long to fail
    if failure is not None:
        left = ", ".join(sorted(names))
        raise SageMakerError(
            f"these jobs could not be stopped, max_run will end them: {left} ({failure})"
        ) from failure
    if interruption is not None:
        raise interruption


def _running_jobs(sagemaker: Any, name: str) -> list[dict[str, Any]]:
    pages = sagemaker.get_paginator("list_training_jobs").paginate(
        StatusEquals="InProgress", NameContains=name
    )
    jobs = [job for page in pages for job in page["TrainingJobSummaries"]]
    return [job for job in jobs if job["TrainingJobName"].startswith(f"{name}-")]


def _tags(sagemaker: Any, job: dict[str, Any]) -> dict[str, str]:
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=job["TrainingJobArn"])
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def _is_orphan(tags: dict[str, str], name: str) -> bool:
    if tags.get(NAME_TAG) != name or tags.get(OWNER_TAG) != _owner():
        return False
    host, pid, started = tags[PROCESS_TAG].rsplit(" ", 2)
    return host != _host() or not _is_alive(int(pid), float(started))


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        # The start tells a process from a later one of the same number; the wall clock may have been set since.
        return abs(process.create_time() - started) <= 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _host() -> str:
    return re.sub(r"[^\w.-]", "-", socket.gethostname(), flags=re.ASCII)[:100]


def _owner() -> str:
    from platformdirs import user_cache_dir

    folder = Path(os.environ.get("HPO_HELPERS_CACHE") or user_cache_dir("hpo_helpers")).expanduser()
    path = folder / "sagemaker-owner"
    with contextlib.suppress(OSError):  # it exists already, or the folder cannot be written
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="ascii") as file:
            file.write(secrets.token_hex(8))
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii").strip() or _UNKEPT_OWNER
    return _UNKEPT_OWNER


_UNKEPT_OWNER = secrets.token_hex(8)  # where nothing can be kept, this process knows its own jobs alone
