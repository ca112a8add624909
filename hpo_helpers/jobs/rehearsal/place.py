"""Where boto3 leads to: AWS, or a rehearsal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hpo_helpers.jobs.rehearsal.service import KEY_PREFIX, ROLE, Rehearsal

REHEARSAL_LINE = "rehearsal on this machine: nothing is billed"


class Place:
    """Where boto3 leads: to AWS, or to a rehearsal. Printed, it is one line without any credentials.

    Attributes
    ----------
    is_rehearsal
        Whether it is a rehearsal.
    rehearsal
        The rehearsal that `connect` has started, else None.
    role
        The ARN of a role for the jobs of a rehearsal; None on AWS, where the reader names one.
    """

    def __init__(self, description: str, is_rehearsal: bool, rehearsal: Rehearsal | None = None) -> None:
        self.is_rehearsal = is_rehearsal
        self.rehearsal = rehearsal
        self.role = ROLE if is_rehearsal else None
        self._description = description
        self._replaced: dict[str, str | None] = {}
        if rehearsal is not None:
            self._lead(rehearsal.environment)

    def close(self) -> None:
        """End the rehearsal that `connect` has started, and let boto3 find what it found before."""
        if self.rehearsal is None:
            return
        self.rehearsal.close()
        for name, text in self._replaced.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
        self._replaced.clear()
        _forget_credentials()

    def __str__(self) -> str:
        return self._description

    __repr__ = __str__

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lead(self, environment: Mapping[str, str]) -> None:
        self._replaced = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        _forget_credentials()


def connect() -> Place:
    """Use AWS if boto3 finds credentials, else start a rehearsal and lead boto3 to it.

    The variables of a rehearsal are set in `os.environ`, until the returned object is closed. Called again,
    it returns what it returned before.

    Raises
    ------
    RuntimeError
        If there are credentials, but no region, or AWS does not accept them.
    """
    place = _connected.get("place")
    if place is not None and place.rehearsal is Rehearsal._running is not None:
        return place
    if os.environ.get("AWS_ACCESS_KEY_ID", "").startswith(KEY_PREFIX):  # of the process that started this one
        return Place(REHEARSAL_LINE, is_rehearsal=True)
    session = _aws_session()
    if session is not None:
        return Place(_describe_aws(session), is_rehearsal=False)
    _connected["place"] = Place(REHEARSAL_LINE, is_rehearsal=True, rehearsal=Rehearsal())
    return _connected["place"]


_connected: dict[str, Place] = {}


def _aws_session() -> Any:
    """Return a session with credentials, or None.

    botocore asks the metadata service, which machines of AWS have, last of all: once or twice, a second each.
    """
    import boto3

    session = boto3.Session()
    return session if session.get_credentials() else None


def _describe_aws(session: Any) -> str:
    import botocore.config
    import botocore.exceptions

    if session.region_name is None:
        raise RuntimeError(
            "boto3 found credentials but no region: set AWS_DEFAULT_REGION, for example to us-east-1"
        )
    config = botocore.config.Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
    try:
        account = session.client("sts", config=config).get_caller_identity()["Account"]
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise RuntimeError(
            "boto3 found credentials, but AWS cannot be reached or does not accept them: renew them, or "
            f"remove them to rehearse on this machine ({type(error).__name__}: {error})"
        ) from error
    return f"on AWS, account {account}, region {session.region_name}: jobs cost money"


def _forget_credentials() -> None:
    """Let ``boto3.client`` read the environment anew; its default session keeps what it has read."""
    import boto3

    boto3.setup_default_session()
