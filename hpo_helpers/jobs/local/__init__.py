"""Jobs in processes of this machine."""

from hpo_helpers.jobs.local.launcher import LocalJob, LocalLauncher, LocalScript

__all__ = ["LocalJob", "LocalLauncher", "LocalScript"]
