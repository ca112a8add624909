"""Cut a lesson into slides, out of its own cells and figures; ``make site`` puts them beside the lesson's page.

A slide shows of a paragraph what one would say first: its beginning, and what defines a term or leads to what
follows. A question to predict an answer stands alone. Code, outputs, lists and tables stay whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode
from publish import SETUP_CELL_ID
from rendering import render_output, render_source

#: Lines of text that a slide has room for, and how many of its letters one of them holds.
ROOM, LETTERS = 14.5, 74
#: What is for reading alone.
LEFT_OUT = ("Sources", "What you need.", "Minutes.")
SENTENCE_ENDS = re.compile(r"(?<=[.?!])\s+(?=(?:<\w+>)*[A-Z0-9])")
#: The words that a beginning has at least: whole sentences.
WORDS = 12


@dataclass
class Block:
    """A piece of a slide: HTML, and the lines of text whose height it takes."""

    html: str
    lines: float
    begins_slide: bool = False


def cut(cells: Iterable[Tag | NotebookNode]) -> list[tuple[str, str]]:
    """Return the slides, each a heading and its HTML, of Markdown cells as parsed HTML and code cells as they are."""
    slides: list[tuple[str, list[Block]]] = []
    heading = ""
    for block in find_blocks(cells):
        if isinstance(block, str):
            heading, slides = block, [*slides, (block, [])]
            continue
        here = slides[-1][1]
        is_full = sum(each.lines for each in here) + block.lines > ROOM
        if here and (is_full or block.begins_slide):
            slides.append((heading, here := []))
        here.append(block)
    return [(title, "".join(block.html for block in blocks)) for title, blocks in slides if blocks]


def find_blocks(cells: Iterable[Tag | NotebookNode]) -> Iterator[Block | str]:
    """Yield the blocks of a lesson in order, and headings as plain text."""
    is_left_out = False
    for cell in cells:
        if not isinstance(cell, Tag):
            yield from [] if is_left_out or imports_only(cell) else blocks_of_code(cell)
            continue
        for part in cell.find_all(True, recursive=False):
            if re.match("h[1-6]$", part.name):
                is_left_out = part.get_text() in LEFT_OUT
                yield from [] if is_left_out else [part.get_text()]
            elif not (is_left_out or part.find(class_="badge") or part.get_text().startswith(LEFT_OUT)):
                yield from blocks_of_text(part)


def imports_only(cell: NotebookNode) -> bool:
    """Whether a code cell prepares the lesson and shows nothing: the setup for Colab, and the imports."""
    return cell.id == SETUP_CELL_ID or (cell.source.startswith(("import ", "from ")) and not cell.outputs)


def blocks_of_text(part: Tag) -> Iterator[Block]:
    """Yield what slides show of a paragraph, of a list item by item, or of a table whole."""
    text = part.get_text().strip()
    if part.name == "blockquote":
        for inner in part.find_all(True, recursive=False):
            yield from blocks_of_text(inner)
    elif part.name in ("ul", "ol"):
        for number, item in enumerate(part.find_all("li", recursive=False), start=1):
            start = f' start="{number}"' if part.name == "ol" else ""
            yield Block(f"<{part.name}{start}>{item}</{part.name}>", 0.5 + count_lines(item.get_text()))
    elif text.startswith("Predict first."):
        yield Block(f'<div class="predict">{part}</div>', ROOM, begins_slide=True)
    elif part.name == "p":
        said = say(part.decode_contents())
        yield Block(f"<p>{said}</p>", 0.5 + count_lines(re.sub("<[^>]+>", "", said)))
    elif part.find("table"):
        yield block_of_table(str(part))
    elif part.name != "hr":
        yield block_of_lines(str(part), text)


def count_lines(text: str) -> int:
    """Return how many lines of a slide a text fills."""
    return sum(1 + len(line) // LETTERS for line in text.splitlines() if line.strip())


def say(paragraph: str) -> str:
    """Return the sentences of a paragraph that a slide shows."""
    sentences = SENTENCE_ENDS.split(paragraph)
    shown = sentences[:1]
    for number, sentence in enumerate(sentences[1:], start=1):
        is_beginning = number == len(shown) and len(" ".join(shown).split()) < WORDS
        if is_beginning or "<em>" in sentence or (sentence is sentences[-1] and sentence.endswith(":")):
            shown.append(sentence)
    return " ".join(shown)


def blocks_of_code(cell: NotebookNode) -> Iterator[Block]:
    """Yield the source of a cell and each of its outputs."""
    yield block_of_lines(render_source(cell), cell.source)
    for output in cell.outputs:
        shown, rendered = output.get("text"), render_output(output)
        if shown is None and "<table" in rendered:
            yield block_of_table(rendered)
        elif shown is None and "<img" in rendered:
            yield Block(rendered, 11)
        else:
            yield block_of_lines(rendered, shown or output.data["text/plain"])


def block_of_lines(rendered: str, text: str) -> Block:
    """Return a block of lines that must not break, as small as the longest of them and their number ask."""
    lines = text.rstrip().splitlines()
    return scaled(rendered, letters=max(map(len, lines)), lines=len(lines))


def block_of_table(rendered: str) -> Block:
    """Return a block of a table, as small as its widest rows and their number ask."""
    rows = [row.find_all(["th", "td"]) for row in BeautifulSoup(rendered, "html.parser").find_all("tr")]
    whole = [row for row in rows if len(row) == max(map(len, rows))]  # a cell may span columns or rows
    widths = [max(len(cell.get_text()) for cell in column) for column in zip(*whole)]
    return scaled(rendered, letters=sum(widths) + 3 * len(widths), lines=len(rows))


def scaled(rendered: str, letters: int, lines: int) -> Block:
    """Return a block that tells the style sheet its size, in letters and lines of its own."""
    return Block(f'<div style="--letters: {letters}; --lines: {lines}">{rendered}</div>', 1 + 0.7 * lines)
