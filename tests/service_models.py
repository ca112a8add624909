"""botocore reads its description of SageMaker, 3 MB of JSON, for every session anew; tests make many."""

import functools

import pytest
from botocore.loaders import JSONFileLoader

_load = JSONFileLoader.load_file


@functools.cache
def _load_once(path: str) -> object:
    return _load(JSONFileLoader(), path)


def read_once(patch: pytest.MonkeyPatch) -> None:
    """Let botocore read each of its files once."""
    patch.setattr(JSONFileLoader, "load_file", lambda self, path: _load_once(path))
