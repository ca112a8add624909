"""Turn cells into HTML, for the pages and the slides of the site."""

from __future__ import annotations

import base64
import html
import re

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from publish import SETUP_CELL_ID
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

#: What is too wide scrolls in a box of its own, which the keyboard reaches.
SCROLL, PRE = '<div class="scroll" tabindex="0">', '<pre tabindex="0">'


def render_text(text: str) -> str:
    """Return Markdown as HTML, as nbconvert reads it."""
    return MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render(text)


def render_code(cell: NotebookNode) -> str:
    """Return a code cell and its outputs as HTML."""
    code = render_source(cell)
    if cell.id == SETUP_CELL_ID:
        code = f"<details><summary>Setup, for Colab</summary>{code}</details>"
    return f'<div class="cell">{code}{"".join(map(render_output, cell.outputs))}</div>'


def render_source(cell: NotebookNode) -> str:
    """Return the source of a code cell, with its colours."""
    return highlight(cell.source, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True)).replace("<pre>", PRE)


def render_output(output: NotebookNode) -> str:
    """Return the richest form of an output that a page can show."""
    data = output.get("data", {})
    if "image/png" in data:
        text = output.metadata.get("image/png", {}).get("alt", "")
        size = [int.from_bytes(base64.b64decode(data["image/png"])[at : at + 4], "big") for at in (16, 20)]
        look = 'width="{}" height="{}" alt="{}"'.format(*size, html.escape(text))
        return f'<img {look} src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        table = re.sub(r'<style.*?</style>| border="1"', "", data["text/html"], flags=re.DOTALL)
        return f"{SCROLL}{table}</div>".replace("<th></th>", "<td></td>")
    return f'<div class="output">{PRE}{html.escape(output.get("text") or data["text/plain"])}</pre></div>'
