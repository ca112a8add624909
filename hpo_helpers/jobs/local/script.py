"""Training by a command line, whose printed lines are its reports."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from hpo_helpers.jobs.lines import parse_line
from hpo_helpers.jobs.local.process import describe_exit, die_with_parent


def run_script(command: Sequence[str], metric: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Run a command and yield the ``name=value`` pairs of each line that names `metric`."""
    arguments = [text for name, value in parameters.items() for text in (f"--{name}", str(value))]
    script = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # or Python keeps its lines until it ends
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
    )
    try:
        for line in script.stdout:
            print(line, end="")  # into the job's output, whose end is shown when it fails
            metrics = parse_line(line)
            if metric in metrics:
                yield metrics
        if script.wait() != 0:
            raise RuntimeError(f"{command[0]} {describe_exit(script.returncode)}")
    finally:
        script.kill()
        script.wait()
        script.stdout.close()
