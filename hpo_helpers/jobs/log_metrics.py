"""Metrics in a script's printed lines: read here, or logged with MLflow on Azure.

    python log_metrics.py python train_mnist.py --epochs=27

runs a command and makes of a line such as ``epoch=3 valid_error=0.0520`` a value of ``valid_error`` at step
3: one interval of an early-termination policy. Without ``epoch=`` a metric's values are counted. Python
prints each line at once here; another program must flush it. The file needs nothing but MLflow.

Pairs ``name=value`` are read, between blanks, commas or semicolons; not ``name: value``, tables and dicts, as
XGBoost, LightGBM, Keras and transformers print them, for which a line of one's own is due.
"""

import collections
import os
import re
import subprocess
import sys

# A carriage return is #015 in the logs of SageMaker. Python's logging begins a line with INFO:root:
START = r"(?:^|[\s,;\]]|#015|\[A)(?:[A-Z]+:[\w.]*:)?"
NAME = r"[A-Za-z_][^\s,;=]*"
VALUE = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[A-Za-z]\w*)"
# No report is what stands in brackets, before a progress bar, or is overwritten.
NO_BAR = r"(?![^\[\n]{0,999}?\])(?![^\n]{0,999}?(?:\d%\||\dit |(?:\r|#015)\S))"
END = r"(?=[\s;]|,(?!\d)|#015|$)" + NO_BAR
PAIR = re.compile(rf"{START}({NAME})=({VALUE}){END}")


def expression(metric):
    """Return what finds a metric's value in a line, as SageMaker takes it: with one group."""
    return f"{START}{re.escape(metric)}=({VALUE}){END}"


def parse_line(line):
    """Return the pairs of a line, numbers as numbers; of a name that comes twice, the first."""
    pairs = {}
    for name, text in PAIR.findall(line):
        pairs.setdefault(name, _number(text))
    return pairs


def _number(text):
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def run(command, **settings):
    """Run a command, print its lines and yield the pairs of each; CalledProcessError if it fails."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # or Python keeps its lines until it ends
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": environment}
    with subprocess.Popen(command, **output, **settings) as program:
        try:
            for line in program.stdout:
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
                yield parse_line(line.decode(errors="replace"))
            subprocess.CompletedProcess(command, program.wait()).check_returncode()
        finally:
            program.kill()


def main(command):
    """Run a command to its end, log what its lines say, and return its exit code."""
    import mlflow

    counts = collections.Counter()
    try:
        for pairs in run(command):
            metrics = {name: value for name, value in pairs.items() if _is_metric(name, value)}
            epoch = metrics.pop("epoch", None)
            counts.update(metrics.keys())
            if metrics:
                step = max(counts[name] for name in metrics) if epoch is None else int(epoch)
                mlflow.log_metrics(metrics, step=step)
    except subprocess.CalledProcessError as error:
        return error.returncode


def _is_metric(name, value):
    return isinstance(value, (int, float)) and re.fullmatch(r"[\w./:-]+", name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
