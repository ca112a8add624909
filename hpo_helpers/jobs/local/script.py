"""Training by a command line, whose printed lines are its reports."""

import functools
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo_helpers.jobs import log_metrics
from hpo_helpers.jobs.local.launcher import LocalLauncher
from hpo_helpers.jobs.local.process import describe_exit, die_with_parent


class LocalScript(LocalLauncher):
    """Train by running a command line per job, a script in any language.

    The parameters are appended by name: ``python train.py --learning_rate=0.1 --epochs=27``.
    A line of output that names the tuned metric is a report, of its ``name=value`` pairs:
    ``epoch=3 valid_error=0.0412``. Without ``epoch=`` reports are counted. What a progress bar shows is none:
    pairs in brackets, before a bar, or in a text that a carriage return overwrites.
    The script must flush each line (Python is told to), and a status other than 0 is a failure.

    Parameters
    ----------
    command
        The program and its first arguments, such as ``["Rscript", "train.R"]``.
    n_workers, fixed, metric
        As in `LocalLauncher`.

    Raises
    ------
    TypeError
        If `command` is no list of strings.
    """

    def __init__(
        self,
        command: Sequence[str],
        n_workers: int | None = None,
        *,
        fixed: Mapping[str, Any] | None = None,
        metric: str = "valid_error",
    ) -> None:
        if isinstance(command, str) or not command:
            raise TypeError(f'command must be a list such as ["python", "train.py"], got {command!r}')
        train = functools.partial(run_script, tuple(map(os.fspath, command)), metric)
        super().__init__(train, n_workers, fixed=fixed, metric=metric)


def run_script(command: Sequence[str], metric: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Run a command and yield the ``name=value`` pairs of each line that names `metric`."""
    # In one word: argparse would take a -1e-05 by itself for an option.
    arguments = [f"--{name}={value}" for name, value in parameters.items()]
    end = functools.partial(die_with_parent, os.getpid())
    try:
        for metrics in log_metrics.run([*command, *arguments], preexec_fn=end):
            if metric in metrics:
                yield metrics
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{command[0]} {describe_exit(error.returncode)}") from None
