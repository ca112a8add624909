"""Code and data in S3, each under the hash of its content, so that nothing is sent twice."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from hpo_helpers.jobs.sagemaker.clients import Clients
from hpo_helpers.jobs.sagemaker.errors import DENIED, NOT_FOUND, SageMakerError, code_of, explained

PACKAGE = Path(__file__).resolve().parents[2]


def code_files(script: Any, dependencies: Sequence[Any]) -> list[Path]:
    """Return the script, the package's own if there is none, and what goes with it; all of them exist."""
    if script is None:
        script, dependencies = PACKAGE / "train_mnist.py", [PACKAGE / "mxnet_compat.py", *dependencies]
    paths = [Path(path) for path in (script, *dependencies)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r}")
    if paths[0].suffix != ".py":
        raise ValueError(f"script must be a Python script, got {str(script)!r}")
    return paths


def data_folder(data: Any) -> Path | None:
    """Return the folder of the data, if there is one; it exists."""
    if data is None:
        return None
    if not Path(data).is_dir():
        raise FileNotFoundError(f"there is no folder {str(data)!r}")
    return Path(data)


def default_bucket(clients: Clients) -> str:
    """Return the name of the launchers' own bucket. It has "sagemaker" in it, so AWS's usual role may use it."""
    return f"sagemaker-hpo-{clients.region}-{clients.account}"


def ensure_bucket(clients: Clients, bucket: str) -> None:
    """Make the bucket if it is the default one and missing.

    Raises
    ------
    SageMakerError
        If another bucket is missing, or it belongs to another account.
    """
    owner = {"ExpectedBucketOwner": clients.account}  # anybody may have made a bucket of that name
    with explained():
        try:
            clients.s3.head_bucket(Bucket=bucket, **owner)
            return
        except clients.s3.exceptions.ClientError as error:
            if code_of(error) in DENIED:
                raise SageMakerError(
                    f"the bucket {bucket!r} is another account's, or you lack s3:ListBucket on it: set bucket=, or "
                    "grant what notebooks/sagemaker_policy.json does"
                ) from error
            if code_of(error) not in NOT_FOUND:
                raise
        if bucket != default_bucket(clients):
            raise SageMakerError(f"there is no bucket {bucket!r}: make it, or leave bucket= out")
        region = clients.region
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        clients.s3.create_bucket(Bucket=bucket, **place)


def program_name(script: Path) -> str:
    """Return the name under which the container knows the script: it takes letters, digits and ``._+-`` only."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", script.name).lstrip("-.") or "train.py"


def upload_code(
    clients: Clients, bucket: str, prefix: str, script: Path, dependencies: Sequence[Path]
) -> str:
    """Upload the script and what lies beside it as one archive, and return its address."""
    names = {program_name(script): script} | {path.name: path for path in dependencies}
    if len(names) <= len(dependencies):
        raise ValueError(f"script and dependencies must have different names, got {[script, *dependencies]}")
    archive = _archive(names)
    key = f"{prefix}/code/{_digest(archive)}/sourcedir.tar.gz"
    with explained():
        _put_once(clients, bucket, key, io.BytesIO(archive))
    return f"s3://{bucket}/{key}"


def upload_folder(clients: Clients, bucket: str, prefix: str, folder: Path) -> str:
    """Upload every file of a folder whose name does not begin with a dot, and return the address of all."""
    files = _files(folder)
    if not files:
        raise ValueError(f"the folder of the data must have files, got {str(folder)!r}")
    digests = {name: _digest_of_file(path) for name, path in files.items()}
    content = "".join(f"{name}\n{digest}\n" for name, digest in digests.items())
    place = f"{prefix}/data/{_digest(content.encode())}"
    with explained():
        for name, path in files.items():
            with open(path, "rb") as file:
                _put_once(clients, bucket, f"{place}/{name}", file)
    return f"s3://{bucket}/{place}/"


def upload_mnist(clients: Clients, bucket: str, prefix: str) -> str:
    """Upload the 5,000 images that come with the course, and return their address."""
    from hpo_helpers.datasets import load_mnist, save_npz

    with tempfile.TemporaryDirectory() as folder:
        save_npz(Path(folder) / "mnist.npz", load_mnist())
        return upload_folder(clients, bucket, prefix, Path(folder))


def _archive(files: dict[str, Path]) -> bytes:
    """Pack files, all in one folder. The same files give the same bytes, so times and owners stay out."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name in sorted(files):
            content = files[name].read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _files(folder: Path) -> dict[str, Path]:
    """Return the files by their names relative to the folder. Hidden ones are nobody's data, and may be secret."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place) / name
            found[path.relative_to(folder).as_posix()] = path
    return found


def _put_once(clients: Clients, bucket: str, key: str, content: IO[bytes]) -> None:
    place = {"Bucket": bucket, "Key": key, "ExpectedBucketOwner": clients.account}
    try:
        clients.s3.head_object(**place)
    except clients.s3.exceptions.ClientError as error:
        if code_of(error) not in NOT_FOUND:
            raise
        clients.s3.put_object(**place, Body=content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
