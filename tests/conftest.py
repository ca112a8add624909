"""A skipped test fails the suite, unless it is listed here with the reason."""

import signal

import pytest

#: Tests that may be skipped: beginning of the test's id -> why and where.
ALLOWED_SKIPS: dict[str, str] = {
    "tests/test_environment.py::test_make_": "they run make, which a conda user may lack",
    "tests/test_colab.py": "it installs from a package index, which a machine with no network cannot reach",
    "tests/test_train_mnist_torch.py::test_it_trains_": "torch is not installed, and its package without CUDA not found",
    "tests/test_dashboard.py::test_the_": "two of them open a page in Chromium or Chrome, which not every machine has",
    "tests/test_site.py::test_search_": "it opens pages in Chromium or Chrome, which not every machine has",
    "tests/test_site.py::test_no_page_": "it opens pages in Chromium or Chrome, which not every machine has",
}

# A shell in the background lets programs ignore Ctrl-C, and all that they start, and some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


#: They take longest, so they begin first: else a processor is idle in the end.
FIRST = ("test_train_mnist_torch.py", "test_colab.py", "test_without_mxnet.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes longest."""
    items.sort(key=lambda item: item.path.name not in FIRST)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which a test was skipped that may not be."""
    if find_forbidden_skips(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that should not have been skipped."""
    for test in find_forbidden_skips(terminalreporter.config):
        terminalreporter.write_line(f"SKIPPED, but not in ALLOWED_SKIPS of tests/conftest.py: {test}", red=True)


def find_forbidden_skips(config: pytest.Config) -> list[str]:
    """Return the ids of the tests that were skipped and may not be."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # one of the processes that the tests are spread over: the first one sees all skips
        return []
    skipped = [report.nodeid for report in reporter.stats.get("skipped", [])]
    return [test for test in skipped if not test.startswith(tuple(ALLOWED_SKIPS))]
