"""What the lessons say of methods in general: read out of the prose, so that a test can compute it anew.

A claim is a sentence with numbers in it. In ``test_claims_NN.py`` it stands as a pattern whose groups are the
numbers, with a function that computes them from the recordings.
"""

import re

import nbformat
from notebook_files import NOTEBOOKS, publisher

from hpo_helpers.curves import NoisyCurves, cnn_curves


def ends(configurations):
    """Return the last metrics of each configuration's curve, without noise."""
    return [cnn_curves()(params)[-1] for params in configurations]


def noisy_ends(configurations, seeds):
    """Return the last metrics of each configuration's curve, each disturbed by a seed."""
    return [NoisyCurves(seed)(params)[-1] for params, seed in zip(configurations, seeds, strict=True)]


def drawn(sampler, space):
    """Return what a study with this sampler would suggest, without the study, which takes its time."""
    return {name: sampler.sample_independent(None, None, name, space[name]) for name in space}


def lesson_text(name):
    """Return the prose of a lesson, or of its solutions."""
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def code_cells(name):
    """Return the code cells of a lesson, or of its solutions, by their ids."""
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    return {cell.id: cell for cell in cells if cell.cell_type == "code"}


def lesson_code(name):
    """Return the code of a lesson, or of its solutions."""
    return "\n\n".join(cell.source for cell in code_cells(name).values())


def define(name, names):
    """Run the functions and classes that a lesson writes out, as they stand in its cells."""
    for number, cell in code_cells(name).items():
        if number != publisher.SETUP_CELL_ID and "own-project" not in number:
            for part in cell.source.split("\n\n\n"):
                if part.startswith(("def ", "class ", "seconds = ")):
                    exec(part, names)


def claimed(lesson, pattern):
    """Return the numbers that a sentence of a lesson names."""
    found = re.search(pattern, lesson_text(lesson))
    assert found, f"{lesson} no longer says {pattern!r}"
    return [float(number) for number in found.groups()]
