"""Print a recorded learning curve as `train_mnist` prints a real one, and take as long.

It is the script of a rehearsed SageMaker job where MXNet is missing. Hyperparameters come as
JSON in ``SM_HPS``; what the CNN's recording does not vary is left aside.
"""

import json
import os
import sys
import time

from hpo_helpers.curves import RecordedCurves
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.train_mnist import LINE


def main() -> None:
    """Print one line an epoch, each after the seconds that it took."""
    hyperparameters = json.loads(os.environ["SM_HPS"])
    try:
        curve = RecordedCurves()({name: hyperparameters[name] for name in MNIST_CNN})
    except (KeyError, ValueError) as error:
        sys.exit(f"replay_mnist: error: {error}")
    for metrics in curve[: int(hyperparameters.get("epochs", len(curve)))]:
        time.sleep(metrics["seconds"])
        print(LINE.format(**metrics), flush=True)


if __name__ == "__main__":
    main()
