"""Jobs in processes of this machine."""

from hpo_helpers.jobs.local.launcher import LocalJob, LocalLauncher
from hpo_helpers.jobs.local.script import LocalScript

__all__ = ["LocalJob", "LocalLauncher", "LocalScript"]
