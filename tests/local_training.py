"""Training functions as a reader may write them, in a module that is imported in no time."""

import os
import subprocess
import time

PRELOADED = []  # by which processes preload_here was called


def given(epochs, train, **parameters):
    """Let one launcher train whatever a job names."""
    return train(epochs=epochs, **parameters)


def halving(epochs, learning_rate=1.0, base=0.0):
    for epoch in range(1, epochs + 1):
        valid_error = base + learning_rate / epoch
        yield {"epoch": epoch, "valid_error": valid_error, "test_error": 0.5, "name": "halving"}


def hanging(epochs):
    yield {"valid_error": 1.0}
    time.sleep(3600)


def forever(epochs):
    for epoch in range(10**6):
        time.sleep(0.001)
        yield {"valid_error": 1.0 + epoch, "pid": os.getpid()}


def with_children(epochs):
    child = subprocess.Popen(["sleep", "3600"])
    background = subprocess.run(["sh", "-c", "sleep 3600 >/dev/null & echo $!"], stdout=subprocess.PIPE)
    yield {"valid_error": 1.0, "pids": [os.getpid(), child.pid, int(background.stdout)]}
    time.sleep(3600)


def calling(epochs, function, **arguments):
    for _ in range(epochs):
        yield {"valid_error": 0.0, "result": function(**arguments)}


def preload_here():
    PRELOADED.append(os.getpid())
