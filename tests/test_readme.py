"""README.md and notebooks/README.md: lessons, links, picture and glossary."""

import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from notebook_files import LESSONS, NOTEBOOKS, comparison, load, minutes

PAGES = [NOTEBOOKS.parent / "README.md", NOTEBOOKS / "README.md"]


def test_both_readmes_list_every_lesson_with_its_minutes() -> None:
    for page, link in (("../README.md", "notebooks/{}"), ("README.md", "{}")):
        text = (NOTEBOOKS / page).read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("|")]
        for path in LESSONS:
            assert any(f"({link.format(path.name)})" in row for row in rows), f"{page} lacks {path.name}"


def test_the_map_says_which_lessons_train() -> None:
    rows = (NOTEBOOKS / "README.md").read_text(encoding="utf-8").splitlines()
    for path in LESSONS:
        (row,) = [row for row in rows if f"({path.name})" in row and row.count("|") == 8]
        trains = re.search("HAS_MXNET|find_train", path.read_text(encoding="utf-8")) is not None
        assert (row.split("|")[4].strip() != "no") == trains, path.stem


@pytest.mark.parametrize("page", PAGES, ids=["README.md", "notebooks/README.md"])
def test_links_to_files_and_to_headings_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {f"#{heading.lower().replace(' ', '-')}" for heading in re.findall(r"^#+ (.+)", text, re.MULTILINE)}
    targets = re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text)
    lost = [target for target in targets if target not in headings and not (page.parent / target).exists()]
    assert targets and lost == []


def test_the_picture_is_what_its_script_draws_from_the_recordings() -> None:
    drawn = io.BytesIO()
    picture = load(NOTEBOOKS / "picture.py")
    with plt.style.context("hpo_helpers.lessons"):
        picture.draw().savefig(drawn, dpi=100)
    committed = picture.PICTURE.read_bytes()
    assert comparison.find_unlike([committed], [drawn.getvalue()]) is None, "run: python notebooks/picture.py"
    assert len(committed) < 200_000


def glossary() -> list[str]:
    """Return the terms of the glossary."""
    text = (NOTEBOOKS / "README.md").read_text(encoding="utf-8").partition("## Glossary")[2]
    return re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)


def test_the_glossary_is_in_order_and_every_term_is_used_in_a_lesson() -> None:
    terms = glossary()
    assert len(terms) > 20 and terms == sorted(terms, key=str.lower)
    used = "\n".join(minutes.prose(nbformat.read(path, as_version=4)).lower() for path in LESSONS)
    unused = [term for term in terms if not re.search(rf"\b{re.escape(term.lower())}", used.replace("*", ""))]
    assert unused == []
