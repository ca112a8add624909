"""Run a training command and log what each of its lines says, so that a sweep sees it.

    python log_metrics.py python train_mnist.py --epochs 27

A line such as ``epoch=3 valid_error=0.0520`` becomes a value of ``valid_error`` at step 3:
one interval of an early-termination policy. The file needs nothing but MLflow.
"""

import re
import subprocess
import sys

PAIR = re.compile(r"(\w+)=([-+]?[\d.]+(?:e[-+]?\d+)?)(?!\S)")


def main(command):
    import mlflow

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        for line in training.stdout:
            print(line, end="", flush=True)
            metrics = {name: float(text) for name, text in PAIR.findall(line)}
            if "epoch" in metrics:
                epoch = int(metrics.pop("epoch"))
                mlflow.log_metrics(metrics, step=epoch)
    return training.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
