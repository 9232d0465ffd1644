"""A quick rehearsal, followed from beside as its people would: a terminal without one, and the page."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugin.foreign import REHEARSAL, pytest_in, write


def _now(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/now")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@pytest.mark.alone
def test_a_run_is_followed_from_its_start_to_its_end(tmp_path: Path) -> None:
    write(tmp_path)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "GITHUB_", "H20_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:flask", "-p", "no:django", *REHEARSAL]
    with (
        open(tmp_path / "out", "w") as out,
        subprocess.Popen([*command, "--h20-serve=0", "-k", "c200"], cwd=tmp_path, env=clean, stdout=out, stderr=subprocess.STDOUT) as run,
    ):
        try:
            deadline = time.monotonic() + 60
            url = None
            while url is None and time.monotonic() < deadline and run.poll() is None:
                time.sleep(0.05)
                url = re.search(r"http://127\.0\.0\.1:(\d+)/", (tmp_path / "out").read_text())
            assert url, (tmp_path / "out").read_text()
            port = int(url[1])
            assert "rehearsal-quick" in _now(port)
            watch = [sys.executable, "-m", "pytest_h20", "watch", "h20-runs", "--every", "0.1"]
            watched = subprocess.run(watch, cwd=tmp_path, env={**clean, "LC_ALL": "C"}, capture_output=True, text=True, timeout=120)
        finally:
            run.wait(120)
    said = watched.stdout
    assert watched.returncode == 0, said + watched.stderr
    assert not watched.stderr
    for words in (
        r"bring-up of sglang: ready",
        r"cell 1/\d+ sglang in128-out128-c200: .*/200 requests, \d+ in flight",
        r"Mean TTFT +[\d.\s]+ ms",
        r"last cell sglang in128-out128-c200: 200 requests",
        r"throughput +1/1",
        r"environment +not selected",
        r"kernel log|Kernel log",
        r"finished after",
    ):
        assert re.search(words, said), f"{words}\n{said}"
    (run_folder,) = (tmp_path / "h20-runs").glob("2*")
    assert not (run_folder / ".live").exists()
    with pytest.raises(ConnectionRefusedError):
        _now(port)


def test_what_is_no_port_is_told_before_anything_is_made(tmp_path: Path) -> None:
    write(tmp_path)
    done = pytest_in(tmp_path, *REHEARSAL, "--h20-serve=abc")
    assert done.status == 4
    assert "--h20-serve=abc: is no port; give 1 to 65535, or 0 for a free one" in done.output
    assert not done.runs
