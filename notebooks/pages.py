"""Build the course as a static site under ``build/site``: ``make site``, with no network and no kernel.

The lessons are shown with the outputs that are committed, the READMEs and every file that a page links to as pages
beside them, and the docstrings of what the lessons import. Folders and names are those of the repository, so that a
link which works on GitHub works here. nbconvert turns cells into HTML, ``theme/`` frames them, pagefind makes the
index that the search box reads.
"""

from __future__ import annotations

import functools
import html
import importlib
import inspect
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
import nbformat
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rendering import render_code, render_text
from slides import cut

ROOT = Path(__file__).resolve().parents[1]
THEME = Path(__file__).parent / "theme"
SITE = ROOT / "build" / "site"
FRAMES = jinja2.Environment(loader=jinja2.FileSystemLoader(THEME), trim_blocks=True)

#: The pages to begin with; whatever they link to follows.
FIRST = ["README.md", "notebooks/README.md", "data/README.md", "benchmarks/README.md", "hpo_helpers/README.md"]
#: What the head of every page links to.
MENU = {
    "Lessons": "README.md#lessons",
    "Map": "notebooks/README.md",
    "Glossary": "notebooks/README.md#glossary",
    "Data": "data/README.md",
    "API": "hpo_helpers/README.md",
    "Install": "README.md#install",
}


def find_lessons(folder: str = "notebooks") -> list[str]:
    """Return the notebooks of a folder, in order."""
    return [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / folder).glob("*.ipynb"))]


def address(path: str) -> str:
    """Return where in the site a file of the repository is shown: the page of a text, or else the file itself."""
    folder, name = posixpath.split(path)
    stem, kind = posixpath.splitext(name)
    if kind in (".png", ".svg", ".gz", ".npz"):
        return path
    name = "index" if stem == "README" else stem if kind in (".ipynb", ".md") else name
    return posixpath.join(folder, f"{name}.html")


def link(to: str, page: str) -> str:
    """Return the relative link to a file of the repository, and maybe a heading in it, from the page of another."""
    path, mark, anchor = to.partition("#")
    return posixpath.relpath(address(path), posixpath.dirname(address(page)) or ".") + mark + anchor


def read(path: str) -> NotebookNode:
    """Return a file as a notebook, whatever it is."""
    if path.endswith(".ipynb"):
        return nbformat.read(ROOT / path, as_version=4)
    text = describe_package() if path == "hpo_helpers/README.md" else (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return new_notebook(cells=[new_markdown_cell(text)])
    shown = new_code_cell(text) if path.endswith(".py") else new_markdown_cell(f"<pre>{html.escape(text)}</pre>")
    return new_notebook(cells=[new_markdown_cell(f"# {posixpath.basename(path)}"), shown])


def describe_package() -> str:
    """Return, in Markdown, the docstrings of every module that a lesson imports."""
    cells = [cell for path in find_lessons() for cell in read(path).cells if cell.cell_type == "code"]
    names = {name for cell in cells for name in re.findall(r"^from (hpo_helpers\.[\w.]+) import", cell.source, re.M)}
    text = "# What the lessons import\n\nThe package holds data, plumbing and pictures; methods stand in the lessons."
    for name in sorted(names):
        module = importlib.import_module(name)
        text += f"\n\n## {name}\n\n{inspect.getdoc(module)}"
        for key, value in sorted(vars(module).items()):
            home = getattr(value, "__module__", None) or ""
            is_ours = home.startswith(name) and not key.startswith("_") and inspect.getdoc(value)
            if callable(value) and is_ours and not (inspect.isclass(value) and issubclass(value, Exception)):
                signature = f"```python\n{key}{inspect.signature(value)}\n```"
                text += f"\n\n### {key}\n\n{signature}\n\n{inspect.getdoc(value)}"
    # numpydoc's sections, its lists and its blocks of code, in Markdown.
    text = re.sub(r"^(\w+)\n-{3,}$", r"**\1**\n", text, flags=re.M)
    text = re.sub(r"^(\w[\w ,.*\[\]]*)\n {4}(?=\S)", r"- **\1**: ", text, flags=re.M)
    return text.replace("::\n", ":\n")


def build_page(path: str) -> tuple[str, set[str]]:
    """Return the page of a file, and the files it links to."""
    notebook = read(path)
    # Code is put in last, where a comment holds its place: parsing its colours takes longer than all the rest.
    is_text = [cell.cell_type == "markdown" for cell in notebook.cells]
    texts = [render_text(notebook.cells[n].source) if text else f"<!--{n}-->" for n, text in enumerate(is_text)]
    body = BeautifulSoup("\n".join(texts), "html.parser")
    mark_headings(body)
    tidy(body)
    linked = set(follow_links(body, path))
    if path == "README.md":
        make_front(body)
    if path in find_lessons():
        slides = body.new_tag("a", attrs={"class": "badge", "href": name_slides(path)}, string="Slides")
        body.select_one(".badge").insert_after(" ", slides)
    whole = re.sub(r"<!--(\d+)-->", lambda found: render_code(notebook.cells[int(found[1])]), str(body))
    folder = posixpath.dirname(path) if path.endswith(".ipynb") else ""
    shelf = [None, *(find_lessons(folder) if folder else [path]), None]
    place = shelf.index(path)
    page = FRAMES.get_template("page.html.j2").render(
        path=path,
        shelf=folder,
        title=body.h1.get_text(),
        body=whole,
        contents=body.find_all(["h2", "h3"], id=True),
        menu=MENU,
        link=functools.partial(link, page=path),
        root=posixpath.relpath(".", posixpath.dirname(address(path)) or "."),
        before=shelf[place - 1],
        after=shelf[place + 1],
        title_of=title_of,
    )
    return page, linked


@functools.cache
def title_of(path: str) -> str:
    """Return the title of a notebook, led by its number."""
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    return f"{posixpath.basename(path)[:2]} {re.search(r'^# (.+)', text, re.M)[1]}"


def name_slides(path: str) -> str:
    """Return the file name of a lesson's slides."""
    return posixpath.basename(path).replace(".ipynb", "-slides.html")


def build_slides(path: str) -> str:
    """Return the slides of a lesson, which lie beside its page."""
    cells = read(path).cells
    parts = [BeautifulSoup(render_text(c.source), "html.parser") if c.cell_type == "markdown" else c for c in cells]
    for part in [part for part in parts if isinstance(part, BeautifulSoup)]:
        tidy(part)
        list(follow_links(part, path))
    lesson = posixpath.basename(address(path))
    root = posixpath.relpath(".", posixpath.dirname(path))
    return FRAMES.get_template("slides.html.j2").render(
        slides=cut(parts), title=title_of(path), lesson=lesson, root=root
    )


def mark_headings(body: BeautifulSoup) -> None:
    """Give every heading a name to link to, as GitHub makes it, and the link."""
    taken: set[str] = set()
    for heading in body.find_all(re.compile("^h[1-6]$")):
        slug = name = re.sub(r"[^\w\- ]", "", heading.get_text().lower()).strip().replace(" ", "-")
        while name in taken:
            name += "-1"
        taken.add(name)
        heading["id"] = name
        mark = body.new_tag("a", attrs={"class": "anchor", "href": f"#{name}", "aria-label": f"Link to {slug}"})
        heading.append(mark)


def tidy(body: BeautifulSoup) -> None:
    """Let wide things scroll in their own box, and leave pictures of other hosts out."""
    for table in body.find_all("table"):
        table.wrap(body.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    for cell in body.select("th:empty"):
        cell.name = "td"  # a head that says nothing
    for block in body.find_all("pre"):
        block["tabindex"] = "0"
    for image in body.find_all("img"):
        if urlsplit(image["src"]).netloc:  # a badge
            image.parent["class"] = "badge"
            image.replace_with(image.get("alt", ""))


def follow_links(body: BeautifulSoup, path: str) -> Iterator[str]:
    """Let links to files of the repository lead to their pages; name these files."""
    for tag in body.find_all(["a", "img"]):
        key = "href" if tag.name == "a" else "src"
        to = urlsplit(tag.get(key, ""))
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), to.path))
        file = posixpath.join(file, "README.md") if (ROOT / file).is_dir() else file
        if to.path and not to.scheme and (ROOT / file).is_file():
            tag[key] = link(file + (f"#{to.fragment}" if to.fragment else ""), path)
            yield file


def make_front(body: BeautifulSoup) -> None:
    """Turn the beginning of the README into what fills the first screen, and its table of lessons into cards."""
    table = body.find(class_="scroll")
    hero = body.new_tag("div", attrs={"class": "hero"})
    opening = list(table.find_previous_siblings())[::-1]
    opening[0].insert_before(hero)
    hero.extend(opening)
    hero.img.parent["tabindex"] = "0"
    begin = f'<p class="begin"><a href="{link(find_lessons()[0], "README.md")}">Begin with lesson 01</a>'
    begin += f'<a href="{link("notebooks/README.md", "README.md")}">Map and glossary</a></p>'
    hero.p.insert_after(BeautifulSoup(begin, "html.parser"))
    for badge in hero.select("p:has(> .badge)"):
        badge.decompose()
    cards = "".join(
        f'<div class="card"><h2>{name.decode_contents()}</h2><p>{what.decode_contents()}</p><p class="note">'
        f"<span>{reading.text} min to read, {running.text} to run</span>{colab.a}</p></div>"
        for name, what, reading, running, colab in (row.find_all("td") for row in table.find_all("tr")[1:])
    )
    table.replace_with(BeautifulSoup(f'<div class="cards" id="lessons">{cards}</div>', "html.parser"))


def build(site: Path = SITE) -> int:
    """Build the site anew, search index included, and return the number of its pages."""
    shutil.rmtree(site, ignore_errors=True)
    waiting, done = {*FIRST, *find_lessons(), *find_lessons("notebooks/solutions")}, set()
    while waiting:
        path = waiting.pop()
        done.add(path)
        target = site / address(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if address(path) == path:
            shutil.copy(ROOT / path, target)
            continue
        page, linked = build_page(path)
        target.write_text(page, encoding="utf-8")
        waiting |= linked - done
        if path in find_lessons():
            target.with_name(name_slides(path)).write_text(build_slides(path), encoding="utf-8")
    for sheet in THEME.glob("*.css"):
        shutil.copy(sheet, site)
    subprocess.run([sys.executable, "-m", "pagefind", "--site", site, "--quiet"], check=True)
    return len(done)


if __name__ == "__main__":
    print(f"{build()} pages; to read them: python -m http.server --directory {os.path.relpath(SITE)}")
