"""Other Pythons, other pytests, and the lowest versions that are promised: ``nox``, or ``nox -s tests-3.12``.

CI's one machine runs one Python (``scripts/test.sh``); this runs the unit tests and a short rehearsal where the others are present.
"""

from __future__ import annotations

import subprocess
import sys

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
REHEARSAL = ("--engine=sglang", "--nodes=rehearsal:quick", "--h20-history=none", "-k", "docker or bringup or model or stream or c1")


def check(session: nox.Session) -> None:
    """Unit tests, and what a user sees first."""
    session.run("pytest", "-q", "tests/unit")
    session.run("pytest", "-q", "-p", "no:cacheprovider", f"--h20-run-dir={session.create_tmp()}", *REHEARSAL)


@nox.session(python=PYTHONS)
@nox.parametrize("pytest", ["8.2", "newest"])
def tests(session: nox.Session, pytest: str) -> None:
    """Every Python that is present, with the oldest and the newest pytest."""
    session.install("-e", ".[dev,store]", *([f"pytest=={pytest}.*"] if pytest != "newest" else []))
    check(session)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages as a site, in ``site/``: no link and no page is lost. ``REPO_URL`` names the repository it links to."""
    session.install(".[docs]")
    session.run("mkdocs", "build", "--strict")


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """The lowest promised version of every dependency."""
    pins = subprocess.run([sys.executable, "scripts/lowest_versions.py"], capture_output=True, text=True, check=True).stdout.split()
    session.install("-e", ".", *pins)
    session.run("pytest", "-q", "-p", "no:cacheprovider", "tests/plugin/test_inert.py")
