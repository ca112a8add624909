"""optuna-dashboard on a journal, seen in a real browser."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import optuna
import pytest
from optuna.distributions import FloatDistribution

from hpo_helpers.dashboard import Dashboard
from hpo_helpers.journal import open_journal

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
PATIENCE = 60  # seconds

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason=f"there is no browser: none of {', '.join(NAMES)}")


@pytest.fixture
def journal(tmp_path):
    """A journal with a study of three trials, 0.98765 the best."""
    path = tmp_path / "study.journal"
    study = optuna.create_study(study_name="seen-from-afar", storage=open_journal(path), direction="maximize")
    for value in (0.91234, 0.98765, 0.5):
        observe(study, value)
    return path


def observe(study, value):
    study.tell(study.ask({"regularization_amount": FloatDistribution(1e-8, 1, log=True)}), value)


def load(path):
    return optuna.load_study(study_name="seen-from-afar", storage=open_journal(path))


def seen(url, folder):
    """Return what stands on a page once its scripts have run."""
    # Its own profile and no sandbox, which a container does not allow; the page comes from this machine.
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=15000", "--window-size=1400,2000", "--dump-dom", url]
    page = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return page.stdout


@in_a_browser
def test_the_name_of_the_study_and_its_best_value_stand_on_the_page(journal, tmp_path):
    with Dashboard(journal) as dashboard:
        page = seen(f"{dashboard.url}/studies/0", tmp_path)
        assert "seen-from-afar" in page
        assert "0.98765" in page
        observe(load(journal), 0.99876)
        assert "0.99876" not in page
        page = seen(f"{dashboard.url}/studies/0", tmp_path)
        assert "0.99876" in page, "a trial that came later is the best now"


@in_a_browser
def test_the_command_of_the_lesson_shows_the_same(journal, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), str(journal), "--port", str(port), "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/studies")
        page = seen(f"http://127.0.0.1:{port}/dashboard/studies/0", tmp_path)
    finally:
        server.terminate()
        server.wait(PATIENCE)
    assert "seen-from-afar" in page and "0.98765" in page


def wait_for(url):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return urlopen(url, timeout=PATIENCE).read()
        except URLError:
            assert time.monotonic() < deadline, "the dashboard did not start"
            time.sleep(0.1)


def test_it_is_reached_from_this_machine_alone_and_writes_nothing(journal, capfd):
    with Dashboard(journal) as dashboard:
        assert dashboard.url.startswith("http://127.0.0.1:")
        assert dashboard._server.server_address[0] == "127.0.0.1"
        studies = json.load(urlopen(dashboard.url.replace("/dashboard", "/api/studies")))
    assert [study["study_name"] for study in studies["study_summaries"]] == ["seen-from-afar"]
    assert capfd.readouterr() == ("", "")


def test_closing_leaves_no_thread_and_frees_the_port(journal):
    before = threading.active_count()
    dashboard = Dashboard(journal)
    port = int(dashboard.url.split(":")[2].split("/")[0])
    dashboard.close()
    dashboard.close()
    assert threading.active_count() == before
    with pytest.raises(URLError):
        urlopen(dashboard.url)
    with Dashboard(journal, port) as again:
        assert again.url == dashboard.url


def test_a_journal_that_is_not_there_is_named_and_not_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="no journal to show, got .*nothing.journal"):
        Dashboard(tmp_path / "nothing.journal")
    assert list(tmp_path.iterdir()) == []
