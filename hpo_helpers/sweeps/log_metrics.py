"""Run a training command and log what each of its lines says, so that a sweep sees it.

    python log_metrics.py python train_mnist.py --epochs 27

A line such as ``epoch=3 valid_error=0.0520`` becomes a value of ``valid_error`` at step 3:
one interval of an early-termination policy. Without ``epoch=`` its values are counted. Python prints
each line at once here; another program must flush it. The file needs nothing but MLflow.
"""

import collections
import contextlib
import os
import re
import signal
import sys
from subprocess import PIPE, STDOUT, Popen

# The same as in jobs/lines.py, as this file travels alone.
BACK = r"(?:\r|#015)"
LEVEL = r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:"
BAR_END = rf"\[\d+:\d\d[^\]\n]*\]|{BACK} +(?:{BACK}|(?:\x1b|#033)\[A)|(?:(?<!#01)\d|[)\]|])(?=epoch=)"
VALUE = (
    rf"(?:^|\n)(?:(?!{BACK})[^\n]+{BACK}|[^\n]*(?:{BAR_END}))?"
    rf"(?![^\n]*?(?:%%\||\[\d+:[\d:]+[<,]|{BACK}[^\r\n]))"
    rf"(?:[^\n]*[\s,;])?(?:{LEVEL})?"
    r"%s=([-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[A-Za-z]\w*))"
    r"(?=[\s;]|,(?!\d)|#015|$)(?![^\[\n]*\])"
)
NAME = re.compile(rf"(?:^|[\s,;]|#015|{LEVEL}|{BAR_END})(?!#0|\x1b|{LEVEL})([^\s,;=]+)(?==)")


def numbers_of(line):
    """Return the numbers of a line by their names, where MLflow takes those."""
    numbers = {}
    for name in dict.fromkeys(NAME.findall(line)):
        value = re.search(VALUE % re.escape(name), line)
        with contextlib.suppress(ValueError):  # a word
            if value and re.fullmatch(r"\w[\w./:-]*", name):
                numbers[name] = float(value[1])
    return numbers


def main(command):
    """Run a command to its end, and end as it did."""
    import mlflow

    counts = collections.Counter()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # or Python keeps its lines until it ends
    with Popen(command, stdout=PIPE, stderr=STDOUT, env=environment) as training:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: training.send_signal(number))
        for line in training.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
            metrics = numbers_of(line.decode(errors="replace"))
            epoch = metrics.pop("epoch", None)
            counts.update(metrics.keys())
            if metrics:
                step = max(counts[name] for name in metrics) if epoch is None else int(epoch)
                mlflow.log_metrics(metrics, step=step)
    return training.returncode


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    if exit_code < 0:  # a signal has ended the training
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-exit_code, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_code)
    sys.exit(exit_code)
