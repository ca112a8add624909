"""Where boto3 leads to: AWS, or a rehearsal."""

from __future__ import annotations

import functools
import os

from hpo_helpers.jobs.rehearsal.service import ROLE, Rehearsal


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

    def __init__(self, line: str, rehearsal: Rehearsal | None = None) -> None:
        self.rehearsal, self.is_rehearsal = rehearsal, rehearsal is not None
        self.role = ROLE if self.is_rehearsal else None
        self._line = line

    def __repr__(self) -> str:
        return self._line


@functools.cache
def connect() -> Place:
    """Use AWS if boto3 finds credentials, else start a rehearsal and lead boto3 to it.

    The variables of a rehearsal are set in `os.environ`. Called again, it returns what it returned before.

    Raises
    ------
    RuntimeError
        If there are credentials, but no region, or AWS does not accept them.
    """
    import boto3

    session = boto3.Session()
    if session.get_credentials():
        return Place(_describe_aws(session))
    rehearsal = Rehearsal()
    os.environ.update(rehearsal.environment)
    boto3.setup_default_session()  # it keeps what it has read
    return Place("rehearsal on this machine: nothing is billed", rehearsal)


def _describe_aws(session):
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    if session.region_name is None:
        raise RuntimeError("boto3 found credentials but no region: set AWS_DEFAULT_REGION")
    config = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
    try:
        account = session.client("sts", config=config).get_caller_identity()["Account"]
    except (BotoCoreError, ClientError) as error:
        raise RuntimeError(
            "boto3 found credentials, but AWS cannot be reached or does not accept them: renew "
            f"them, or remove them to rehearse here ({type(error).__name__}: {error})"
        ) from error
    return f"on AWS, account {account}, region {session.region_name}: jobs cost money"
