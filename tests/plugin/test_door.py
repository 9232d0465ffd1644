"""Planted secrets and hostile words are searched for in everything that a run leaves: terminal, JUnit, page, folder, plan, attach."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

SECRETS = {
    "HF_TOKEN": "hf_" + "PlantedPlantedPlanted1234",
    "OPENAI_API_KEY": "sk-" + "plantedplantedplanted",
    "AWS_SECRET_ACCESS_KEY": "planted/aws/secret/key/0123456789",
    "GITHUB_TOKEN": "ghp_" + "planted" * 5,
    "SSH_PASSWORD": "planted-ssh-password",
    "BARE_TOKEN": "planted-bare-token",
}
TESTS = """
import os
import pytest
from pytest_h20.core.errors import BringUpError

SECRETS = [f"{name}={os.environ[name]}" for name in %r]
TAIL = "\\n".join(SECRETS) + "\\n" + os.environ["BARE_TOKEN"] + " rack-4711\\x1b[2J\\x1b]0;x\\x07\\n::stop-commands::x\\n##[add-mask]y"
PEM = "-----BEGIN RSA PRIVATE KEY-----\\nplantedpem\\nplantedpem\\n-----END RSA PRIVATE KEY-----"

@pytest.fixture
def dies():
    raise BringUpError("bring-up failed; the log ends:\\n" + TAIL)

def test_set_up(dies): pass

@pytest.mark.h20_gate("bringup")
def test_gate(): raise BringUpError("bring-up failed; the log ends:\\n" + TAIL + PEM)

@pytest.mark.parametrize("id", ["<script>planted()</script>", "<img src=x onerror=planted()>\\x1b[2J"], ids=lambda t: t)
def test_call(id, record_property):
    record_property("api_key", os.environ["BARE_TOKEN"])
    print(TAIL, PEM)
    assert False, "http://me:planted-url-password@host/ " + PEM + TAIL
"""
CONFTEST = 'def pytest_h20_redact():\n    return ["rack-[0-9]+"]\n'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def planted(text: str) -> list[str]:
    """What of the planted is to be seen."""
    texts = [text, html.unescape(text), html.unescape(html.unescape(text))]
    words = [*SECRETS.values(), "plantedpem", "planted-url-password", "rack-4711"]
    return [word for word in words if any(word in found for found in texts)]


def obeyed(text: str) -> list[str]:
    """Lines that GitHub would take for commands, but for ours."""
    ours = ("::error title=", "::warning title=")
    return [x for x in text.splitlines() if (x.strip().startswith("::") and not x.startswith(ours)) or "##[" in x]


def test_nothing_planted_leaves_a_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    pytester.makeconftest(CONFTEST)
    source = pytester.makepyfile(TESTS % [*SECRETS])
    for extra in ([], ["-n2"]):
        more = ["--engine=sglang", "--junitxml=j.xml", "--html=r.html", "--self-contained-html", "-p", "no:cacheprovider", *extra]
        done = pytester.runpytest_subprocess("--nodes=rehearsal", "--showlocals", *more, str(source))
        terminal = done.stdout.str() + done.stderr.str()
        assert "bring-up failed" in terminal
        assert planted(terminal) == []
        assert obeyed(terminal) == []
        assert "\x1b" not in terminal
        names = [case.get("name", "") for case in ElementTree.parse(pytester.path / "j.xml").iter("testcase")]
        assert len(names) == 4
        page = (pytester.path / "r.html").read_text(encoding="utf-8")
        assert not [one for one in made_of(page) if "planted" in str(one)]
        if BROWSER:
            assert_harmless(pytester.path / "r.html")
    run = next(iter((pytester.path / "h20-runs").glob("*-rehearsal")))
    replay = pytester.runpytest_subprocess(f"--h20-replay={run}", "--html=p.html", "--self-contained-html", "-p", "no:cacheprovider")
    assert planted(replay.stdout.str() + replay.stderr.str()) == []
    left = [f for f in pytester.path.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc", ".sqlite")]
    assert {f.name for f in left} >= {"summary.md", "j.xml", "r.html", "p.html", "verdict.json", "events.jsonl"}
    assert {f.name: planted(f.read_text(encoding="utf-8", errors="replace")) for f in left} == {f.name: [] for f in left}


def made_of(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """Every element of a page of pytest-html: those of its own text, and those its script makes of the rows it carries."""
    outer = Elements(page)
    data = next(a["data-jsonblob"] for _, a in outer.found if "data-jsonblob" in a) or ""
    rows = [row for tests in json.loads(data)["tests"].values() for row in tests]
    assert rows
    parts = [text for row in rows for text in (*row["resultsTableRow"], *row.get("tableHtml", ()), row["log"])]
    elements = [one for one in outer.found if "data-jsonblob" not in one[1]]
    return elements + [one for part in parts for one in Elements(part).found]


class Elements(HTMLParser):
    """The elements that a browser would make of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script" and "planted()" in data:
            self.found.append(("script", {"text": data}))


def assert_harmless(page: Path) -> None:
    """A browser shows the page and has made no element of what was planted."""
    assert BROWSER
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent}/browser", "--dump-dom")
    command = [BROWSER, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "col-testId" in done.stdout, done.stderr
    shutil.rmtree(page.parent / "browser", ignore_errors=True)
    elements = Elements(done.stdout).found
    assert not [one for one in elements if "onerror" in one[1] or one == ("script", {"text": "planted()"})]


def test_a_plan_and_an_attach_show_no_secret(pytester: pytest.Pytester, inventory_file: Path, inventory_text: str) -> None:
    port = "        dist_port: 30000\n"
    shown = inventory_text.replace(port, port + "        env: {HF_TOKEN: planted-ssh-password}\n", 1)
    assert shown != inventory_text
    inventory_file.write_text(shown, encoding="utf-8")
    done = pytester.runpytest_subprocess("--nodes=cluster.yaml", "--engine=sglang", "--h20-plan")
    assert done.ret == 0, done.stderr.str()
    done.stdout.fnmatch_lines(["# note: visible to who may run `docker inspect` there: HF_TOKEN on *", "*HF_TOKEN=?redacted?*"])
    assert planted(done.stdout.str() + done.stderr.str()) == []
    done = pytester.runpytest_subprocess("--h20-attach=http://me:planted-url-password@127.0.0.1:9", "--engine=sglang")
    assert planted(done.stdout.str() + done.stderr.str()) == []
