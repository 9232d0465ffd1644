"""Fixtures that other plugins have, too: theirs stay theirs, wherever this plugin is installed beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.foreign import REHEARSAL, pytest_in, write

FLASK = """
import flask, pytest

@pytest.fixture
def app():
    app = flask.Flask("shop")
    app.add_url_rule("/", view_func=lambda: "open")
    return app
"""
FLASK_TEST = """
def test_theirs(client):
    assert client.get("/").data == b"open"
"""
DJANGO = """
from django.conf import settings

settings.configure(ROOT_URLCONF="urls", ALLOWED_HOSTS=["*"])
"""
DJANGO_URLS = """
from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse("open"))]
"""
DJANGO_TEST = """
def test_theirs(client):
    assert client.get("/").content == b"open"
"""
OURS = """
def test_ours(h20_client, h20_endpoint, endpoint):
    assert endpoint is h20_endpoint
    assert [m.id for m in h20_client.models.list().data] == [endpoint.model]
"""
PROJECTS = {
    "flask": {"conftest": FLASK, "test_theirs": FLASK_TEST},
    "django": {"conftest": DJANGO, "urls": DJANGO_URLS, "test_theirs": DJANGO_TEST},
}


@pytest.mark.parametrize("neighbour", PROJECTS)
def test_installed_beside_another_plugin_its_client_stays(tmp_path: Path, neighbour: str) -> None:
    write(tmp_path, **PROJECTS[neighbour])
    done = pytest_in(tmp_path, beside=(neighbour,))
    assert done.counts == {"passed": 1}, done.output
    assert "h20:" not in done.output


@pytest.mark.parametrize("neighbour", PROJECTS)
def test_in_a_run_with_a_cluster_too_and_the_header_says_so(tmp_path: Path, neighbour: str) -> None:
    write(tmp_path, test_ours=OURS, **PROJECTS[neighbour])
    done = pytest_in(tmp_path, *REHEARSAL, "test_theirs.py", "test_ours.py", beside=(neighbour,))
    assert done.counts["passed"] == 2, done.output
    (line,) = [text for text in done.output.splitlines() if "these fixtures are not ours" in text]
    assert "client (of plugin " in line
    assert "ours is h20_client" in line
    assert "endpoint" not in line


def test_a_plugin_of_the_command_line_and_a_conftest_keep_theirs(tmp_path: Path) -> None:
    mine = 'import pytest\n\n@pytest.fixture(name="client")\ndef mine():\n    return "mine"\n'
    write(
        tmp_path,
        myplug=mine,
        conftest='import pytest\n\n@pytest.fixture\ndef run():\n    return "here"\n',
        test_it='def test_it(client, run, judge):\n    assert (client, run) == ("mine", "here")\n',
    )
    done = pytest_in(tmp_path, "-p", "myplug", *REHEARSAL, "test_it.py")
    assert done.counts["passed"] == 1, done.output
    assert "client (of plugin myplug; ours is h20_client), run (of conftest.py; ours is h20_run)" in done.output


def test_without_a_cluster_the_short_names_do_not_exist(tmp_path: Path) -> None:
    write(tmp_path, test_it="def test_it(endpoint): pass\n")
    done = pytest_in(tmp_path)
    assert "fixture 'endpoint' not found" in done.output
