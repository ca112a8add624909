"""How long a job of the rehearsal takes beyond its script.

Run ``python benchmarks/rehearsal.py`` on an idle machine. It prints the median and the range over 20 jobs: seconds from
the call of ``create_training_job`` to the job's last step, less those that Python takes to run the same script by itself.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import time

from hpo_helpers.jobs.rehearsal import Rehearsal

N_JOBS = 20
SCRIPT = b"print('hello')"


def main() -> None:
    """Measure and print."""
    with Rehearsal() as rehearsal:
        os.environ.update(rehearsal.environment)
        import boto3

        s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="sourcedir.tar.gz", Body=packed(SCRIPT))
        seconds_of_job(sagemaker, rehearsal.role, 0)  # a first one warms everything up
        beyond = [
            seconds_of_job(sagemaker, rehearsal.role, number) - seconds_alone() for number in range(1, N_JOBS + 1)
        ]
    print(f"beyond the script: {statistics.median(beyond):.3f} s ({min(beyond):.3f} to {max(beyond):.3f} s)")


def packed(script: bytes) -> bytes:
    """Return an archive that holds the script as ``train.py``."""
    content, entry = io.BytesIO(), tarfile.TarInfo("train.py")
    entry.size = len(script)
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(entry, io.BytesIO(script))
    return content.getvalue()


def seconds_of_job(sagemaker, role: str, number: int) -> float:
    """Run one job, and return the seconds from the call to its last step."""
    name, start = f"quick-{number}", time.time()
    texts = {"sagemaker_program": "train.py", "sagemaker_submit_directory": "s3://bucket/sourcedir.tar.gz"}
    sagemaker.create_training_job(
        TrainingJobName=name,
        RoleArn=role,
        AlgorithmSpecification={"TrainingImage": "mxnet-training:1.9.0-cpu-py38", "TrainingInputMode": "File"},
        HyperParameters={key: json.dumps(text) for key, text in texts.items()},
        OutputDataConfig={"S3OutputPath": "s3://bucket/output"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        StoppingCondition={"MaxRuntimeInSeconds": 600},
    )
    while (job := sagemaker.describe_training_job(TrainingJobName=name))["TrainingJobStatus"] == "InProgress":
        time.sleep(0.02)
    if job["TrainingJobStatus"] != "Completed":
        raise RuntimeError(f"{name} ended {job['TrainingJobStatus']}: {job.get('FailureReason')}")
    return job["LastModifiedTime"].timestamp() - start


def seconds_alone() -> float:
    """Return the seconds that Python takes to run the script by itself."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
