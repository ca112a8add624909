"""Azure sweep jobs, the successors of HyperDrive: read, checked, and run here.

A sweep is a plain dict with the keys of the job's YAML. Nothing needs Azure's package.

Sources, at learn.microsoft.com: "CLI (v2) sweep job YAML schema", "Hyperparameter
tuning a model (v2)", and the reference of ``azure.ai.ml.sweep``.
"""

from hpo_helpers.sweeps.expressions import space_of
from hpo_helpers.sweeps.run import child_runs, run_sweep
from hpo_helpers.sweeps.settings import check_sweep, read_sweep, write_sweep

__all__ = ["check_sweep", "child_runs", "read_sweep", "run_sweep", "space_of", "write_sweep"]
