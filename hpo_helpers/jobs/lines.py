"""Reports in a script's printed lines.

A line's ``name=value`` pairs are read, with blanks, commas or semicolons between them. What XGBoost,
LightGBM, Keras or transformers print (``name: value``, tables, dicts) is not: print a line of your own.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

BACK = r"(?:\r|#015)"  #: a carriage return, and as SageMaker logs it
LEVEL = r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:"  #: how lines of Python's logging begin
#: How a progress bar ends before a report: with its times, wiped out (an inner one goes a line up), anyhow.
BAR_END = rf"\[\d+:\d\d[^\]\n]*\]|{BACK} +(?:{BACK}|(?:\x1b|#033)\[A)|(?:(?<!#01)\d|[)\]|])(?=epoch=)"
#: A metric's value in a line, where %s is its name. SageMaker takes one group, in at most 500 characters.
VALUE = (
    # A report begins with its line, after what a carriage return overwrites but not begins, or after a bar.
    rf"(?:^|\n)(?:(?!{BACK})[^\n]+{BACK}|[^\n]*(?:{BAR_END}))?"
    rf"(?![^\n]*?(?:%%\||\[\d+:[\d:]+[<,]|{BACK}[^\r\n]))"  # no bar follows
    rf"(?:[^\n]*[\s,;])?(?:{LEVEL})?"
    r"%s=([-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[A-Za-z]\w*))"
    r"(?=[\s;]|,(?!\d)|#015|$)(?![^\[\n]*\])"  # not in brackets, as a bar shows it
)
NAME = re.compile(rf"(?:^|[\s,;]|#015|{LEVEL}|{BAR_END})(?!#0|\x1b|{LEVEL})([^\s,;=]+)(?==)")


def expression(metric: str) -> str:
    """Return the regular expression whose one group is a metric's value in a line."""
    return VALUE % re.escape(metric)


def parse_line(line: str) -> dict[str, Any]:
    """Return the ``name=value`` pairs of a printed line, numbers as numbers."""
    names = dict.fromkeys(NAME.findall(line))
    found = {name: re.search(expression(name), line) for name in names}
    return {name: _number(match[1]) for name, match in found.items() if match}


def _number(text):
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text
