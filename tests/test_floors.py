"""Who may know whom: the package's floors, and what is imported before it is used."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hpo_helpers"

#: What each module may import of this package. The files of a launcher count as one module.
MAY_KNOW = {
    "ties": set(),
    "spaces": {"ties"},
    "datasets": set(),
    "plotting": set(),
    "mxnet_compat": set(),
    "journal": set(),
    "progress": set(),
    "comparing": {"jobs", "progress", "resuming", "tuning"},
    "policies": set(),
    "resuming": set(),
    "replay_mnist": {"curves", "spaces", "train_mnist"},
    "train_mnist": {"mxnet_compat", "datasets"},
    "train_mnist_torch": {"datasets"},
    "live": {"jobs", "jobs.cluster", "jobs.local", "train_mnist", "train_mnist_torch"},
    "jobs": set(),
    "jobs.local": {"jobs"},
    "jobs.cluster": {"jobs"},
    "curves": {"datasets", "spaces"},
    "jobs.replay": {"jobs", "curves"},
    "jobs.sagemaker": {"jobs", "datasets"},
    "jobs.rehearsal": set(),
    "sweeps": {"jobs", "spaces", "plotting", "policies", "tuning"},
    "crossval": {"jobs"},
    "report": set(),
    "gaussian_process": set(),
    "evolution": {"jobs", "spaces", "tuning"},
    "tuning": {"jobs", "progress", "resuming", "ties"},
    "__main__": {"datasets"},
}
#: What these are for is to use such a library.
OF_A_LIBRARY = ("plotting", "report", "gaussian_process", "mxnet_compat", "cluster")
HEAVY = {"mxnet", "torch", "matplotlib", "boto3", "moto", "azure", "inspyred", "sklearn", "scipy", "pooch", "joblib", "distributed"}


#: Folders whose files count as one module.
FOLDERS = ("jobs.local", "jobs.rehearsal", "jobs.sagemaker", "spaces", "sweeps")


def module_of(path):
    return whole(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def whole(name):
    """Return the module that a name belongs to: a folder of one idea, or itself."""
    if name in ("jobs.__init__", "jobs.log_metrics", "jobs.training"):
        return "jobs"  # what launchers share
    return next((folder for folder in FOLDERS if f"{name}.".startswith(f"{folder}.")), name)


def imports_of_ours(path):
    """Return the modules of this package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield node.module
        elif isinstance(node, ast.ImportFrom) and node.module == "hpo_helpers":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("hpo_helpers."):
            yield node.module.removeprefix("hpo_helpers.")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_knows_the_floors_below_it_alone(path):
    known = {whole(name) for name in imports_of_ours(path)}
    assert known - {module_of(path)} <= MAY_KNOW[module_of(path)]


def test_nothing_heavy_is_imported_before_it_is_used():
    names = [module_of(path) for path in FILES if path.stem not in OF_A_LIBRARY]
    code = f"import importlib, sys; [importlib.import_module('hpo_helpers.' + name) for name in {names}]"
    code += "; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) & HEAVY == set()


def test_no_line_is_too_long_and_nothing_is_imported_in_vain():
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", PACKAGE.parent]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
