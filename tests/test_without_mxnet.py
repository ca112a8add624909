"""Half a classroom has Windows or Apple silicon: there every lesson runs to its end, on what was recorded."""

from __future__ import annotations

import asyncio
import os
from unittest import mock

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from notebook_files import LESSONS, comparison, runner
from surroundings import leave_clouds


@pytest.fixture(autouse=True)
def out_of_any_clouds_reach():
    with mock.patch.dict(os.environ):
        leave_clouds(os.environ)
        yield


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_to_its_end_without_mxnet_and_says_so_where_it_would_train(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, new_code_cell('import sys\nsys.modules["mxnet"] = None  # as if it were not installed'))
    outcome = asyncio.run(runner.execute(notebook, path.stem, path.parent))
    assert outcome.failure is None
    said = "\n".join(comparison.printed(cell.outputs) for cell in runner.code_cells(notebook))
    trains = any("HAS_MXNET" in cell.source for cell in runner.code_cells(notebook))
    assert ("MXNet is not installed here" in said) == trains


def test_the_lesson_that_trains_live_is_among_them():
    assert any("HAS_MXNET" in path.read_text(encoding="utf-8") for path in LESSONS)
