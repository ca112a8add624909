"""Record what lesson 10 says of parallel search, over the recorded curves, and of storages, on this machine.

    python data/record_lesson_10.py          # about 20 minutes on one core; nothing is trained

Searches are replayed in virtual time. Storages are real: files and servers on this machine alone (PostgreSQL by
pgserver), which end with this process, however it ends. It may be interrupted: run again, it goes on with what
the files lack.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, run_grpc_proxy_server
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hpo_helpers.comparing import anytime
from hpo_helpers.curves import NoisyCurves
from hpo_helpers.datasets import load_curves
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.journal import open_journal
from hpo_helpers.spaces import MNIST_CNN, to_unit_cube
from hpo_helpers.tuning import tune

SEEDS = range(10_000, 10_020)
TRAINING = load_curves().groupby("configuration")["seconds"].sum().mean()  # seconds of an average one
WORKERS = 1, 4, 16, 64
WORK = 128  # trainings of all workers together

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random search": RandomSampler,
    "TPE": lambda seed: TPESampler(seed=seed),
    "TPE, no liar": lambda seed: TPESampler(seed=seed, constant_liar=False),
}


def whole_trainings(seed: int) -> Callable[[dict], list[dict]]:
    """Return curves of one report: the last, after the seconds of all 27 epochs."""
    curves = NoisyCurves(seed)

    def whole(params: dict) -> list[dict]:
        epochs = curves(params)
        return [epochs[-1] | {"seconds": sum(epoch["seconds"] for epoch in epochs)}]

    return whole


def new_study(method: str, seed: int) -> optuna.Study:
    """Return a new study, whose name has the seed."""
    return optuna.create_study(study_name=f"{method}-{seed}", sampler=SAMPLERS[method](seed), pruner=NopPruner())


def asynchronous(method: str, n_workers: int, seed: int) -> pd.DataFrame:
    """Give each worker that is free a trial at once; return the incumbents."""
    study = new_study(method, seed)
    with ReplayLauncher(n_workers, curves=whole_trainings(seed)) as launcher:
        tune(study, MNIST_CNN, launcher, epochs=1, timeout=WORK * TRAINING / n_workers, progress=False)
    return incumbents(study, n_workers)


def synchronous(method: str, n_workers: int, seed: int) -> pd.DataFrame:
    """Ask for a batch of trials, and wait for the last of them; return the incumbents."""
    study = new_study(method, seed)
    with ReplayLauncher(n_workers, curves=whole_trainings(seed)) as launcher:
        while launcher.clock() < WORK * TRAINING / n_workers:
            # tune ends when so many trials have finished: a batch
            n_trials = len(study.trials) + n_workers
            tune(study, MNIST_CNN, launcher, epochs=1, n_trials=n_trials, progress=False)
    return incumbents(study, n_workers)


def incumbents(study: optuna.Study, n_workers: int) -> pd.DataFrame:
    """Return a study's incumbents, how many trials ended in time, and how near proposals were to running ones."""
    trials = [trial for trial in study.trials if "started" in trial.user_attrs]
    points = np.array([list(to_unit_cube(MNIST_CNN, trial.params).values()) for trial in trials])
    started, finished = (np.array([t.user_attrs[name] for t in trials]) for name in ("started", "finished"))
    nearest = []
    for number in range(n_workers, len(trials)):
        # those that began before it, and end after it has begun
        running = (np.arange(len(trials)) < number) & (finished > started[number])
        if running.any():
            nearest.append(np.linalg.norm(points[running] - points[number], axis=1).min())
    in_time = [trial.state == TrialState.COMPLETE for trial in trials] & (finished <= WORK * TRAINING / n_workers)
    table = anytime(study).drop(columns=["seconds", "valid_error", "epoch"])
    distance = float(np.median(nearest)) if nearest else None
    return table.assign(workers=n_workers, trials=in_time.sum(), nearest_running=distance)


def searched(method: str, seed: int) -> pd.DataFrame:
    """Return the incumbents of one method, for each number of workers."""
    if method == "TPE, in batches":
        return pd.concat([synchronous("TPE", n_workers, seed) for n_workers in WORKERS[2:]])
    # Few workers have little running, of which to be told.
    return pd.concat([asynchronous(method, n, seed) for n in (WORKERS[2:] if "no liar" in method else WORKERS)])


LEVELS = {name: sorted(load_curves()[name].unique()) for name in MNIST_CNN}  # of the recorded grid


def on_the_grid(trial: optuna.Trial) -> dict[str, Any]:
    """Suggest one of the 1,008 configurations that were trained."""
    chosen = {name: trial.suggest_int(name, 0, len(levels) - 1) for name, levels in LEVELS.items()}
    return {name: LEVELS[name][number].item() for name, number in chosen.items()}


def repeated(method: str, seed: int) -> pd.DataFrame:
    """Return how many of 128 proposals for 16 workers are in training already, or were proposed before."""
    study = new_study(method, seed)
    with ReplayLauncher(16, curves=whole_trainings(seed)) as launcher:
        tune(study, on_the_grid, launcher, epochs=1, n_trials=WORK, progress=False)
    trials, before, running = study.trials, 0, 0
    for number, trial in enumerate(trials):
        same = [other for other in trials[:number] if other.params == trial.params]
        before += bool(same)
        running += any(other.user_attrs["finished"] > trial.user_attrs["started"] for other in same)
    return pd.DataFrame([{"in_training": running, "before": before}])


# Storages: four processes share the same hundred trials.

N_PROCESSES, N_TRIALS, REPETITIONS = 4, 100, 3
STORAGES = ["journal", "open_journal", "SQLite", "SQLite, no queue", "gRPC over journal", "PostgreSQL", "gRPC over PostgreSQL"]
HERE = [sys.executable, str(Path(__file__).resolve())]


def open_storage(address: str | int) -> BaseStorage:
    """Return the storage at an address: a file, a port, or a database's own."""
    if isinstance(address, int):
        storage = GrpcStorageProxy(host="127.0.0.1", port=address)
        storage.wait_server_ready(60)
        return storage
    if address.endswith(".journal"):
        return JournalStorage(JournalFileBackend(address))
    if address.endswith(".mended"):
        return open_journal(address)
    return optuna.storages.get_storage(address)


def work(address: str | int, n_trials: int, dies_in: int, dies: str) -> None:
    """Be a worker: say so, wait for a line, and run trials; say which one begins, and which was told, when."""
    study = optuna.load_study(study_name="shared", storage=open_storage(address), sampler=RandomSampler())
    begun: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        number = trial.suggest_int("number", 0, N_TRIALS - 1)
        begun.append(trial.number)
        print(trial.number, flush=True)
        if len(begun) == dies_in:
            die(dies)
        if dies:
            time.sleep(0.02)  # lest the others are through before
        for epoch in (1, 2, 3):
            trial.report(number / epoch, epoch)
        return number

    print("ready", flush=True)
    if not sys.stdin.readline():
        return  # the process that started it is gone
    told = [lambda study, trial: print(trial.number, time.time(), flush=True)]
    study.optimize(objective, n_trials=n_trials, callbacks=told)


def die(how: str) -> None:
    """Be killed now, or at the next write, in its midst."""

    def kill(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if how == "in training":
        kill()
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    os.fsync = kill  # of the journal, which holds its lock then
    event.listen(Session, "before_commit", kill)  # of a database


def end_with_parent() -> None:
    """End this process when the one that started it is gone, or closes its standard input."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()


def serve_grpc(address: str, port: int) -> None:
    """Be a gRPC proxy server of a storage."""
    end_with_parent()
    run_grpc_proxy_server(open_storage(address), host="127.0.0.1", port=port)


def serve_postgres(folder: str) -> None:
    """Be a PostgreSQL server, on a socket of the file system; say where, and the process to kill."""
    import pgserver

    server = pgserver.get_server(folder)
    address = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    print(json.dumps([address, server.get_pid()]), flush=True)
    sys.stdin.read()
    server.cleanup()


@contextlib.contextmanager
def process(*arguments: Any) -> Iterator[subprocess.Popen]:
    """Run this script as another process, for as long as the block lasts."""
    command = [*HERE, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    # In a session of its own: a signal to this one's group would end it before it has stopped its server.
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as started:
        try:
            yield started
        finally:
            with contextlib.suppress(BrokenPipeError):
                started.stdin.close()  # by which servers end
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()


@contextlib.contextmanager
def postgres(folder: str) -> Iterator[tuple[str, int]]:
    """Serve PostgreSQL from a folder; yield its address and process."""
    with process("serve_postgres", folder) as server:
        yield tuple(json.loads(server.stdout.readline()))


@contextlib.contextmanager
def grpc(address: str) -> Iterator[tuple[int, int]]:
    """Serve a storage by gRPC; yield the port and the process."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with process("serve_grpc", address, port) as server:
        GrpcStorageProxy(host="127.0.0.1", port=port).wait_server_ready(60)
        yield port, server.pid


@contextlib.contextmanager
def storage(name: str, folder: str) -> Iterator[tuple[str | int, str, int | None]]:
    """Yield the address that workers take, the one without a proxy, and the process of the server, if any."""
    with contextlib.ExitStack() as stack:
        database = f"{folder}/postgres"
        address, server = f"{folder}/shared.journal", None
        if name == "open_journal":
            address = f"{folder}/shared.mended"
        elif name.startswith("SQLite"):
            address = f"sqlite:///{folder}/shared.db"
        elif name.endswith("PostgreSQL"):
            address, server = stack.enter_context(postgres(database))
        direct = address
        if name.startswith("gRPC"):
            address, server = stack.enter_context(grpc(address))
        yield address, direct, server


def run_workers(address: str | int, dies_in: int = 0, dies: str = "", meanwhile: Callable | None = None) -> list:
    """Let four processes share the trials; return for each how it ended, what it began, and what it told when."""
    with contextlib.ExitStack() as stack:
        share = N_TRIALS // N_PROCESSES
        fates = [dies_in] + [0] * (N_PROCESSES - 1)
        workers = [stack.enter_context(process("work", address, share, fate, dies)) for fate in fates]
        for worker in workers:
            worker.stdout.readline()
        begun = time.time()
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        if meanwhile:
            meanwhile()
        texts = [worker.communicate()[0] for worker in workers]
        lines = [[line.split() for line in text.splitlines()] for text in texts]
        return [
            (
                worker.returncode,
                [int(line[0]) for line in said if len(line) == 1],
                [(int(line[0]), float(line[1]) - begun) for line in said if len(line) == 2],
            )
            for worker, said in zip(workers, lines, strict=True)
        ]


def queued(name: str, direct: str) -> optuna.Study:
    """Return a study with the same hundred trials waiting, unless the name says that there is no queue."""
    study = optuna.create_study(study_name="shared", storage=open_storage(direct), sampler=RandomSampler())
    for number in range(0 if name.endswith("no queue") else N_TRIALS):
        study.enqueue_trial({"number": number})
    return study


def shared(name: str, repetition: int) -> pd.DataFrame:
    """Return how long four processes took for the hundred trials, which were lost, which were run twice."""
    with tempfile.TemporaryDirectory() as folder, storage(name, folder) as (address, direct, _):
        queued(name, direct)
        ended = run_workers(address)
        study = optuna.load_study(study_name="shared", storage=open_storage(direct))
        kept = study.get_trials(states=[TrialState.COMPLETE])
    started = Counter(number for _, begun, _ in ended for number in begun)
    row = {"seconds": max(at for _, _, told in ended for _, at in told)}
    row |= {"lost": N_TRIALS - len(kept), "doubled": sum(count > 1 for count in started.values())}
    row |= {"errors": sum(code != 0 for code, _, _ in ended)}
    return pd.DataFrame([row])


FAULTS = ["worker, in training", "worker, writing", "server"]


def broken(name: str, fault: str) -> pd.DataFrame:
    """Kill a worker or the server; return what was lost, what stays in training, how long the others paused."""
    if fault == ("worker, writing" if "gRPC" in name else "server") and name != "PostgreSQL":
        return pd.DataFrame()  # behind a proxy no worker writes, and a file has no server
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        address, direct, server = stack.enter_context(storage(name, folder))
        study = queued(name, direct)
        if fault == "server":
            ended = run_workers(address, meanwhile=lambda: kill_later(study, server))
        else:
            ended = run_workers(address, 5, fault.removeprefix("worker, "))
        if fault == "server" and name.endswith("PostgreSQL") and name != "gRPC over PostgreSQL":
            direct, _ = stack.enter_context(postgres(f"{folder}/postgres"))
        study = optuna.load_study(study_name="shared", storage=open_storage(direct))
        states = Counter(trial.state.name for trial in study.trials)
        kept = {trial.number for trial in study.get_trials(states=[TrialState.COMPLETE])}
    told = [number for _, _, lines in ended for number, _ in lines]
    others = np.diff([0, *sorted(at for _, _, lines in ended[1:] for _, at in lines)])
    row = {"workers_left": sum(code == 0 for code, _, _ in ended), "told": len(told)}
    row |= {"lost": len(set(told) - kept), "running": states["RUNNING"]}
    return pd.DataFrame([row | {"pause": others.max()}])


def kill_later(study: optuna.Study, server: int) -> None:
    """Kill a server once twenty trials are told."""
    while len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])) < 20:
        time.sleep(0.02)
    os.kill(server, signal.SIGKILL)


EXPERIMENTS: dict[str, tuple[Callable, list[str], Any]] = {
    "workers": (searched, [*SAMPLERS, "TPE, in batches"], SEEDS),
    "repeated": (repeated, list(SAMPLERS), SEEDS),
    "faults": (broken, [name for name in STORAGES if name != "SQLite"], FAULTS),  # whose queue kills by itself
    "storages": (shared, STORAGES, range(REPETITIONS)),
}
KEYS = dict.fromkeys(["workers", "repeated"], ("method", "seed"))
KEYS |= {"faults": ("storage", "fault"), "storages": ("storage", "repetition")}


def main() -> None:
    for name, (run, methods, settings) in EXPERIMENTS.items():
        path = Path(__file__).resolve().parent / f"lesson_10_{name}.csv.gz"
        first, second = KEYS[name]
        tables = [pd.read_csv(path)] if path.exists() else []
        done = set(tables[0][first]) if tables else set()
        for method in [method for method in methods if method not in done]:
            begun = time.time()
            tables += [run(method, each).round(6).assign(**{first: method, second: each}) for each in settings]
            tables = [table for table in tables if len(table)]  # an empty one would make floats of all counts
            pd.concat(tables).to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})
            print(f"{name}: {method}, {time.time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if len(sys.argv) == 1:
        main()
    else:
        arguments = [int(text) if text.isdecimal() else text for text in sys.argv[2:]]
        globals()[sys.argv[1]](*arguments)
