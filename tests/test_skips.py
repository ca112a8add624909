"""A skipped test fails the suite unless tests/conftest.py lists it."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SKIPPED = """
import pytest

@pytest.mark.skip(reason="no time")
def test_one():
    pass

def test_two():
    pass
"""


def run(pytester: pytest.Pytester, allowed: str) -> pytest.RunResult:
    """Run `SKIPPED` under our conftest with its list replaced."""
    conftest = (Path(__file__).parent / "conftest.py").read_text(encoding="utf-8")
    pytester.makeconftest(f"{conftest}\nALLOWED_SKIPS = {allowed}\n")
    pytester.makepyfile(test_skipped=SKIPPED)
    return pytester.runpytest("-p", "no:cacheprovider")


def test_a_skipped_test_fails_the_suite_and_is_named(pytester: pytest.Pytester) -> None:
    result = run(pytester, "{}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*not in ALLOWED_SKIPS*: test_skipped.py::test_one"])


def test_a_listed_test_may_be_skipped(pytester: pytest.Pytester) -> None:
    result = run(pytester, "{'test_skipped.py::test_one': 'because'}")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=1)
