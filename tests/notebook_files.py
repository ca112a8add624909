"""Where the notebooks are, and the modules that lie beside them in no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))
SOLUTIONS = sorted(NOTEBOOKS.glob("solutions/*.ipynb"))


def printing(text: str, number: int = 1) -> nbformat.NotebookNode:
    """A code cell that printed `text`."""
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    return nbformat.v4.new_code_cell("print(...)", execution_count=number, outputs=[output])


def load(path: Path) -> ModuleType:
    """Import a file that is part of no package."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.append(str(NOTEBOOKS))  # where these files find each other
runner = load(NOTEBOOKS / "run.py")
comparison = load(NOTEBOOKS / "conftest.py")
minutes = load(NOTEBOOKS / "minutes.py")
publisher = load(NOTEBOOKS / "publish.py")
