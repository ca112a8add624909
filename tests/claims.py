"""What the lessons say of methods in general: read out of the prose, so that a test can compute it anew.

A claim is a sentence with numbers in it. In ``test_claims_NN.py`` it stands as a pattern whose groups are the
numbers, with a function that computes them from the recordings.
"""

from __future__ import annotations

import re

import nbformat
import pytest
from notebook_files import NOTEBOOKS, comparison

#: Where a model proposes, the last digit of a logarithm decides, which is not rounded everywhere as where it was recorded.
follows_a_model = pytest.mark.xfail(
    not comparison.SAME_ROUNDING, reason="recorded where logarithms are rounded otherwise", strict=False
)


def lesson_text(name):
    """Return the prose of a lesson, or of its solutions."""
    return _cells(name, "markdown")


def lesson_code(name):
    """Return the code of a lesson, or of its solutions."""
    return _cells(name, "code")


def _cells(name, kind):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


def claimed(lesson, pattern):
    """Return the numbers that a sentence of a lesson names."""
    found = re.search(pattern, lesson_text(lesson))
    assert found, f"{lesson} no longer says {pattern!r}"
    return [float(number) for number in found.groups()]
