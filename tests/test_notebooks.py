"""The notebooks as they are committed.

That each cell still prints what it printed is not tested here: pytest collects the notebooks themselves, by
nbval, with what notebooks/conftest.py adds.
"""

import functools
import io
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from notebook_files import LESSONS, SOLUTIONS, comparison, minutes, printing, publisher, runner
from PIL import Image

#: Lessons that may have more words than the others.
LONG_LESSONS = ("04", "05", "06")

#: What no committed output may hold, because it is of one machine or one run.
TRACES = {
    "a path of a machine": r"/(home|root|tmp|Users|work|opt|private|var|usr)/|[A-Z]:\\|site-packages",
    "the file of a kernel": r"ipykernel_\d+",
    "an address in memory": r"0x[0-9a-f]{6,}",
    "a package index": r"pypi|pythonhosted|index.url|/simple/",
}


every_notebook = pytest.mark.parametrize("path", [*LESSONS, *SOLUTIONS], ids=lambda path: path.stem)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def test_every_lesson_has_solutions_and_the_other_way_round() -> None:
    assert [f"{path.stem}_solutions" for path in LESSONS] == [path.stem for path in SOLUTIONS] != []


@every_notebook
def test_committed_outputs_come_from_one_run_in_order(path: Path) -> None:
    assert find_faults(nbformat.read(path, as_version=4)) == []


@every_notebook
def test_a_notebook_is_committed_as_make_outputs_writes_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    runner.normalise(notebook)
    assert path.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n"


@every_notebook
def test_code_cells_are_short_and_few_are_ignored_by_tag_alone(path: Path) -> None:
    cells = runner.code_cells(nbformat.read(path, as_version=4))
    assert [cell.source for cell in cells if len(cell.source.splitlines()) > 20] == []
    assert sum(comparison.is_ignored(cell) for cell in cells) <= 2
    assert {tag for cell in cells for tag in cell.metadata.get("tags", [])} <= {"nbval-ignore-output"}
    assert [cell.source for cell in cells if re.search(r"#\s*(NBVAL_|PYTEST_VALIDATE)", cell.source)] == []


@every_notebook
def test_cells_that_draw_hold_a_picture_large_enough_to_read_and_a_sentence_follows(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = runner.code_cells(notebook)
    assert [cell.source for cell in cells if draws(cell.source) and not comparison.pictures(cell.outputs)] == []
    widths = [Image.open(io.BytesIO(picture)).width for cell in cells for picture in comparison.pictures(cell.outputs)]
    assert all(width >= 300 for width in widths)
    pairs = zip(notebook.cells, [*notebook.cells[1:], None], strict=True)
    after = [then for cell, then in pairs if cell.cell_type == "code" and comparison.pictures(cell.outputs)]
    assert all(cell and cell.cell_type == "markdown" and not cell.source.startswith("#") for cell in after)


@every_notebook
def test_links_to_files_lead_somewhere(path: Path) -> None:
    text = minutes.prose(nbformat.read(path, as_version=4))
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    assert [target for target in targets if not (path.parent / target).exists()] == []


@every_notebook
def test_headings_begin_with_one_title_and_leave_out_no_level(path: Path) -> None:
    levels = [
        len(marks) for marks in re.findall(r"^(#+) ", minutes.prose(nbformat.read(path, as_version=4)), re.MULTILINE)
    ]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(level <= before + 1 for before, level in zip(levels, levels[1:], strict=False))


@every_lesson
def test_a_lesson_has_its_parts(path: Path) -> None:
    text = minutes.prose(nbformat.read(path, as_version=4))
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    parts = ["In your own project", "Check yourself", "Your turn", "Sources"]
    assert [part for part in parts if not any(heading.startswith(part) for heading in headings)] == []
    assert "<details>" in text, "answers are folded"


@functools.cache
def page_of(path: Path) -> BeautifulSoup:
    """Return the page that `make run` leaves of a notebook."""
    return BeautifulSoup(runner.to_html(nbformat.read(path, as_version=4)), "html.parser")


@every_notebook
def test_every_figure_of_the_page_has_an_alternative_text_that_says_what_to_see(path: Path) -> None:
    cells = runner.code_cells(nbformat.read(path, as_version=4))
    n_figures = sum(len(comparison.pictures(cell.outputs)) for cell in cells)
    texts = [image.get("alt", "") for image in page_of(path).select(".output_png img")]
    assert len(texts) == n_figures
    assert [text for text in texts if len(text.split()) < 5 or text.startswith("No description")] == []
    assert all(image.get("alt") for image in page_of(path).find_all("img")), "the badge, for one"


@every_notebook
def test_answers_are_folded_in_the_page(path: Path) -> None:
    page = page_of(path)
    answers = [details.get_text().removeprefix(details.summary.get_text()) for details in page.find_all("details")]
    assert [answer for answer in answers if not answer.strip()] == []


@every_lesson
def test_a_lesson_is_of_readable_length(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    longest = 2600 if path.stem.startswith(LONG_LESSONS) else 1900
    assert 1100 <= minutes.count_words(minutes.prose(notebook)) <= longest
    n_text = sum(cell.cell_type == "markdown" for cell in notebook.cells)
    assert 0.7 <= n_text / len(runner.code_cells(notebook)) <= 1.6


@every_notebook
def test_a_notebook_begins_with_the_setup_cell_which_installs_the_extra_that_it_needs(path: Path) -> None:
    setup = runner.code_cells(nbformat.read(path, as_version=4))[0]
    assert setup.source == publisher.setup_cell(path.stem, publisher.read_repository())
    extra = publisher.EXTRAS.get(path.stem[:2])
    assert (f'"hpo_helpers[{extra}] @ ' if extra else '"hpo_helpers @ ') in setup.source


def find_faults(notebook: NotebookNode) -> list[str]:
    """Say what is wrong with the outputs of a notebook."""
    cells = runner.code_cells(notebook)
    outputs = [output for cell in cells for output in cell.outputs]
    faults = []
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        faults.append("not executed once, in order, from a fresh kernel")
    if len(cells) != sum(cell.cell_type == "code" for cell in notebook.cells):
        faults.append("a code cell is empty")
    if any(output.output_type == "error" for output in outputs):
        faults.append("an error")
    if any(output.get("name") == "stderr" for output in outputs):
        faults.append("something written to stderr")
    text = "\n".join(every_text(output) for output in outputs)
    return faults + [what for what, pattern in TRACES.items() if re.search(pattern, text)]


def every_text(output: NotebookNode) -> str:
    """Return the text of an output, in whatever formats."""
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    return "\n".join(map(str, [output.get("text", ""), *data.values()]))


def draws(source: str) -> bool:
    """Whether a cell draws, by the names that the lessons use."""
    return bool(re.search(r"^plt\.show\(|^(\w+ = )?plot_\w+\(", source, re.MULTILINE))


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ([printing("a", 2)], "not executed once, in order, from a fresh kernel"),
        ([new_code_cell("1")], "not executed once, in order, from a fresh kernel"),
        ([printing("/home/ann/x")], "a path of a machine"),
        ([printing(r"C:\x")], "a path of a machine"),
        ([printing(f"/x/ipykernel_{12}/3.py")], "the file of a kernel"),
        ([printing("<f at 0x7f00aa11>")], "an address in memory"),
        ([printing("Looking in indexes: https://pypi.org/simple")], "a package index"),
        ([printing("a"), new_code_cell("")], "a code cell is empty"),
    ],
)
def test_a_faulty_notebook_is_found(cells: list[NotebookNode], fault: str) -> None:
    assert find_faults(new_notebook(cells=cells)) == [fault]


def test_errors_and_warnings_are_found() -> None:
    cell = printing("a")
    cell.outputs[0].name = "stderr"
    cell.outputs.append(nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[]))
    assert find_faults(new_notebook(cells=[cell])) == ["an error", "something written to stderr"]
