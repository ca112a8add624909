"""Azure sweep jobs: checked, run here. Azure's answers are faked below HTTP; nothing leaves the machine."""

import io
import itertools
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import optuna
import pytest
import yaml
from notebook_files import NOTEBOOKS
from scipy.stats import kstest, lognorm, norm
from virtual import VirtualLauncher

from hpo_helpers import sweeps
from hpo_helpers.jobs import log_metrics
from hpo_helpers.plotting import ORANGE
from hpo_helpers.spaces import MNIST_CNN, to_azure
from hpo_helpers.sweeps import picture, space_of
from hpo_helpers.sweeps import run as running
from hpo_helpers.sweeps.expressions import FIELDS
from hpo_helpers.sweeps.settings import policy_of

#: Azure's package is written for the next marshmallow, which says so wherever it is used.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

POLICIES = {
    "factor": {"type": "bandit", "evaluation_interval": 1, "slack_factor": 0.2},
    "amount": {"type": "bandit", "evaluation_interval": 1, "delay_evaluation": 4, "slack_amount": 0.05},
    "median": {"type": "median_stopping", "evaluation_interval": 1},
    "truncation": {"type": "truncation_selection", "evaluation_interval": 2, "truncation_percentage": 20},
}

#: One of each kind, with the fields that it has.
EXPRESSIONS = {
    "choice": {"type": "choice", "values": ["sgd", 2, 0.5]},
    "randint": {"type": "randint", "upper": 5},
    "uniform": {"type": "uniform", "min_value": -1.0, "max_value": 3.0},
    "loguniform": {"type": "loguniform", "min_value": -7.0, "max_value": 0.0},
    "normal": {"type": "normal", "mu": 10, "sigma": 3},
    "lognormal": {"type": "lognormal", "mu": -3.0, "sigma": 1.5},
    "quniform": {"type": "quniform", "min_value": 0, "max_value": 8, "q": 4},
    "qloguniform": {"type": "qloguniform", "min_value": 0.0, "max_value": math.log(8), "q": 1},
    "qnormal": {"type": "qnormal", "mu": 32, "sigma": 10, "q": 4},
    "qlognormal": {"type": "qlognormal", "mu": 3.0, "sigma": 0.5, "q": 5},
}


def build(space, *, goal="minimize", sampling="random", policy=None, max_total_trials=20, **limits):
    """Return a sweep job over a space of Azure's expressions, otherwise plain."""
    arguments = " ".join(f"--{name} ${{{{search_space.{name}}}}}" for name in space)
    command = f"python train_mnist.py {arguments}"
    sweep = {
        "type": "sweep",
        "experiment_name": "hyperparameter-optimization",
        "compute": "azureml:cpu-cluster",
        "sampling_algorithm": sampling,
        "search_space": space,
        "objective": {"goal": goal, "primary_metric": "valid_error"},
        "limits": {"max_total_trials": max_total_trials, "max_concurrent_trials": 3, **limits},
        "trial": {"code": "code", "environment": "azureml:mnist@latest", "command": command},
    }
    return sweep | ({"early_termination": policy} if policy else {})


def changed(sweep, changes):
    """Return a copy with other values, each named by its path: ``{"limits.timeout": 60}``."""
    copy = json.loads(json.dumps(sweep))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = copy
        for parent in parents:
            place = place[parent]
        place[last] = value
    return copy


@pytest.fixture
def project(tmp_path):
    """A folder with the code of a sweep."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train_mnist.py").write_text("print('valid_error=0.5')")
    return tmp_path


# Write, read


def test_what_is_written_is_read_again_and_nothing_that_is_refused(tmp_path):
    sweep = build(EXPRESSIONS, policy=POLICIES["median"], timeout=3600, trial_timeout=60)
    sweeps.write_sweep(sweep, tmp_path / "sweep.yml")
    assert sweeps.read_sweep(tmp_path / "sweep.yml") == sweep
    bad = build(EXPRESSIONS, max_concurrent_trials=21)
    with pytest.raises(ValueError, match="got 21"):
        sweeps.write_sweep(bad, tmp_path / "bad.yml")
    (tmp_path / "bad.yml").write_text(yaml.safe_dump(bad))
    with pytest.raises(ValueError, match="got 21"):
        sweeps.read_sweep(tmp_path / "bad.yml")


@pytest.mark.parametrize("name", [*POLICIES, "none", "grid"])
def test_azure_s_package_takes_a_sweep_and_what_it_dumps_means_the_same(name, project):
    space, sampling = ({"x": EXPRESSIONS["choice"]}, "grid") if name == "grid" else (EXPRESSIONS, "random")
    sweep = build(space, sampling=sampling, policy=POLICIES.get(name), timeout=3600, trial_timeout=600)
    load(sweep, project).dump(project / "dumped.yml")
    dumped = sweeps.read_sweep(project / "dumped.yml")
    for key in ("search_space", "limits", "objective", "sampling_algorithm", "compute", "experiment_name"):
        assert dumped[key] == sweep[key]
    assert dumped["trial"]["command"] == sweep["trial"]["command"]
    policies = [policy_of(each) for each in (sweep, dumped)]
    assert type(policies[0]) is type(policies[1])
    assert policies[0] is None or vars(policies[0]) == vars(policies[1])


def load(sweep, project):
    """Return Azure's object of a sweep, which is its own validation too."""
    from azure.ai.ml import load_job

    text = yaml.safe_dump({key: value for key, value in sweep.items() if value is not None})
    return load_job(io.StringIO(text), relative_origin=str(project / "sweep.yml"))


# What Azure's own package lets pass


BASE = build({"kind": {"type": "choice", "values": ["a", "b"]}}, policy=POLICIES["factor"])
UNIFORM = {"type": "uniform", "min_value": 0.0, "max_value": 1.0}
NORMAL = EXPRESSIONS["normal"]

#: What the lesson does not show: its own mistakes are tried where its claims are.
MISSED = {
    "Bayesian, normal": (
        {"sampling_algorithm": "bayesian", "search_space.kind": NORMAL, "early_termination": None},
        "got {'type': 'normal'",
    ),
    "no slack": ({"early_termination": {"type": "bandit", "evaluation_interval": 1}}, "'slack_amount': None"),
    "no trials": ({"limits.max_total_trials": 0}, "max_total_trials must be .* from 1 on, got 0"),
    "a short limit": ({"limits.trial_timeout": 30}, "trial_timeout must be .* from 60 on, got 30"),
    "a dropped limit": ({"limits.timeout": 3600.5}, "timeout must be .* got 3600.5"),
    "no interval": ({"early_termination": {"type": "median_stopping"}}, "write evaluation_interval out"),
    "wrong order": ({"search_space.kind": UNIFORM | {"min_value": 3.0}}, "'kind': min_value must be .*3.0"),
    "nothing uses it": ({"search_space.extra": UNIFORM}, r"must use \['extra', 'kind'\] .* got 'python"),
}


@pytest.mark.parametrize("what", MISSED)
def test_what_azure_s_package_lets_pass_is_refused_with_its_value(what, project):
    changes, message = MISSED[what]
    sweep = changed(BASE, changes)
    load(sweep, project)  # says nothing
    with pytest.raises(ValueError, match=message):
        sweeps.check_sweep(sweep)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"type": "command"}, "a sweep job has type: sweep, got"),
        ({"search_space": {}}, "a sweep job needs 'search_space'"),
        ({"sampling_algorithm": "tpe"}, "sampling must be 'random', 'grid' or 'bayesian', got 'tpe'"),
        ({"objective.goal": "min"}, "goal must be 'minimize' or 'maximize', got 'min'"),
        ({"objective.primary_metric": None}, "the objective needs a primary_metric, got"),
        ({"limits": {"max_concurrent_trials": 3}}, "max_total_trials must be a whole number .* got None"),
        ({"early_termination": {"type": "hyperband"}}, "a policy is one of .* got 'hyperband'"),
        ({"search_space.kind": {"type": "gamma"}}, "'kind' must have a type among .* got"),
        ({"search_space.kind": {"type": "normal", "mu": 0}}, "'kind' needs .*'sigma'.* got {'mu': 0}"),
        ({"search_space.kind": EXPRESSIONS["normal"] | {"sigma": 0}}, "sigma and q must be positive, got"),
        ({"search_space.kind": EXPRESSIONS["uniform"] | {"max_value": "x"}}, "needs finite numbers, got"),
        ({"search_space.kind": {"type": "randint", "upper": 0}}, "upper must be a whole number .* got"),
        ({"search_space.kind": {"type": "choice", "values": []}}, "'kind', .* must contain one or more"),
        ({"search_space.kind": {"type": "choice", "values": [{"a": 1}]}}, "'kind', .* is a condition: write"),
        ({"early_termination.patience": 3}, "a bandit policy has other settings, got .*patience"),
    ],
)
def test_what_cannot_be_a_sweep_is_refused_with_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        sweeps.check_sweep(changed(BASE, changes))


def test_azure_s_spellings_are_read():
    policy = {"type": "MedianStopping", "evaluation_interval": "1"}
    changes = {"objective.goal": "Maximize", "search_space.kind.type": "Choice", "early_termination": policy}
    sweep = changed(BASE, changes | {"sampling_algorithm": {"type": "Random", "seed": 3}})
    assert sweeps.check_sweep(sweep)["early_termination"] == policy | {"evaluation_interval": 1}
    assert sweeps.check_sweep(sweep)["search_space"] == BASE["search_space"]


WRITTEN = """
type: sweep
sampling_algorithm: random
experiment_name: 1e5
search_space:
  rate: {type: uniform, min_value: 1e-5, max_value: "0.1"}
  width: {type: qnormal, mu: "32", sigma: 1E1, q: '4'}
  n-layers: {type: randint, upper: "5"}
  decay: {type: choice, values: [1e-4, 0.5, "2", none]}
objective: {goal: minimize, primary_metric: valid_error}
limits: {max_total_trials: "4", max_concurrent_trials: 2, timeout: '3600'}
early_termination: {type: bandit, evaluation_interval: "1", slack_factor: 2e-1}
trial:
  command: train ${{ search_space.rate }} ${{search_space.n-layers}} ${{search_space.decay}}
  environment: azureml:mnist@latest
  environment_variables: {WIDTH: "${{search_space.width}}", THREADS: 2}
compute: azureml:cpu-cluster
"""


def test_numbers_in_a_file_are_those_that_azure_s_package_reads(tmp_path, project):
    (tmp_path / "sweep.yml").write_text(WRITTEN)
    with pytest.warns(UserWarning, match="azure-ai-ml does not send the name 'n-layers'"):
        sweep = sweeps.read_sweep(tmp_path / "sweep.yml")
        sweeps.write_sweep(sweep, tmp_path / "again.yml")
        assert sweeps.read_sweep(tmp_path / "again.yml") == sweep
        study, launcher = run(sweep)
    azure = load(yaml.safe_load(WRITTEN), project)
    for name in ("rate", "width", "n-layers"):
        assert vars(azure.search_space[name]) == sweep["search_space"][name]
    assert sweep["search_space"]["decay"]["values"] == [1e-4, 0.5, "2", "none"]
    assert sweep["limits"] == {name: getattr(azure.limits, name) for name in sweep["limits"]}
    assert azure.early_termination.slack_factor == sweep["early_termination"]["slack_factor"]
    assert sweep["experiment_name"] == azure.experiment_name == "1e5"
    assert [1e-5 <= job.params["rate"] <= 0.1 for job in launcher.jobs] == [True] * 4


# Expressions


def draw(expression, n=400):
    """Return `n` values of an expression, as random sampling draws them."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    return [space_of({"x": expression})(study.ask())["x"] for _ in range(n)]


DISTRIBUTIONS = {
    "normal": norm(10, 3),
    "lognormal": lognorm(1.5, scale=math.exp(-3)),
    "qnormal": norm(32, 10),
    "qlognormal": lognorm(0.5, scale=math.exp(3)),
}


@pytest.mark.parametrize("name", ["normal", "lognormal"])
def test_a_normal_expression_has_its_distribution(name):
    values, distribution = draw(EXPRESSIONS[name]), DISTRIBUTIONS[name]
    assert kstest(values, distribution.cdf).pvalue > 0.01
    # And no other one has: the test can fail.
    assert kstest([value + distribution.std() / 2 for value in values], distribution.cdf).pvalue < 0.01


@pytest.mark.parametrize("name", ["qnormal", "qlognormal"])
def test_a_rounded_expression_has_whole_multiples_about_its_median(name):
    values, q = draw(EXPRESSIONS[name]), EXPRESSIONS[name]["q"]
    assert all(isinstance(value, int) and value % q == 0 for value in values)
    assert abs(sorted(values)[200] - DISTRIBUTIONS[name].median()) <= q


def test_every_kind_of_expression_has_a_value_which_its_trial_keeps():
    assert set(EXPRESSIONS) == set(FIELDS)
    trial = optuna.create_study().ask()
    values = space_of(EXPRESSIONS)(trial)
    assert trial.user_attrs["parameters"] == values and list(values) == list(EXPRESSIONS)
    assert {"uniform", "normal (quantile)"} <= set(trial.params)


def test_a_normal_expression_is_finite_at_both_ends():
    study = optuna.create_study()
    for quantile in (2.0**-53, 1 - 2.0**-53):
        study.enqueue_trial({"x (quantile)": quantile})
        assert abs(space_of({"x": EXPRESSIONS["normal"]})(study.ask())["x"]) < 50


# Run here


def curves(params):
    """Six epochs that get better, at another level for each configuration."""
    return [(1.0, params["level"] / (1 + epoch)) for epoch in range(6)]


LEVELS = {"level": {"type": "uniform", "min_value": 0.1, "max_value": 0.9}}


def run(sweep, curve=curves, n_workers=4, **settings):
    launcher = VirtualLauncher(curve, n_workers=n_workers)
    return sweeps.run_sweep(sweep, launcher, epochs=6, **settings), launcher


def test_a_sweep_runs_here_to_its_number_of_trials():
    study, launcher = run(build(LEVELS))
    table = sweeps.child_runs(study)
    assert len(table) == len(launcher.jobs) == 20
    assert list(table) == ["child", "status", "level", "valid_error", "intervals"]
    assert set(table["status"]) == {"Completed"} and set(table["intervals"]) == {6}
    assert table["valid_error"].is_monotonic_increasing
    assert table["valid_error"][0] == pytest.approx(table["level"].min() / 6)


@pytest.mark.parametrize("n_workers, busiest", [(8, 3), (2, 2)])
def test_no_more_trials_run_at_a_time_than_the_sweep_and_the_machine_allow(n_workers, busiest):
    _, launcher = run(build(LEVELS), n_workers=n_workers)
    assert launcher.clock() == math.ceil(20 / busiest) * 6


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_ends_the_trials_at_the_wrong_end(name, goal):
    study, _ = run(build(LEVELS, policy=POLICIES[name], goal=goal))
    table = sweeps.child_runs(study)
    canceled, completed = (table[table["status"] == status] for status in ("Canceled", "Completed"))
    assert len(canceled) >= 2 and canceled["intervals"].max() < 6
    assert table["status"][0] == "Completed"
    better = completed["level"].mean() - canceled["level"].mean()
    assert better < 0 if goal == "minimize" else better > 0
    assert table["valid_error"].is_monotonic_increasing == (goal == "minimize")


def test_a_grid_has_each_combination_once_whatever_the_order():
    lists = {"level": [0.1, 0.2, 0.3], "kind": ["a", "b"]}
    space = {name: {"type": "choice", "values": values} for name, values in lists.items()}
    _, launcher = run(build(space, sampling="grid", max_total_trials=50))
    tried = [(job.params["level"], job.params["kind"]) for job in launcher.jobs]
    assert sorted(tried) == sorted(itertools.product([0.1, 0.2, 0.3], ["a", "b"]))


def test_bayesian_sampling_is_optuna_s_and_learns():
    study, _ = run(build(LEVELS, sampling="bayesian", max_total_trials=40))
    assert isinstance(study.sampler, optuna.samplers.TPESampler)
    levels = [trial.user_attrs["parameters"]["level"] for trial in study.trials]
    assert sum(levels[20:]) / 20 < 0.3 < sum(levels[:10]) / 10


def test_limits_on_time_are_kept():
    slow = lambda params: [(20.0, params["level"])] * 6  # noqa: E731
    study, launcher = run(build(LEVELS, timeout=150), curve=slow)
    assert launcher.clock() == 150
    table = sweeps.child_runs(study)
    assert table["status"].value_counts().to_dict() == {"Completed": 3, "Canceled": 3}


def test_a_failed_trial_is_listed_last():
    def sometimes(params):
        return curves(params) if params["level"] < 0.7 else [(1.0, math.nan)]

    study, _ = run(build(LEVELS), curve=sometimes)
    table = sweeps.child_runs(study)
    n_failed = (table["level"] >= 0.7).sum()
    assert n_failed >= 3 and list(table["status"]) == ["Completed"] * (20 - n_failed) + ["Failed"] * n_failed


def test_the_launcher_must_read_the_metric_that_is_compared():
    with pytest.raises(ValueError, match="the sweep compares 'accuracy': .* got 'valid_error'"):
        run(changed(build(LEVELS), {"objective.primary_metric": "accuracy"}))


# The picture


@pytest.fixture
def screen(monkeypatch):
    """The pictures that a notebook would show in one place; a second passes between two looks."""
    pictures = []

    def display(image, display_id):
        pictures.append(image)
        return SimpleNamespace(update=pictures.append)

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=True))
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    return pictures


def test_the_picture_is_drawn_while_the_sweep_runs_and_once_where_bars_are_hidden(screen, monkeypatch):
    run(build(LEVELS, max_total_trials=4, policy=POLICIES["median"]), live=True)
    assert all(image.data.startswith(b"\x89PNG") for image in screen)
    assert len({image.data for image in screen}) >= 5
    screen.clear()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    run(build(LEVELS, max_total_trials=4), live=True)
    assert len(screen) == 1


@pytest.mark.parametrize("goal, label", [("minimize", "valid_error"), ("maximize", "1 - valid_error")])
def test_the_picture_shows_every_trial_the_best_in_its_colour_and_who_was_canceled(goal, label):
    study, _ = run(build(LEVELS, policy=POLICIES["median"], goal=goal))
    (ax,) = picture.draw(study).axes
    drawn = [line for line in ax.lines if len(line.get_xdata())]
    table = sweeps.child_runs(study)
    dots = (table["status"] == "Canceled").sum()
    assert len(drawn) - dots == 20 and [line.get_marker() for line in drawn].count("o") == dots > 0
    (best,) = [line for line in drawn if line.get_color() == ORANGE]
    expected = table["valid_error"][0]
    assert min(best.get_ydata()) == pytest.approx(expected if goal == "minimize" else 1 - expected)
    assert ax.get_ylabel() == label


# What travels


def wrapped(folder, code):
    """Run a training in the wrapper, by an MLflow that prints what it is told."""
    mlflow = "def log_metrics(metrics, step): print('logged', step, metrics, flush=True)"
    (folder / "mlflow.py").write_text(mlflow)
    command = [sys.executable, log_metrics.__file__, sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


@pytest.mark.parametrize(
    ("code", "logged"),
    [
        ("print('hello=you\\nepoch=1 error=.5 seconds=1e-2')", ["1 {'error': 0.5, 'seconds': 0.01}"]),
        ("[logging.error('val/acc=%s', x) for x in (1, 2)]", ["1 {'val/acc': 1}", "2 {'val/acc': 2}"]),
        ("print('epoch=0 error=1\\nepoch=last error=2')", ["0 {'error': 1}", "2 {'error': 2}"]),
        ("print('acc@1=1 phase=x')", []),  # MLflow takes no such name
    ],
)
def test_each_line_of_a_training_is_logged_as_one_interval(tmp_path, code, logged):
    wrapper = wrapped(tmp_path, f"import logging; {code}; raise SystemExit(3)")
    output = wrapper.communicate()[0].splitlines()
    assert [line[7:] for line in output if line.startswith("logged ")] == logged
    assert len(output) > len(logged) and wrapper.returncode == 3


def test_a_line_is_logged_when_it_comes(tmp_path):
    wrapper = wrapped(tmp_path, "import time; print('error=1'); time.sleep(100)")
    assert [wrapper.stdout.readline() for _ in range(2)] == ["error=1\n", "logged 1 {'error': 1}\n"]
    wrapper.kill()
    wrapper.communicate()


# Azure itself, as far as HTTP: what is sent is real, what comes back is written here


GROUP = "/subscriptions/sub/resourceGroups/group"
WORKSPACE = f"{GROUP}/providers/Microsoft.MachineLearningServices/workspaces/space"
OF_API = {"westeurope.api.azureml.ms", "management.azure.com"}


class Workspace:
    """A workspace that takes jobs and answers as Azure's REST reference says."""

    def __init__(self):
        self.jobs, self.requests, self.statuses, self.best, self.fetched = {}, [], [], None, []

    def answer(self, method, url, body):
        path = url.split("?")[0].partition("://")[2]
        path = path[path.index("/") :]
        body = json.loads(body) if body else None
        self.requests.append((method, url.split("/")[2], path.replace(WORKSPACE, ""), body))
        kind, *rest = path.replace(WORKSPACE, "").strip("/").split("/")
        if path.endswith("/children"):
            runs = [{"runId": "s_0", "status": "Completed"}, {"runId": "s_1", "status": "Canceled"}]
            return 200, {"value": [run | {"properties": {}} for run in runs]}
        if kind == "codes":  # uploaded before, under the same hash
            uploaded = {"codeUri": "https://store/code", "properties": {}}
            code = self._resource("codes/code/versions/1", uploaded)
            return 200, {"value": [code]} if "hash=" in url else code
        if kind == "environments":
            return 200, {"value": [self._resource("environments/mnist/versions/7", {"image": "some/image"})]}
        if kind == "jobs":
            return self._job(method, rest, body)
        if kind == "":
            return 200, self._resource("", {"discoveryUrl": "https://westeurope.api.azureml.ms/discovery"})
        if kind == "discovery":
            return 200, dict.fromkeys(("api", "history"), "https://westeurope.api.azureml.ms")
        raise AssertionError(f"nothing is known of {method} {url}")

    def _job(self, method, rest, body):
        name = rest[0]
        if rest[1:] == ["cancel"]:
            self.jobs[name]["status"] = "Canceled"
            return 200, None
        if method == "PUT":
            self.jobs[name] = body["properties"] | {"status": "NotStarted"}
        if self.statuses:
            self.jobs[name]["status"] = self.statuses.pop(0)
        properties = self.jobs.get(name, self.jobs[next(iter(self.jobs))])
        if self.best:
            properties = properties | {"properties": {"best_child_run_id": self.best}}
        return 200, self._resource(f"jobs/{name}", properties)

    @staticmethod
    def _resource(path, properties):
        name = path.rpartition("/")[2]
        location = {"location": "westeurope"} if not path else {}
        return {"id": f"{WORKSPACE}/{path}", "name": name, "type": "x", "properties": properties, **location}

    def sent(self, method):
        return [(path, body) for sent, _, path, body in self.requests if sent == method]


@pytest.fixture
def workspace(monkeypatch):
    """The workspace behind every connection that this process opens."""
    import urllib3
    from requests.adapters import HTTPAdapter

    workspace = Workspace()

    def send(adapter, request, **_):
        status, answer = workspace.answer(request.method, request.url, request.body)
        content = io.BytesIO(b"" if answer is None else json.dumps(answer).encode())
        headers = {"Content-Type": "application/json"}
        raw = urllib3.HTTPResponse(body=content, status=status, headers=headers, preload_content=False)
        return adapter.build_response(request, raw)

    monkeypatch.setattr(HTTPAdapter, "send", send)
    return workspace


class Credential:  # of a user who has signed in
    def get_token(self, *scopes, **_):
        from azure.core.credentials import AccessToken

        return AccessToken("a token", 2**33)


@pytest.fixture
def send(workspace, monkeypatch, project):
    """What the lesson's cells do once ``SEND`` is True, in what looks like a signed-in user's notebook."""
    import azure.ai.ml._telemetry.logging_handler as telemetry
    import azure.identity
    from azure.ai.ml import load_job
    from azure.ai.ml.operations import JobOperations

    monkeypatch.setattr(telemetry, "in_jupyter_notebook", lambda: True)
    monkeypatch.setattr(telemetry, "setup_azure_monitor", lambda *_: pytest.fail("telemetry was set up"))
    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Credential)
    monkeypatch.setattr(JobOperations, "download", lambda _, name, **to: workspace.fetched.append(name))
    settings = {"subscription_id": "sub", "resource_group": "group", "workspace_name": "space"}
    (project / "config.json").write_text(json.dumps(settings))
    monkeypatch.chdir(project)
    lesson = nbformat.read(NOTEBOOKS / "12_azure_sweeps.ipynb", as_version=4)
    cells = {cell.id: cell.source for cell in lesson.cells}

    def send(sweep, sleep=lambda seconds: None):
        sweeps.write_sweep(sweep, project / "sweep.yml")
        names = {"folder": project, "load_job": load_job}
        exec(cells["azure-client"], names)
        names["time"] = SimpleNamespace(sleep=sleep)
        exec(cells["azure-send"].replace("SEND = False", "SEND = True"), names)
        return names["job"].name

    yield send
    assert {host for _, host, _, _ in workspace.requests} <= OF_API


def test_a_sweep_is_submitted_as_it_was_written_waited_for_and_its_best_fetched(workspace, send, capsys):
    workspace.statuses, workspace.best = ["NotStarted", "Queued", "Running", "Completed"], "s_0"
    sweep = build(to_azure(MNIST_CNN), policy=POLICIES["factor"], timeout=3600, trial_timeout=600)
    name = send(sweep)
    ((path, body),) = workspace.sent("PUT")
    sent = body["properties"]
    assert path == f"/jobs/{name}"
    assert sent["jobType"] == "Sweep" and sent["samplingAlgorithm"] == {"samplingAlgorithmType": "Random"}
    assert sent["objective"] == {"goal": "minimize", "primaryMetric": "valid_error"}
    assert sent["searchSpace"]["learning_rate"] == ["loguniform", [math.log(1e-3), 0.0]]
    assert sent["searchSpace"]["batch_size"] == ["qloguniform", [math.log(16), math.log(128), 1]]
    limits = {"maxTotalTrials": 20, "maxConcurrentTrials": 3, "timeout": "PT1H", "trialTimeout": "PT10M"}
    assert limits.items() <= sent["limits"].items()
    termination = {"policyType": "Bandit", "slackFactor": 0.2, "evaluationInterval": 1, "delayEvaluation": 0}
    assert termination.items() <= sent["earlyTermination"].items()
    assert sent["trial"]["command"] == sweep["trial"]["command"]
    assert sent["trial"]["environmentId"] == f"{WORKSPACE}/environments/mnist/versions/7"
    assert sent["computeId"] == f"{WORKSPACE}/computes/cpu-cluster"
    assert workspace.statuses == [] and workspace.fetched == ["s_0"]
    assert "{'s_0': 'Completed', 's_1': 'Canceled'}" in capsys.readouterr().out
    assert workspace.sent("POST") == []


def interrupt(*_):
    raise KeyboardInterrupt


def test_ctrl_c_cancels_a_sweep_that_is_waited_for(workspace, send):
    with pytest.raises(KeyboardInterrupt):
        send(build(LEVELS), sleep=interrupt)
    assert [job["status"] for job in workspace.jobs.values()] == ["Canceled"]


def test_ctrl_c_cancels_a_sweep_that_is_being_submitted(workspace, send, monkeypatch):
    answer = workspace.answer

    def interrupt_after_the_job(method, url, body):
        answered = answer(method, url, body)
        return interrupt() if method == "PUT" and "/jobs/" in url else answered

    monkeypatch.setattr(workspace, "answer", interrupt_after_the_job)
    with pytest.raises(KeyboardInterrupt):
        send(build(LEVELS))
    assert [job["status"] for job in workspace.jobs.values()] == ["Canceled"]
