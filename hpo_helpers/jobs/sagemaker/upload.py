"""Code and data in S3."""

import io
import re
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo_helpers.jobs.sagemaker.request import checked
from hpo_helpers.jobs.sagemaker.setup import explained

OWN_SCRIPT = Path(__file__).resolve().parents[2] / "train_mnist.py"


def code_files(script: Any, dependencies: Sequence[Any], data: Any) -> list[Path]:
    """Return the script, or the package's, and what goes with it."""
    if script is None:
        script = OWN_SCRIPT
        dependencies = [OWN_SCRIPT.with_name("mxnet_compat.py"), *dependencies]
    paths = [Path(path) for path in (script, *dependencies)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r}")
    if data is not None and not Path(data).is_dir():
        raise FileNotFoundError(f"there is no folder {str(data)!r}")
    checked("script", paths[0].name)
    return paths


def ensure_bucket(clients: Any, bucket: str) -> None:
    """Make the default bucket if it is missing; use none of another account."""
    try:
        clients.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=clients.account)
    except clients.s3.exceptions.ClientError as error:
        if "(404)" not in str(error) or bucket != clients.bucket:
            raise
        where = {"CreateBucketConfiguration": {"LocationConstraint": clients.region}}
        where = {} if clients.region == "us-east-1" else where
        clients.s3.create_bucket(Bucket=bucket, **where)


@explained()
def upload(
    clients: Any, bucket: str, folder: str, files: Sequence[Path], data: Any
) -> tuple[str, str, str | None]:
    """Upload code and data of a run; return the script's name and addresses."""
    ensure_bucket(clients, bucket)
    code = _upload_code(clients.s3, bucket, f"{folder}/code/sourcedir.tar.gz", files)
    address, place = None, (clients.s3, bucket, f"{folder}/data")
    if data is not None:
        address = _upload_folder(*place, Path(data))
    elif files[0] == OWN_SCRIPT:
        address = _upload_mnist(*place)
    return files[0].name, code, address


def _upload_code(s3, bucket, key, files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in files:
            archive.add(path.resolve(), arcname=path.name)
    s3.put_object(Bucket=bucket, Key=key, Body=packed.getvalue())
    return f"s3://{bucket}/{key}"


def _upload_folder(s3, bucket, prefix, folder):
    for path in filter(Path.is_file, folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not re.search(r"(^|/)\.", name):  # hidden files may be secret
            s3.upload_file(str(path), bucket, f"{prefix}/{name}")
    return f"s3://{bucket}/{prefix}/"


def _upload_mnist(s3, bucket, prefix):
    from hpo_helpers.datasets import load_mnist, save_npz

    with tempfile.TemporaryDirectory() as folder:
        save_npz(Path(folder) / "mnist.npz", load_mnist())
        return _upload_folder(s3, bucket, prefix, Path(folder))
