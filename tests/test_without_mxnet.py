"""Half a classroom has Windows or Apple silicon: there every lesson runs to its end, on what was recorded."""

import asyncio
import os
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


TRAINS = [path for path in LESSONS if "HAS_MXNET" in code_of(path)]


async def execute(notebook, path):
    return await runner.execute(notebook, path.stem, path.parent, asyncio.current_task())


@pytest.mark.parametrize("path", TRAINS, ids=lambda path: path.stem)
def test_a_lesson_that_trains_runs_to_its_end_without_mxnet_and_says_so(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, new_code_cell('import sys\nsys.modules["mxnet"] = None  # as if it were not installed'))
    with mock.patch.dict(os.environ):
        leave_clouds(os.environ)
        outcome = asyncio.run(execute(notebook, path))
    assert outcome.failure is None
    said = "\n".join(comparison.printed(cell.outputs) for cell in runner.code_cells(notebook))
    assert "MXNet is not installed here" in said


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_other_lesson_needs_none(path):
    code = code_of(path)
    assert "HAS_MXNET" in code or not any(name in code for name in TRAINING)


def test_the_lesson_that_trains_live_is_among_them():
    assert "05_multi_fidelity" in [path.stem for path in TRAINS]
