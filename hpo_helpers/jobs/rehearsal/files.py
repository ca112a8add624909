"""A job's files between S3 and its folder: code, channels, checkpoints, results."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any


class DataError(Exception):
    """Data cannot be had from S3, or not be written; the message says why, as the service does."""


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def download_prefix(s3: Any, uri: str, folder: Path) -> None:
    """Copy every object under a prefix into a folder, by what follows the prefix in its key.

    Raises
    ------
    DataError
        If there is no such object, or a key leads out of the folder.
    """
    bucket, prefix = split_uri(uri)
    keys = list(_keys(s3, bucket, prefix))
    if not keys:
        raise DataError(
            f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the '
            "bucket exists in the selected region and that objects exist under that S3 prefix."
        )
    for key in keys:
        path = _inside(folder, _relative(key, prefix))
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, key, str(path))


def unpack_code(s3: Any, uri: str, folder: Path) -> None:
    """Unpack a ``.tar.gz`` of S3 into a folder. Nothing in it can lead out of the folder.

    Raises
    ------
    DataError
        If the object does not exist, is no such archive, or a member of it leads elsewhere.
    """
    archive = folder.parent / "sourcedir.tar.gz"
    bucket, key = split_uri(uri)
    try:
        s3.download_file(bucket, key, str(archive))
        with tarfile.open(archive, "r:gz") as members:
            members.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{uri} cannot be unpacked: {error}") from error
    except s3.exceptions.ClientError as error:
        raise DataError(f"{uri} cannot be read: {error}") from error
    finally:
        archive.unlink(missing_ok=True)


def upload_archive(s3: Any, folder: Path, uri: str) -> None:
    """Pack what is in a folder and store it as a ``.tar.gz``."""
    archive = folder.parent / f".{folder.name}.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        for path in sorted(folder.iterdir()):
            packed.add(path, path.name)
    bucket, key = split_uri(uri)
    s3.upload_file(str(archive), bucket, key)
    archive.unlink()


class Checkpoints:
    """A folder that is kept equal to a prefix of S3, as far as files are added or changed.

    Parameters
    ----------
    s3
        A client of S3.
    uri
        Where the files are kept.
    folder
        Where the script reads and writes them.
    """

    def __init__(self, s3: Any, uri: str, folder: Path) -> None:
        self._s3 = s3
        self._uri = uri.rstrip("/")
        self._folder = folder
        self._stored: dict[Path, tuple[int, int]] = {}  # time and size of each file when it was stored
        self._looked_at: dict[Path, tuple[int, int]] = {}

    def download(self) -> None:
        """Fetch what an earlier job left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        bucket, prefix = split_uri(self._uri + "/")
        if any(True for _ in _keys(self._s3, bucket, prefix)):
            download_prefix(self._s3, self._uri + "/", self._folder)
        self._stored = dict(self._states())

    def upload_settled(self) -> None:
        """Store what is new or has changed, unless it has changed since the last look as well."""
        states = dict(self._states())
        self._store({path: state for path, state in states.items() if self._looked_at.get(path) == state})
        self._looked_at = states

    def upload(self) -> None:
        """Store all that is new or has changed."""
        self._store(dict(self._states()))

    def _store(self, states: dict[Path, tuple[int, int]]) -> None:
        bucket, prefix = split_uri(self._uri)
        for path, state in states.items():
            if self._stored.get(path) == state:
                continue
            with contextlib.suppress(FileNotFoundError):  # it may have been renamed meanwhile
                key = PurePosixPath(prefix, path.relative_to(self._folder).as_posix())
                self._s3.put_object(Bucket=bucket, Key=str(key), Body=path.read_bytes())
                self._stored[path] = state

    def _states(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        for parent, _, names in os.walk(self._folder):
            for name in names:
                path = Path(parent, name)
                with contextlib.suppress(FileNotFoundError):
                    if path.is_symlink() or not path.is_file():
                        continue
                    yield path, (path.stat().st_mtime_ns, path.stat().st_size)


def _keys(s3: Any, bucket: str, prefix: str) -> Iterator[str]:
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from (entry["Key"] for entry in page.get("Contents", []) if not entry["Key"].endswith("/"))
    except s3.exceptions.ClientError as error:
        raise DataError(f"s3://{bucket}/{prefix} cannot be listed: {error}") from error


def _relative(key: str, prefix: str) -> str:
    if key.startswith(prefix.rstrip("/") + "/") and prefix:
        return key[len(prefix.rstrip("/")) + 1 :]
    return key[prefix.rfind("/") + 1 :]  # the prefix is a whole key, or ends within a name


def _inside(folder: Path, relative: str) -> Path:
    path = (folder / relative).resolve()
    if folder.resolve() not in path.parents:
        raise DataError(f"the S3 key {relative!r} leads out of the folder of its channel")
    return path
