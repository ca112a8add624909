"""Azure sweep jobs, the successors of HyperDrive: built, checked, run on this machine, or submitted.

Building, reading and running need nothing of Azure's; only `to_job`, `connect` and `submit` need its package,
`azure-ai-ml` (the extra ``azure``).

Sources: the reference of ``azure.ai.ml.sweep``, "CLI (v2) sweep job YAML schema", and "Hyperparameter tuning a model
(v2)", all at learn.microsoft.com.
"""

from hpo_helpers.sweeps.expressions import space_of
from hpo_helpers.sweeps.picture import plot_sweep
from hpo_helpers.sweeps.run import child_runs, run_sweep
from hpo_helpers.sweeps.settings import build_sweep, check_sweep
from hpo_helpers.sweeps.workspace import (
    SubmittedSweep,
    connect,
    read_sweep,
    submit,
    to_job,
    write_code,
    write_sweep,
)

__all__ = [
    "SubmittedSweep",
    "build_sweep",
    "check_sweep",
    "child_runs",
    "connect",
    "plot_sweep",
    "read_sweep",
    "run_sweep",
    "space_of",
    "submit",
    "to_job",
    "write_code",
    "write_sweep",
]
