"""Jobs on Amazon SageMaker, by boto3."""

from hpo_helpers.jobs.sagemaker.launcher import SageMakerJob, SageMakerLauncher
from hpo_helpers.jobs.sagemaker.orphans import owner, tags_of
from hpo_helpers.jobs.sagemaker.records import delete_created, jobs_from_logs, jobs_from_search, list_created
from hpo_helpers.jobs.sagemaker.request import image_uri
from hpo_helpers.jobs.sagemaker.setup import SageMakerError

__all__ = [
    "SageMakerError",
    "SageMakerJob",
    "SageMakerLauncher",
    "delete_created",
    "image_uri",
    "jobs_from_logs",
    "jobs_from_search",
    "list_created",
    "owner",
    "tags_of",
]
