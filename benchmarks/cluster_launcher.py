"""What ClusterLauncher costs beside LocalLauncher: the start of a trial, a report, and stopping.

For each launcher, with two workers of its own on this machine, which should be idle, it prints

- the seconds until the launcher is made and its first job has ended;
- from `submit` to the first line of the training function (median);
- the time that training spends on a report, and until the last of many has arrived, for each of them;
- from `stop` to the first line of the next job, both workers having been busy (median).
"""

import statistics
import time

from hpo_helpers.jobs.cluster import ClusterLauncher
from hpo_helpers.jobs.local import LocalLauncher

N_REPORTS = 2000


def train(epochs, seconds=0.0):
    """Report the moment of each epoch."""
    for _ in range(epochs):
        yield {"valid_error": time.monotonic()}
        time.sleep(seconds)


def finish(launcher, job):
    """Return what a job reported, once it has ended."""
    values = []
    while not job.finished or job._unread():
        launcher.wait([job])
        values += [report.value for report in job.new_reports()]
    return values


def measure(launcher, made):
    """Print what one launcher costs."""
    finish(launcher, launcher.submit({}, 1))
    print(f"{type(launcher).__name__}: ready after {time.monotonic() - made:.1f} s", end="")
    starts = [-time.monotonic() + finish(launcher, launcher.submit({}, 1))[0] for _ in range(100)]
    before = time.monotonic()
    values = finish(launcher, launcher.submit({}, N_REPORTS))
    spent, arrived = (values[-1] - values[0]) / N_REPORTS, (time.monotonic() - before) / N_REPORTS
    jobs, nexts = [launcher.submit({"seconds": 0.001}, 10**6) for _ in range(2)], []
    for _ in range(30):
        launcher.wait(jobs[:1])
        before = time.monotonic()
        jobs.pop(0).stop()
        jobs.append(launcher.submit({"seconds": 0.001}, 10**6))
        launcher.wait(jobs[1:])
        nexts.append(jobs[1].new_reports()[0].value - before)
    print(f", start {statistics.median(starts) * 1000:.1f} ms, report {spent * 1000:.2f} ms", end="")
    print(f" (arrived {arrived * 1000:.2f} ms), stop {statistics.median(nexts) * 1000:.1f} ms")


if __name__ == "__main__":
    for launcher_class in (LocalLauncher, ClusterLauncher):
        begun = time.monotonic()
        with launcher_class(train, 2) as some_launcher:
            measure(some_launcher, begun)
