"""A job's files between S3 and its folder: code, channels, checkpoints, results."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any


class JobFailed(Exception):
    """A job has failed; the message is its FailureReason."""


class Store:
    """S3, as jobs read and write it by ``s3://bucket/key``."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def download(self, uri: str, folder: Path) -> int:
        """Copy every object under a prefix into a folder; return how many there are."""
        bucket, prefix = _split(uri)
        keys = self._keys(bucket, prefix)
        for key in keys:
            path = (folder / _relative(key, prefix)).resolve()
            if folder not in path.parents:
                raise no_data(f"the S3 key {key!r} leads out of the folder of its channel")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._read(bucket, key))
        return len(keys)

    def unpack(self, uri: str, folder: Path) -> None:
        """Unpack a ``.tar.gz`` into a folder. Nothing in it can lead out."""
        try:
            packed = io.BytesIO(self._read(*_split(uri)))
            with tarfile.open(fileobj=packed, mode="r:gz") as members:
                members.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError, self._s3.exceptions.ClientError) as error:
            raise no_data(f"{uri} cannot be unpacked: {error}") from error

    def upload_archive(self, folder: Path, uri: str) -> None:
        """Pack what is in a folder and store it as a ``.tar.gz``."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as packed:
            for path in sorted(folder.iterdir()):
                packed.add(path, path.name)
        bucket, key = _split(uri)
        self._s3.put_object(Bucket=bucket, Key=key, Body=archive.getvalue())

    def upload(self, folder: Path, uri: str) -> None:
        """Store every file of a folder under a prefix, which ends with a slash."""
        bucket, prefix = _split(uri)
        for path in folder.rglob("*"):
            if path.is_file():
                key = prefix + path.relative_to(folder).as_posix()
                self._s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    def _read(self, bucket: str, key: str) -> bytes:
        return self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def _keys(self, bucket: str, prefix: str) -> list[str]:
        paginator = self._s3.get_paginator("list_objects_v2")
        try:
            pages = list(paginator.paginate(Bucket=bucket, Prefix=prefix))
        except self._s3.exceptions.ClientError as error:
            raise no_data(f"s3://{bucket}/{prefix} cannot be listed: {error}") from error
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key for key in keys if not key.endswith("/")]


def no_data(why: str) -> JobFailed:
    """Return the failure of a job that cannot have its data."""
    return JobFailed(f"ClientError: Data download failed: {why}")


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _relative(key: str, prefix: str) -> str:
    if prefix.endswith("/") or key.startswith(f"{prefix}/"):
        return key[len(prefix) :].removeprefix("/")
    return key[prefix.rfind("/") + 1 :]  # the prefix is a whole key, or ends within a name
