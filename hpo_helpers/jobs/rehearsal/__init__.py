"""SageMaker's API served on this machine, really running scripts, for those with no account.

moto serves S3, CloudWatch Logs, STS and IAM; training jobs and tuning jobs run their script by this
Python. There is no container, no price, and no permission is checked; what AWS does and
the rehearsal does not is refused by an error that names it.
"""

from hpo_helpers.jobs.rehearsal.place import Place, connect
from hpo_helpers.jobs.rehearsal.service import ROLE, Rehearsal

__all__ = ["ROLE", "Place", "Rehearsal", "connect"]
