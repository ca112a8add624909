"""What is asked of a notebook's cell beyond nbval's strict comparison of its text.

nbval never compares pictures, and looks at nothing in a cell tagged ``nbval-ignore-output``. So, after nbval
has run a cell: it drew as many pictures as are committed; each of them looks like the committed one; nothing
went to stderr; and where a cell is ignored, because it trains live, its figures lie in their range.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator, Sequence
from unittest import mock

import matplotlib.font_manager  # noqa: F401  (builds the font cache, else the first lesson to plot may warn of it)
import numpy as np
import pytest
from nbformat import NotebookNode
from nbval.plugin import IPyNbCell
from PIL import Image
from surroundings import leave_clouds

#: Where the printed figures of live cells must lie, ends included: the notebook's name -> the ignored cell's
#: id -> a pattern with one group -> the range of all that it finds. Every ignored cell needs a pattern.
RANGES: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "01_problem_definition": {
        "live-result": {
            r"Learning rate 0\.1: ([\d.]+)% wrong": (1.5, 8),
            r"Learning rate 0\.001: ([\d.]+)% wrong": (30, 80),
        }
    },
    "05_multi_fidelity": {
        "live-result": {
            r"(\d+) trials took": (1, 500),
            r"Trained for all 9 epochs: (\d+)": (0, 200),
            r"Validation error of the incumbent: ([\d.]+)%": (0.5, 15),
        },
        "refit-result": {
            r"Test error over 4 seeds: ([\d.]+)%": (1.5, 15),
            r"standard error ([\d.]+)%": (0, 3),
            r"Validation error that tuning reported: ([\d.]+)%": (0.5, 15),
        },
    },
    "05_multi_fidelity_solutions": {
        "linear-result": {r"trials took (\d+) epochs": (5, 2000), r"Best validation error: ([\d.]+)%": (5, 30)}
    },
    "08_cross_validation": {"dashboard": {r"http://127\.0\.0\.1:(\d+)/dashboard": (1, 65535)}},
    "09_constraints_and_cost": {
        "latency-result": {r"support vectors: ([\d.]+) ms": (0.5, 500)},
        "latency-study-result": {
            r"(\d+) of 12 trials are feasible": (1, 12),
            r"the best has an error of ([\d.]+)%": (2, 15),
        },
    },
    "10_parallel_and_distributed": {
        "places-result": {
            r"best validation error ([\d.]+)%": (1, 60),
            r"after ([\d.]+) s of its clock": (0.1, 300),
        }
    },
    "11_sagemaker_jobs": {
        "random-result": {r"Best of the 6 jobs: .*, validation error ([\d.]+)%": (4, 30)},
        "cost-result": {
            r"(\d+) of the \d+ jobs of the study were stopped": (1, 40),
            r"of the (\d+) jobs of the study were stopped": (2, 40),
            r"study ([\d.]+)%": (0.5, 70),
            r"(?:random search|tuning job) ([\d.]+)%": (3, 60),
            r"Billed: (\d+) seconds": (20, 2000),
        },
    },
    "11_sagemaker_jobs_solutions": {
        "grid-result": {r"validation error ([\d.]+)%": (2, 30)},
        "linear-result": {r"8 trials took (\d+) epochs": (8, 72), r"Best validation error: ([\d.]+)%": (4, 20)},
    },
    "12_azure_sweeps": {
        "azure-live": {
            r"(\d+) child runs": (2, 6),
            r"(\d+) canceled": (0, 5),
            r"Best validation error: ([\d.]+)%": (1, 30),
        }
    },
    "13_your_own_project": {
        "network-result": {r"(\d+) trials": (1, 500), r"validation error of the incumbent ([\d.]+)%": (1, 90)}
    },
}

#: Correlation of two pictures, shrunk, below which they are not the same. Two plots of one kind with other
#: data have less than 0.7; another width or label gives 0.97 and more.
LIKENESS = 0.95


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Start kernels, which the setup of a notebook's first cell does, as `make run` starts them."""
    with mock.patch.dict(os.environ, TQDM_DISABLE="1"):
        leave_clouds(os.environ)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Check what nbval does not, once it has run a cell."""
    yield
    if not isinstance(item, IPyNbCell) or item.test_outputs is None:
        return
    problem = (
        find_problem(item.cell, item.test_outputs, item.path.stem)
        or find_bad_count(item.cell, item.test_outputs)
        or find_other_picture(item.cell, item.test_outputs)
    )
    if problem:
        item.raise_cell_error(problem, "")


def find_problem(cell: NotebookNode, outputs: Sequence[NotebookNode], name: str) -> str | None:
    """Say what is wrong with a cell that was committed as `cell` and now gave `outputs`."""
    if any(output.get("name") == "stderr" for output in outputs):
        return "it wrote to stderr"
    return find_out_of_range(name, cell, outputs) if is_ignored(cell) else None


def find_other_picture(cell: NotebookNode, outputs: Sequence[NotebookNode]) -> str | None:
    """Compare the pictures of a cell, unless it is ignored."""
    return None if is_ignored(cell) else find_unlike(pictures(cell.outputs), pictures(outputs))


def is_ignored(cell: NotebookNode) -> bool:
    """Whether a cell's outputs may change from run to run."""
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


def pictures(outputs: Sequence[NotebookNode]) -> list[bytes]:
    """Return the PNG pictures among outputs."""
    encoded = [output.get("data", {}).get("image/png") for output in outputs]
    return [base64.b64decode(picture) for picture in encoded if picture]


def printed(outputs: Sequence[NotebookNode]) -> str:
    """Return the text among outputs."""
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def find_bad_count(cell: NotebookNode, outputs: Sequence[NotebookNode]) -> str | None:
    """Compare the numbers of pictures."""
    committed, drawn = len(pictures(cell.outputs)), len(pictures(outputs))
    return f"it draws {drawn} pictures, {committed} are committed" if committed != drawn else None


def find_unlike(committed: Sequence[bytes], drawn: Sequence[bytes]) -> str | None:
    """Compare pictures one by one."""
    for number, pair in enumerate(zip(committed, drawn, strict=True), start=1):
        likeness = correlation(*pair)
        if not likeness >= LIKENESS:
            return f"picture {number} is not the committed one: their correlation is {likeness:.2f}"
    return None


def correlation(one: bytes, other: bytes) -> float:
    """Return the correlation of two pictures, pixel by pixel."""
    pixels = [shrink(picture).ravel() for picture in (one, other)]
    with np.errstate(invalid="ignore"):  # a blank picture correlates with nothing: NaN
        return float(np.corrcoef(*pixels)[0, 1])


def shrink(picture: bytes) -> np.ndarray:
    """Return a picture in grey, of shape (64, 64)."""
    grey = Image.open(io.BytesIO(picture)).convert("L")
    return np.asarray(grey.resize((64, 64), Image.Resampling.BOX), dtype=float)


def find_out_of_range(name: str, cell: NotebookNode, outputs: Sequence[NotebookNode]) -> str | None:
    """Hold the figures that a live cell printed, and those committed, against `RANGES`."""
    ranges = RANGES.get(name, {}).get(cell.get("id"), {})
    if not ranges:
        return f"it is ignored, and RANGES in notebooks/conftest.py lacks its id, {cell.get('id')!r}"
    for pattern, (low, high) in ranges.items():
        for text in (printed(cell.outputs), printed(outputs)):
            found = [float(figure) for figure in re.findall(pattern, text)]
            if not found:
                return f"it printed nothing like {pattern!r}"
            if not all(low <= figure <= high for figure in found):
                return f"{pattern!r} found {found}, which is not within {low} and {high}"
    return None
