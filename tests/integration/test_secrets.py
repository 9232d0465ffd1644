"""Planted secrets of every kind are searched for in every way out of a run whose engine really printed them and died."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.integration.tiny import IMAGE, Ran, Tiny, clean_environment

_BASE64 = base64.b64encode(b"planted-user:planted-docker-auth").decode()
SECRETS = {  # kind: (the line that an engine prints, what must be nowhere)
    "Hugging Face": ("OSError: hf_PlantedPlantedPlanted12345678 is not a valid token", "hf_Planted"),
    "API key, by shape": ("Incorrect API key provided: sk-proj-plantedplantedplanted99", "sk-proj-planted"),
    "API key, by option": ("non-default args: --port 8000 --api-key planted-by-option", "planted-by-option"),
    "API key, by header": ("x-api-key: planted-by-header", "planted-by-header"),
    "AWS id": ("botocore: AKIAPLANTEDPLANTED12 may not", "AKIAPLANTED"),
    "AWS secret": ("aws_secret_access_key = plantedAws/0123456789+abc", "plantedAws"),
    "AWS link": ("GET https://b.s3.amazonaws.com/x?X-Amz-Expires=60&X-Amz-Signature=plantedamzsig0123", "plantedamzsig"),
    "Azure": ("DefaultEndpointsProtocol=https;AccountKey=plantedAzure0123456789abcdef==;EndpointSuffix=x", "plantedAzure"),
    "Azure link": ("GET https://x.blob.core.windows.net/w/m?sv=2022-11-02&sig=plantedSas0123456789%3D", "plantedSas"),
    "GitHub": ("remote: ghp_plantedplantedplantedplanted0123 expired", "ghp_planted"),
    "kube": ("    client-key-data: cGxhbnRlZGt1YmVrZXlwbGFudGVkCg==", "cGxhbnRlZGt1"),
    "JWT": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.plantedSignature", "plantedSignature"),
    "cookie": ("Set-Cookie: session=plantedcookie0123; HttpOnly", "plantedcookie"),
    "proxy": ("HTTPS_PROXY=http://me:planted-proxy-pw@proxy:3128", "planted-proxy-pw"),
    "URL": ("RuntimeError: cannot reach https://me:planted-url-pw@host/x", "planted-url-pw"),
    "docker": (json.dumps({"auths": {"registry": {"auth": _BASE64}}}), _BASE64),
    "SSH": ("sshpass -p planted-ssh-pw ssh root@node02", "planted-ssh-pw"),
    "PEM": ("-----BEGIN RSA PRIVATE KEY-----\nplantedpemline\nplantedpemline\n-----END RSA PRIVATE KEY-----", "plantedpemline"),
    "a user's own": ("ValueError: rack-4711 is unknown", "rack-4711"),
    "bare, named in the inventory": ("RuntimeError: planted-bare-env was refused", "planted-bare-env"),
    "bare, named in the environment": ("RuntimeError: planted-bare-here was refused", "planted-bare-here"),
}
LINES = "\n".join(line for line, _ in SECRETS.values())
DIES = f"""#!/bin/sh
echo "INFO 04-05 12:00:00 [api_server.py:1839] vLLM API server version 0.11.0"
cat <<'PLANTED'
{LINES}
PLANTED
sleep 1
exit 1
"""
# What a test prints comes in pieces, and what it flushes comes before the line is whole.
TEST = f"""
import sys
import pytest

LINES = {LINES!r}
gate = pytest.mark.h20_gate("bringup")

@gate
def test_prints(h20_inventory):
    print(LINES)
    for line in LINES.splitlines():
        head, _, tail = line.partition("=")
        sys.stdout.write(head + ("=" if tail else ""))
        sys.stdout.write(tail + chr(10))
    print(LINES, file=sys.stderr, flush=True)
    for line in "-----BEGIN PRIVATE KEY-----", "plantedpemline", "-----END PRIVATE KEY-----", "the end":
        print(line, flush=True)

@gate
def test_fails(h20_inventory, record_property):
    record_property("said", LINES)
    raise RuntimeError(LINES)

@gate
def test_it(h20_cluster): pass
"""


def seen(text: str) -> list[str]:
    """The kinds of which something is to be seen, as it is or as a page or a link writes it."""
    texts = {text, html.unescape(text), html.unescape(html.unescape(text)), unquote(text), text.replace("\\\\", "\\")}
    return [kind for kind, (_, word) in SECRETS.items() if any(word in one for one in texts)]


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    cluster = Tiny(DIES)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def inventory(tiny: Tiny) -> Path:
    env = {"HF_TOKEN": "planted-bare-env", "VLLM_API_KEY": "planted-by-option"}
    return tiny.inventory("secrets", env=env, top={"redact": ["rack-[0-9]+"]})


HERE = {"DEPLOY_TOKEN": "planted-bare-here", "GITHUB_STEP_SUMMARY": "summary.md"}


@pytest.mark.parametrize("extra", [(), ("-s",), ("--capture=tee-sys",), ("-n", "2", "-s")], ids=lambda words: " ".join(words) or "plain")
def test_a_bring_up_that_dies_shows_none(tiny: Tiny, inventory: Path, tmp_path: Path, extra: tuple[str, ...]) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TEST)
    outputs = ("--junitxml=j.xml", "--html=r.html", "--self-contained-html", "--showlocals", "-rA", "-vv")
    ran = tiny.run(tmp_path, "test_it.py", *outputs, *extra, inventory=inventory, timeout=200, env=HERE)
    assert "rank0 ended (exit code 1)" in ran.output or "end of its log" in ran.output, ran.output
    if "-n" not in extra:
        assert "the end" in ran.output, "what a test prints is shown"
    assert seen(ran.output) == []
    assert "visible to who may run `docker inspect` there: HF_TOKEN on node01, VLLM_API_KEY on node01" in ran.output
    (run,) = (tmp_path / "h20-runs").glob("2*")
    assert "docker inspect" in (run / "verdict.json").read_text()
    assert list((run / ".shared").glob("facts-*.json")), "what the processes of the run told each other is searched as well"
    found = {path.relative_to(tmp_path): seen(path.read_text(errors="replace")) for path in files(tmp_path)}
    assert {Path("j.xml"), Path("r.html"), Path("summary.md")} <= set(found)
    assert {path: kinds for path, kinds in found.items() if kinds} == {}
    if not extra:
        _later(tmp_path, run)


def files(folder: Path) -> list[Path]:
    """What a run wrote, but for the tests themselves."""
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".sqlite")]


def _later(folder: Path, run: Path) -> None:
    """Replay, comparison and history of the run."""
    environment = {**clean_environment(), **HERE}
    for words in (
        ("pytest", "-p", "no:cacheprovider", f"--h20-replay={run}", "--html=p.html", "--self-contained-html", "--junitxml=p.xml", "-rA"),
        ("pytest_h20", "compare", run, run, "--html", "c.html"),
        ("pytest_h20", "history", "--runs", run.parent, "--html", "h.html"),
    ):
        command = [sys.executable, "-m", *map(str, words)]
        ran = Ran(subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False))
        assert "Traceback" not in ran.output
        assert seen(ran.output) == [], words
    found = {path.relative_to(folder): seen(path.read_text(errors="replace")) for path in files(folder)}
    assert {Path("p.html"), Path("p.xml"), Path("h.html")} <= set(found)
    assert {path: kinds for path, kinds in found.items() if kinds} == {}


def test_a_plan_shows_none(tiny: Tiny, inventory: Path, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ran = tiny.run(tmp_path, "--h20-plan", inventory=inventory, env=HERE)
    assert re.search(r"HF_TOKEN=\S*redacted", ran.output), ran.output
    assert seen(ran.output) == []


def test_a_container_that_runs_is_what_the_note_is_about(tiny: Tiny, inventory: Path) -> None:
    """The note is true: who may ask the daemon reads the environment."""
    client = tiny.docker()
    made = client.create_container(IMAGE, ["/bin/true"], environment={"HF_TOKEN": "planted-bare-env"}, name="note")
    try:
        assert "HF_TOKEN=planted-bare-env" in client.inspect_container(made["Id"])["Config"]["Env"]
        assert os.environ.get("HF_TOKEN") is None or os.environ["HF_TOKEN"] != "planted-bare-env"
    finally:
        client.remove_container("note", force=True)
        client.close()
