"""Lessons on a runtime with Colab's versions and a kernel, nothing of ours until the setup cell has run."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from notebook_files import LESSONS, NOTEBOOKS, comparison, publisher, runner
from traitlets import default

ROOT = NOTEBOOKS.parent
REPOSITORY = "someone/lessons"

#: What Colab has since August 2026, and SciPy, the oldest that the course takes: none of it may be replaced.
COLAB = ["numpy==2.1.3", "pandas==2.2.3", "scikit-learn==1.6.1", "ipython==7.34.0", "ipykernel==6.17.1", "scipy==1.14.1"]
#: Trains with MXNet and with scikit-learn, and forks jobs.
TRIED = next(path for path in LESSONS if path.stem.startswith("13"))
#: A lesson for each setup cell that differs from others: one without extras, and those with some.
SETUPS = {publisher.EXTRAS.get(path.stem[:2], ""): path for path in LESSONS}

PRETEND = f"""
import importlib.metadata, sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
def versions():
    return [name + "==" + importlib.metadata.version(name) for name in {[each.split("==")[0] for each in COLAB]}]
print(versions())
"""

LOOK_ROUND = """
import hpo_helpers
print(versions())
print("ours", hpo_helpers.__file__)
print("missing", [name for name in {names} if importlib.util.find_spec(name) is None])
"""


def find_python() -> str:
    """Return the Python that Colab has where there is one, else the one that runs this."""
    check = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 13))"
    # Where pyenv's own python3.13 is found, it runs only if that version is switched on.
    of_pyenv = sorted(Path.home().glob(".pyenv/versions/3.13*/bin/python"))
    for found in filter(None, [shutil.which("python3.13"), *of_pyenv]):
        if subprocess.run([found, "-c", check], capture_output=True).returncode == 0:
            return str(found)
    return sys.executable


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with Colab's versions."""
    folder = tmp_path_factory.mktemp("runtime")
    subprocess.run([find_python(), "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", *COLAB]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode or shutil.which("git") is None:
        pytest.skip(f"no git, no package index, or no wheel for this Python: {result.stderr[-500:]}")
    return python


@pytest.fixture
def on_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked out here, as a repository that git finds in place of the one on GitHub."""
    folder = tmp_path / "on-github"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("hpo_helpers", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in [ROOT / "pyproject.toml", ROOT / "README.md", *ROOT.glob("LICENSE*")]:
        shutil.copy(path, folder)
    git = ["git", "-c", "user.name=someone", "-c", "user.email=someone@localhost"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{folder.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"https://github.com/{REPOSITORY}")


def execute(notebook: NotebookNode, python: Path, folder: Path) -> None:
    """Execute a notebook in place, in `folder`, by the kernel of another Python."""
    kernel = folder.parent / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "", "language": "python"}))

    class KernelOfTheRuntime(runner.KernelOfThisPython):
        @default("kernel_spec_manager")
        def _the_runtime_alone(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[str(kernel.parent)], ensure_native_kernel=False)

    settings = {"kernel_name": "python3", "timeout": 600, "coalesce_streams": True}
    client = NotebookClient(notebook, kernel_manager_class=KernelOfTheRuntime, **settings)
    client.execute(cwd=str(folder))


def imported_names(path: Path) -> set[str]:
    """Return the first names of all that a notebook imports."""
    source = "\n".join(cell.source for cell in runner.code_cells(nbformat.read(path, as_version=4)))
    nodes = list(ast.walk(ast.parse(TransformerManager().transform_cell(source))))
    modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {module.partition(".")[0] for module in modules}


def published(path: Path) -> NotebookNode:
    """Return a notebook whose setup cell installs from the repository on GitHub."""
    return nbformat.reads(publisher.publish_notebook(path, ROOT, REPOSITORY), as_version=4)


def setup_of(path: Path) -> NotebookNode:
    """Return the setup cell of a published notebook."""
    (cell,) = [cell for cell in published(path).cells if cell.id == publisher.SETUP_CELL_ID]
    return cell


def test_lessons_with_the_same_extras_have_the_same_setup_cell() -> None:
    for path in LESSONS:
        assert setup_of(path).source == setup_of(SETUPS[publisher.EXTRAS.get(path.stem[:2], "")]).source


@pytest.mark.parametrize("extras", SETUPS)
def test_the_setup_cell_replaces_nothing_installs_all_and_a_lesson_runs(
    extras: str, runtime: Path, on_github: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    subprocess.run([runtime, "-m", "pip", "uninstall", "--quiet", "--yes", "hpo_helpers"], check=True)
    alike = [path for path in LESSONS if publisher.EXTRAS.get(path.stem[:2], "") == extras]
    names = sorted(set.union(*map(imported_names, alike)))
    notebook = published(TRIED)
    first, last = new_code_cell(PRETEND), new_code_cell(LOOK_ROUND.format(names=names))
    notebook.cells = [first, *(notebook.cells if TRIED in alike else [setup_of(alike[0])]), last]
    (tmp_path / "content").mkdir()
    execute(notebook, runtime, tmp_path / "content")

    before, after = comparison.printed(first.outputs), comparison.printed(last.outputs).splitlines()
    assert before.strip() == str(COLAB)
    assert after[0] == str(COLAB), "the setup cell has replaced what the kernel has loaded"
    assert after[1].startswith(f"ours {runtime.parents[1]}")
    assert after[2] == "missing []", "a lesson imports what the setup cell does not install"
    said = "\n".join(comparison.printed(cell.outputs) for cell in runner.code_cells(notebook))
    assert "is installed here" not in said and "packages/sklearn" not in said, "scikit-learn has warned"
