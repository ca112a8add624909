"""Lesson 08's dashboard, as its cell starts it: what it answers, and what a real browser shows of it."""

import json
import shutil
import subprocess
import time
from urllib.error import URLError
from urllib.request import urlopen

import optuna
import psutil
import pytest
from claims import code_cells
from optuna.distributions import FloatDistribution

from hpo_helpers.journal import open_journal

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60  # seconds


CELLS = {name: cell.source for name, cell in code_cells("08_cross_validation").items()}


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """What the lesson's cell defines, with a study in its journal, 0.98765 the best."""
    names = {"journal": tmp_path_factory.mktemp("dashboard") / "study.journal"}
    exec(CELLS["imports"] + "\nfrom hpo_helpers.journal import open_journal", names)
    storage = open_journal(names["journal"])
    study = optuna.create_study(study_name="seen-from-afar", storage=storage, direction="maximize")
    for value in (0.91234, 0.98765, 0.5):
        study.tell(study.ask({"amount": FloatDistribution(0, 1)}), value)
    exec(CELLS["dashboard"], names)
    try:
        yield names
    finally:
        names["dashboard"].kill()
        names["dashboard"].wait()


def read(dashboard, path):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return urlopen(f"http://127.0.0.1:{dashboard['port']}{path}", timeout=PATIENCE).read()
        except URLError:
            assert time.monotonic() < deadline, "the dashboard did not start"
            time.sleep(0.1)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium and no Chrome")
def test_the_name_of_the_study_and_its_best_value_stand_on_the_page(dashboard, tmp_path):
    read(dashboard, "/dashboard")
    url = f"http://127.0.0.1:{dashboard['port']}/dashboard/studies/0"
    # Its own profile and no sandbox, which a container does not allow; the page comes from this machine.
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=15000", "--window-size=1400,2000", "--dump-dom", url]
    page = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert "seen-from-afar" in page and "0.98765" in page


def test_it_is_reached_from_this_machine_alone_and_ends_with_the_lesson(dashboard, capfd):
    studies = json.loads(read(dashboard, "/api/studies"))["study_summaries"]
    assert [study["study_name"] for study in studies] == ["seen-from-afar", "lesson-08-workers"]
    listening = [each.laddr for each in psutil.Process(dashboard["dashboard"].pid).net_connections()]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    exec("\n".join(CELLS["workers-check"].splitlines()[-2:]), dashboard)
    assert dashboard["dashboard"].returncode is not None
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{dashboard['port']}")
    assert capfd.readouterr() == ("", "")
