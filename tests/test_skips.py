"""A skipped test fails the suite unless tests/conftest.py lists it."""

from pathlib import Path

pytest_plugins = ["pytester"]


def test_a_skipped_test_fails_the_suite_and_is_named_unless_it_is_listed(pytester):
    conftest = (Path(__file__).parent / "conftest.py").read_text(encoding="utf-8")
    pytester.makepyfile(test_skipped="import pytest\n\ndef test_one():\n    pytest.skip('no time')")
    for allowed, fails in (("{}", True), ("{'test_skipped.py::test_one': 'because'}", False)):
        pytester.makeconftest(f"{conftest}\nALLOWED_SKIPS = {allowed}\n")
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
        assert result.ret == fails
        named = "not in ALLOWED_SKIPS of tests/conftest.py: test_skipped.py::test_one"
        assert (named in result.stdout.str()) == fails
