"""The environment in which `make run`, `make outputs` and the tests execute the lessons: out of any cloud's reach."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

#: Where boto3 looks for credentials, besides its two files.
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)


def leave_clouds(environment: MutableMapping[str, str]) -> None:
    """Let boto3 find no credentials in processes that are started from here.

    Lesson 11 goes to AWS where it finds some, and nobody is to be billed for running all lessons, or the tests.
    """
    for name in CREDENTIALS:
        environment.pop(name, None)
    environment["AWS_SHARED_CREDENTIALS_FILE"] = environment["AWS_CONFIG_FILE"] = os.devnull
    environment["AWS_EC2_METADATA_DISABLED"] = "true"
