"""Reports in a script's printed lines."""

from __future__ import annotations

import re
from typing import Any

PAIR = re.compile(r"([^\s=,;]+)=([^\s=,;]+)")  #: as in epoch=3 valid_error=0.0412


def parse_line(line: str) -> dict[str, Any]:
    """Return the ``name=value`` pairs of a printed line, numbers as numbers."""
    return {name: _number(text) for name, text in PAIR.findall(line)}


def _number(text):
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
