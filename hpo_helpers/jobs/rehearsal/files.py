"""A job's files between S3 and its folder: code, channels, results."""

import io
import tarfile
from pathlib import Path
from typing import Any


class JobFailed(Exception):
    """A job has failed; the message is its FailureReason."""


class Store:
    """S3, as a job reads and writes it by ``s3://bucket/key``."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def download(self, uri: str, folder: Path) -> int:
        """Copy every object under a prefix into a folder; return how many there are."""
        bucket, prefix = _split(uri)
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        keys = [key for key in keys if not key.endswith("/")]
        for key in keys:
            name = key.removeprefix(prefix).lstrip("/") or key.rpartition("/")[2]
            path = (folder / name).resolve()
            if folder not in path.parents:
                raise ValueError(f"the S3 key {key!r} leads out of the folder of its channel")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._read(bucket, key))
        return len(keys)

    def unpack(self, uri: str, folder: Path) -> None:
        """Unpack a ``.tar.gz`` into a folder. Nothing in it can lead out."""
        packed = io.BytesIO(self._read(*_split(uri)))
        with tarfile.open(fileobj=packed, mode="r:gz") as members:
            members.extractall(folder, filter="data")

    def pack(self, folder: Path, uri: str) -> None:
        """Store what is in a folder as a ``.tar.gz``."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as packed:
            for path in sorted(folder.iterdir()):
                packed.add(path, path.name)
        bucket, key = _split(uri)
        self._s3.put_object(Bucket=bucket, Key=key, Body=archive.getvalue())

    def _read(self, bucket, key):
        return self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def _split(uri):
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
