"""What executes the notebooks and compares them: notebooks/run.py and notebooks/conftest.py."""

import copy
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import nbformat
import psutil
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from notebook_files import NOTEBOOKS, comparison, printing, runner
from PIL import Image


def draw(source: str) -> NotebookNode:
    """A cell that draws a figure by matplotlib."""
    return new_code_cell(f"import matplotlib.pyplot as plt\n{source}\nplt.show()")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with no lessons yet, at a path that is not easy."""
    folder = tmp_path / "a chäckout" / "notebooks"
    folder.mkdir(parents=True)
    for name in ("run.py", "conftest.py", "publish.py", "surroundings.py"):
        shutil.copy(NOTEBOOKS / name, folder)
    return folder.parent


def write(project: Path, name: str, *cells: NotebookNode) -> Path:
    """Write a notebook of these cells, with ids that count up."""
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    path = project / "notebooks" / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def execute(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run notebooks/run.py of `project`, from elsewhere."""
    command = [sys.executable, project / "notebooks" / "run.py", *arguments]
    return subprocess.run(command, cwd=project.parent, capture_output=True, text=True, timeout=120)


def validate(project: Path) -> list[str]:
    """Run the notebooks of `project` by pytest, as the suite does, and return the cells that fail."""
    options = ["-p", "no:cacheprovider", "--nbval", "--nbval-current-env", "-rf"]
    command = [sys.executable, "-m", "pytest", *options, "notebooks"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)
    failed = re.findall(r"^FAILED notebooks/\S+::(Cell \d+)", result.stdout, re.MULTILINE)
    assert result.returncode == bool(failed), result.stdout + result.stderr
    return failed


def test_an_edited_result_a_swapped_or_missing_figure_and_a_warning_fail_the_suite_and_nobody_is_billed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = project / "credentials"
    credentials.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    assert boto3.Session().get_credentials() is not None
    live = new_code_cell("print('test error', 0.05)", metadata={"tags": ["nbval-ignore-output"]})
    path = write(
        project,
        "01_tiny",
        new_code_cell("from tqdm import tqdm\nprint('incumbent', *tqdm([0.0412], leave=False))"),
        draw("plt.plot([1, 2, 3])"),
        draw("plt.plot([3, 1, 2])"),
        draw("plt.plot([1, 1, 2])"),
        live,
        new_code_cell("import boto3\nprint('credentials:', boto3.Session().get_credentials())"),
    )
    conftest = path.with_name("conftest.py")
    ranges = "RANGES = {'01_tiny': {'cell-4': {r'test error (\\S+)': (0.01, 0.1)}}}\n"
    conftest.write_text(conftest.read_text() + ranges)
    assert execute(project, "--write").returncode == 0
    assert validate(project) == []

    notebook = nbformat.read(path, as_version=4)
    edited, drawn, swapped, stripped, live, cloud = notebook.cells
    assert comparison.printed(cloud.outputs) == "credentials: None\n"
    edited.outputs[0].text = edited.outputs[0].text.replace("0.0412", "0.0411")
    swapped.outputs = copy.deepcopy(drawn.outputs)
    stripped.outputs = []
    live.outputs[0].text = "test error 0.5\n"
    notebook.cells.append(
        new_code_cell("import warnings\nwarnings.warn('no')", id="warns", execution_count=7, metadata=live.metadata)
    )
    nbformat.write(notebook, path)
    assert validate(project) == ["Cell 0", "Cell 2", "Cell 3", "Cell 4", "Cell 6"]


@pytest.mark.parametrize(
    ("printed", "problem"),
    [
        ("test error 0.05", None),
        ("test error 0.5", "not within"),
        ("test error nan", "not within"),
        ("nothing", "printed nothing like"),
    ],
)
def test_figures_of_a_live_cell_are_held_to_their_range(
    printed: str, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RANGES", {"05": {"live": {r"test error (\S+)": (0.01, 0.1)}}})
    committed = printing("test error 0.04")
    committed.id = "live"
    found = comparison.find_out_of_range("05", committed, printing(printed).outputs)
    assert (found is None) if problem is None else (problem in found)


def test_an_ignored_cell_without_a_range_is_refused() -> None:
    assert "lacks its id" in comparison.find_out_of_range("05", printing("1"), printing("1").outputs)


def test_a_blank_picture_is_like_no_other() -> None:
    blank, drawn = (io.BytesIO() for _ in range(2))
    Image.new("L", (300, 300), 255).save(blank, "png")
    Image.linear_gradient("L").save(drawn, "png")
    assert comparison.find_unlike([drawn.getvalue()], [drawn.getvalue()]) is None
    assert comparison.find_unlike([drawn.getvalue()], [blank.getvalue()]) is not None


def test_a_failing_notebook_is_named_and_the_others_still_run(project: Path) -> None:
    write(project, "01_fails", new_code_cell("x = 1"), new_code_cell("y = x / 0\nprint(y)"), new_code_cell("print(2)"))
    write(project, "02_dies", new_code_cell("import os\nos._exit(1)"))
    write(project, "03_works", new_markdown_cell("# Title"), draw("plt.plot([1, 2])"), new_markdown_cell("It *rises*."))
    result = execute(project)
    assert result.returncode == 1
    rows = result.stdout.split("result\n")[1].splitlines()
    assert re.fullmatch(r"01_fails +[\d.]+  cell 2: y = x / 0 -> ZeroDivisionError: division by zero", rows[0])
    assert re.fullmatch(r"02_dies +[\d.]+  cell 1: import os -> the kernel died", rows[1])
    assert re.fullmatch(r"03_works +[\d.]+  ok", rows[2])
    assert "03_works: running 1 cells" in result.stdout
    assert result.stdout.startswith(f"Notebooks to run: {len(rows)}, 2 at a time. Their pages go to build/.\n")
    assert result.stderr == ""
    pages = ["01_fails.html", "02_dies.html", "03_works.html"]
    assert sorted(path.name for path in (project / "build").iterdir()) == pages
    page = BeautifulSoup((project / "build" / "03_works.html").read_text(encoding="utf-8"), "html.parser")
    assert [image["alt"] for image in page.find_all("img")] == ["It rises."]
    assert page.title.text == "Title"


def test_written_notebooks_hold_nothing_that_changes_and_failing_ones_are_left_alone(project: Path) -> None:
    timed = new_code_cell("import os, sys\nprint(os.path.basename(os.getcwd()))\nprint('no', file=sys.stderr)\n1 + 1")
    timed.metadata.update({"execution": {"iopub.execute_input": "now"}, "collapsed": True})
    good = write(project, "01_good", timed, draw("plt.plot([1, 2])"))
    bad = write(project, "02_bad", new_code_cell("print(1)"), new_code_cell("1 / 0"))
    before = bad.read_bytes()
    assert execute(project, "--write").returncode == 1
    assert bad.read_bytes() == before
    first = nbformat.read(good, as_version=4).cells[0]
    assert comparison.printed(first.outputs) == "notebooks\n\n2"
    assert first.metadata == {} and first.id == "cell-0"
    assert list(good.parent.glob("*.draft")) == []


def test_lessons_are_chosen_by_the_beginning_of_their_name(tmp_path: Path) -> None:
    (tmp_path / "solutions").mkdir()
    for name in ("05_b", "04_a", "solutions/05_b_solutions"):
        (tmp_path / f"{name}.ipynb").touch()

    def names(*beginnings: str) -> list[str]:
        return [path.stem for path in runner.find_notebooks(beginnings, tmp_path)]

    assert names() == ["04_a", "05_b"]
    assert names("05") == ["05_b", "05_b_solutions"]
    assert names("solutions") == ["05_b_solutions"]
    assert names("solutions", "04") == ["04_a", "05_b_solutions"]
    assert names("notebooks/04_a.ipynb") == ["04_a"]
    with pytest.raises(ValueError, match=r"'06'; there are: 04_a, 05_b, 05_b_solutions"):
        runner.find_notebooks(["06"], tmp_path)


def test_links_between_lessons_lead_to_pages() -> None:
    cell = new_markdown_cell("[a](solutions/05.ipynb#b) [b](../04.ipynb) [c](https://x.org/a.ipynb) [d](#e)")
    page = BeautifulSoup(runner.to_html(new_notebook(cells=[cell])), "html.parser")
    links = [link["href"] for link in page.find_all("a")]
    assert links == ["solutions/05.html#b", "../04.html", "https://x.org/a.ipynb", "#e"]


def test_html_in_text_keeps_what_it_holds() -> None:
    cell = new_markdown_cell("*n*<sub>0</sub> <details><summary>q</summary>\n\nanswer\n</details>")
    page = BeautifulSoup(runner.to_html(new_notebook(cells=[cell])), "html.parser")
    assert page.find("sub").text == "0"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_kernel_too(project: Path, number: signal.Signals) -> None:
    write(
        project, "01_waits", new_code_cell("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    )
    process = subprocess.Popen([sys.executable, "notebooks/run.py"], cwd=project, stderr=subprocess.PIPE, text=True)
    kernel = psutil.Process(int(wait_for(project / "notebooks" / "pid")))
    os.kill(process.pid, number)
    assert "interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert not kernel.is_running()


def wait_for(path: Path) -> str:
    """Return what a file holds, once it holds something."""
    while not (path.exists() and path.read_text()):
        time.sleep(0.05)
    return path.read_text()


def test_what_a_run_will_take_is_said_by_the_minutes_that_were_noted() -> None:
    assert runner.foresee(runner.find_notebooks(["01"]), 1).count("about 1 min") == 0  # its solutions were not timed
    thirteen = runner.foresee(runner.find_notebooks(), 2)
    assert re.fullmatch(r"Notebooks to run: 13, 2 at a time, about [5-9] min on two quiet cores\. .+", thirteen)
