"""Where boto3 leads to: AWS, or a rehearsal."""

from __future__ import annotations

import os

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

    def __init__(self, line: str, is_rehearsal: bool, rehearsal: Rehearsal | None = None) -> None:
        self.is_rehearsal, self.rehearsal = is_rehearsal, rehearsal
        self.role = ROLE if is_rehearsal else None
        self._line = line
        variables = rehearsal.environment if rehearsal else {}
        self._before = {name: os.environ.get(name) for name in variables}
        _set(variables)

    def close(self) -> None:
        """End the rehearsal that `connect` has started, and let boto3 find what it found before."""
        if self.rehearsal is not None:
            self.rehearsal.close()
            _set(self._before)
            self._before = {}

    def __repr__(self) -> str:
        return self._line

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_started: list[Place] = []


def connect() -> Place:
    """Use AWS if boto3 finds credentials, else start a rehearsal and lead boto3 to it.

    The variables of a rehearsal are set in `os.environ`, until the returned object is closed.
    Called again, it returns what it returned before.

    Raises
    ------
    RuntimeError
        If there are credentials, but no region, or AWS does not accept them.
    """
    import boto3

    if _started and _started[-1].rehearsal is Rehearsal.running is not None:
        return _started[-1]
    if os.environ.get("AWS_ACCESS_KEY_ID", "").startswith(KEY_PREFIX):  # of the parent process
        return Place(REHEARSAL_LINE, is_rehearsal=True)
    session = boto3.Session()
    if session.get_credentials():
        return Place(_describe_aws(session), is_rehearsal=False)
    _started.append(Place(REHEARSAL_LINE, is_rehearsal=True, rehearsal=Rehearsal()))
    return _started[-1]


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


def _set(variables):
    """Set variables, or remove those that are None, and let boto3 read them anew."""
    import boto3

    for name, text in variables.items():
        os.environ.pop(name, None)
        if text is not None:
            os.environ[name] = text
    boto3.setup_default_session()  # it keeps what it has read
