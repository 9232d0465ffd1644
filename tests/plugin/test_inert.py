"""Installed beside another project's tests the plugin does nothing, and costs nothing it need not."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_another_projects_tests_are_untouched(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest("--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*h20:*")
    assert not (pytester.path / "h20-runs").exists()


def test_nothing_heavy_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    code = (
        "import sys, pytest; pytest.main(['-q', '-p', 'no:hypothesispytest', '-p', 'no:anyio']);"
        "print([m for m in ('pydantic', 'paramiko', 'docker', 'openai', 'yaml', 'pytest_h20.plugin.live') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=pytester.path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout


def test_its_own_options_show_in_help(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--help")
    result.stdout.fnmatch_lines(["*H20 cluster acceptance:*", "*--nodes=INVENTORY*", "*--engine=ENGINE*"])


def test_short_names_yield_to_another_plugin(pytester: pytest.Pytester) -> None:
    """A second plugin with --nodes must not make pytest die; the canonical name still works."""
    pytester.makeconftest("")
    pytester.makepyfile(other="def pytest_addoption(parser): parser.addoption('--nodes', dest='other_nodes')")
    pytester.makepyfile("def test_it(request): assert request.config.getoption('other_nodes') == '3'")
    result = pytester.runpytest_subprocess("-p", "other", "--nodes=3")
    result.assert_outcomes(passed=1)


def test_fixtures_say_what_is_missing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(h20_endpoint): pass")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*needs a cluster: give --nodes=INVENTORY.yaml*"])


def test_the_suite_without_an_inventory_is_an_error(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--pyargs", "pytest_h20.acceptance")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the acceptance suite needs a cluster: give --nodes=INVENTORY.yaml*"])


def test_short_names_yield_to_a_conftest(pytester: pytest.Pytester) -> None:
    """A project with an --engine option of its own keeps it."""
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--engine', dest='my_engine')")
    pytester.makepyfile("def test_it(request): assert request.config.getoption('my_engine') == 'diesel'")
    result = pytester.runpytest_subprocess("--engine=diesel")
    result.assert_outcomes(passed=1)
