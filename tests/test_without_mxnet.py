"""Half a classroom has Windows or Apple silicon: there what a lesson trains elsewhere is what was recorded."""

import ast
import asyncio
import os
import re
from unittest import mock

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from notebook_files import LESSONS, comparison, publisher, runner
from surroundings import leave_clouds

#: What a notebook names that may import MXNet.
TRAINING = ("mxnet", "train_mnist")


def code_of(path):
    cells = runner.code_cells(nbformat.read(path, as_version=4))
    return "\n".join(cell.source for cell in cells if cell.id != publisher.SETUP_CELL_ID)


TRAINS = [path for path in LESSONS if re.search("HAS_MXNET|find_train", code_of(path))]
#: As if neither were installed. SciPy takes a torch in sys.modules for PyTorch itself, so that is not found instead.
HIDE = """
import importlib.util, sys
sys.modules["mxnet"], find_spec = None, importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == "torch" else find_spec(name, *package)
"""


async def execute(notebook, path):
    return await runner.execute(notebook, path.stem, path.parent, asyncio.current_task())


def names_of(cell):
    """Return the names that a cell makes, and those that it uses and others made."""
    nodes = list(ast.walk(ast.parse(cell.source)))
    made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    made |= {alias.asname or alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    return made, {node.id for node in nodes if isinstance(node, ast.Name)} - made


def concerned(cells):
    """Return the cells that ask for MXNet, those that use what these make, and whatever any of them uses."""
    makers, needs = {}, []
    for n, cell in enumerate(cells):
        made, used = names_of(cell)
        needs.append({makers[name] for name in used if name in makers})
        makers |= dict.fromkeys(made, n)
    asks = {n for n, cell in enumerate(cells) if re.search(r"find_train\(|(if|else) .*HAS_MXNET", cell.source)}
    chosen = asks | {n for n, used in enumerate(needs) if used & asks}
    for n in reversed(range(len(cells))):
        chosen |= needs[n] if n in chosen else set()
    return [cells[n] for n in sorted(chosen)]


@pytest.mark.parametrize("path", TRAINS, ids=lambda path: path.stem)
def test_a_lesson_that_trains_goes_on_without_mxnet_and_says_so(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in runner.code_cells(notebook) if cell.id != publisher.SETUP_CELL_ID]
    notebook.cells = [new_code_cell(HIDE), *concerned(cells)]
    with mock.patch.dict(os.environ):
        leave_clouds(os.environ)
        outcome = asyncio.run(execute(notebook, path))
    assert outcome.failure is None
    said = "\n".join(comparison.printed(cell.outputs) for cell in runner.code_cells(notebook))
    assert "Neither MXNet nor PyTorch is installed here" in said or "MXNet is not installed here" in said


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_other_lesson_needs_none(path):
    code = code_of(path)
    assert path in TRAINS or not any(name in code for name in TRAINING)


def test_lesson_08_runs_its_folds_and_its_workers_where_no_process_can_fork(tmp_path, monkeypatch):
    path = next(path for path in LESSONS if path.stem.startswith("08"))
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.fork\n")  # as on Windows
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(path.parents[1])]))
    notebook = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in notebook.cells]
    kept = [*notebook.cells[: ids.index("workers-check") + 1], notebook.cells[ids.index("rehearse")]]
    more = ("truth", "loop", "five-best", "picture", "hang", "hang-run")  # of the same
    notebook.cells = [cell for cell in kept if cell.id not in more]
    before = {cell.id: comparison.printed(cell.outputs) for cell in runner.code_cells(notebook)}
    outcome = asyncio.run(execute(notebook, path))
    assert outcome.failure is None
    after = {cell.id: comparison.printed(cell.outputs) for cell in runner.code_cells(notebook)}
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["dashboard", "rehearse"] and "or this is Windows" in after["rehearse"]


def test_the_lesson_that_trains_live_is_among_them():
    assert "05_multi_fidelity" in [path.stem for path in TRAINS]
