"""The lines that a reader takes along run anywhere: in an empty folder, with nothing of this course."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from notebook_files import LESSONS, runner

#: Runs the script as `python own_project.py` would, as if this course were not installed.
RUN = """
import runpy, sys
sys.modules["hpo_helpers"] = None
runpy.run_path("own_project.py", run_name="__main__")
"""

every_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def to_copy(path: Path) -> list[str]:
    """Return the cells that have the id ``own-project``, or ``own-project-2`` and so on."""
    cells = runner.code_cells(nbformat.read(path, as_version=4))
    return [cell.source for cell in cells if cell.id.startswith("own-project")]


@every_lesson
def test_every_cell_below_in_your_own_project_is_known_by_its_id(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    texts = {"In your own project": 0, "Check yourself": 0}
    for number, cell in enumerate(cells):
        texts |= {text: number for text in texts if cell.cell_type == "markdown" and f"## {text}" in cell.source}
    between = cells[slice(*texts.values())]
    assert [cell.source for cell in between if cell.cell_type == "code"] == to_copy(path) != []


@every_lesson
def test_the_cells_run_as_a_script_in_an_empty_folder(path: Path, tmp_path: Path) -> None:
    code = "\n\n".join(to_copy(path)).replace("range(20)", "range(6)")  # fewer seeds: do they run?
    (tmp_path / "own_project.py").write_text(f"{code}\n", encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout or (set(tmp_path.iterdir()) - {tmp_path / "own_project.py"}), "it shows nothing"
