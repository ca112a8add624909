"""The minutes that the lessons and the READMEs say: counted and measured, never typed."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from notebook_files import minutes, runner

LESSON = minutes.Minutes(read=25, run=1, exercises=(10, 20, 45))
KNOWN = {"05_multi_fidelity.ipynb": LESSON, "06_comparing_methods.ipynb": minutes.Minutes(30, 2, (15,))}


def test_the_minutes_that_stand_there_are_the_ones_that_the_script_writes() -> None:
    changed = [path.name for path, text in minutes.timed().items() if path.read_text(encoding="utf-8") != text]
    assert changed == [], "run: python notebooks/minutes.py"


def test_a_lesson_has_three_exercises_from_quick_to_long() -> None:
    lessons = minutes.measure()
    assert {name: len(lesson.exercises) for name, lesson in lessons.items()} == dict.fromkeys(lessons, 3)
    assert [name for name, lesson in lessons.items() if list(lesson.exercises) != sorted(lesson.exercises)] == []


def test_every_lesson_runs_in_about_a_minute() -> None:
    at_most = {name: 2 if name.startswith("11") else 1 for name in minutes.measure()}  # lesson 11 starts real jobs
    assert {name: lesson.run for name, lesson in minutes.measure().items() if lesson.run > at_most[name]} == {}


def notebook_of(n_words: int, n_lines: int = 0, n_figures: int = 0) -> nbformat.NotebookNode:
    """A notebook of so much text, code and pictures."""
    figure = nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})
    code = new_code_cell("x = 1\n\n" * n_lines, outputs=[figure] * n_figures)
    return new_notebook(cells=[new_markdown_cell("word " * n_words), code])


READING = [(notebook_of(1), 5), (notebook_of(750), 5), (notebook_of(751), 10)]
READING += [(notebook_of(750, n_lines=75), 10), (notebook_of(750, n_lines=75, n_figures=1), 15)]


@pytest.mark.parametrize(("notebook", "expected"), READING)
def test_reading_takes_time_for_words_lines_of_code_and_figures(notebook: nbformat.NotebookNode, expected: int) -> None:
    assert minutes.minutes_to_read(notebook) == expected


def test_targets_of_links_and_code_in_text_are_not_words() -> None:
    assert minutes.count_words("see [the lesson](05_multi_fidelity.ipynb), <b>TPE</b>") == 4
    assert minutes.prose(new_notebook(cells=[new_markdown_cell("a\n```python\nb = 1\n```\nc")])).split() == ["a", "c"]


def test_a_plan_adds_the_exercises_that_a_row_names_and_sums_each_table() -> None:
    plan = (
        "| what | minutes |\n|---|---|\n"
        "| [05](05_multi_fidelity.ipynb), exercises 1 and 3 | 0 |\n| break | 15 |\n"
        "| [06](06_comparing_methods.ipynb) | 0 |\n| **together** | |\n"
    )
    filled = "".join(minutes.fill_tables(f"{plan}\nBetween.\n\n{plan}", KNOWN))
    assert re.findall(r"(\S+) \|$", filled, re.MULTILINE) == ["minutes", "81", "15", "32", "**128**"] * 2
    assert "".join(minutes.fill_tables(filled, KNOWN)) == filled


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one lesson."""
    (tmp_path / "notebooks").mkdir()
    lesson = new_notebook(cells=[new_markdown_cell("# Tune\n\n**Minutes.** 0 to read, 0 to run.\n\nMore.", id="first")])
    nbformat.write(lesson, tmp_path / "notebooks" / "05_tiny.ipynb")
    for folder in (tmp_path, tmp_path / "notebooks"):
        (folder / "README.md").write_text("# Title\n")
    (tmp_path / "notebooks" / "minutes.csv").write_text("notebook,minutes\n05_tiny,2\n")
    return tmp_path


def test_the_line_in_the_first_cell_is_written(checkout: Path) -> None:
    assert minutes.main(checkout) == 0
    first = nbformat.read(checkout / "notebooks" / "05_tiny.ipynb", as_version=4).cells[0]
    assert first.source == "# Tune\n\n**Minutes.** 5 to read, 2 to run.\n\nMore."


def test_a_lesson_that_was_never_run_or_has_no_such_line_is_named(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkout / "notebooks" / "05_tiny.ipynb"
    path.write_text(path.read_text().replace("**Minutes.**", "Minutes:"))
    assert minutes.main(checkout) == 1
    assert "05_tiny.ipynb needs one line that begins with **Minutes.**; it has 0" in capsys.readouterr().err
    (checkout / "notebooks" / "minutes.csv").write_text("notebook,minutes\n")
    assert minutes.main(checkout) == 1
    assert "minutes.csv lacks 05_tiny" in capsys.readouterr().err


def test_running_is_noted_in_whole_minutes_beside_what_was_noted_before(tmp_path: Path) -> None:
    path = tmp_path / "minutes.csv"
    for name, seconds in [("06", 120.0), ("05", 1.0), ("06", 80.0)]:
        runner.record_minutes(runner.Outcome(name, seconds, None), path)
    assert path.read_text() == "notebook,minutes\n05,1\n06,1\n"
