"""The page of a run: its port, who may ask, what it forbids, that it updates itself in a real browser, and that it ends with the run."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.core.verdict import Status
from pytest_h20.report.live import serve
from pytest_h20.report.live.progress import GateStand, Progress, RunState, Sparkline
from tests.unit.report import samples

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAYLOAD = "</h1><script>document.title='planted'</script><img src=x onerror=\"document.title='planted'\">"
STAND = Progress(
    run="20260405T093000Z-sglang-h20",
    name="h20" + PAYLOAD,
    engines=("sglang",),
    mode="full run",
    state=RunState.RUNNING,
    started=None,
    running_s=75.0,
    since_sign_s=1.0,
    scale=1.0,
    gates=(GateStand("fabric" + PAYLOAD, "it is healthy", "runs, FAILED so far", Status.FAIL, 3, 9, "mlx5_3" + PAYLOAD),),
    gpus=(Sparkline("node01", "GPU 0", "W", (380.0, 391.0), "391 W", odd=True),),
    kernel="node01: " + PAYLOAD,
)


class ToldNow:
    """A run that says something else each time it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.over_from = 1_000_000

    def __call__(self) -> Progress:
        self.asked += 1
        over = self.asked >= self.over_from
        return replace(STAND, kernel=f"asked {self.asked} times", state=RunState.FINISHED if over else RunState.RUNNING)


@pytest.fixture
def page() -> Iterator[tuple[int, ToldNow]]:
    told, end = ToldNow(), threading.Event()
    listening = serve.listen(0, "--serve")
    server = serve.PageServer(listening, told)
    server.end_when(end.wait)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_port, told
    server.asked_at = 0.0  # nobody waits for how it ends
    end.set()
    thread.join(10)
    server.server_close()
    assert not thread.is_alive()


def get(port: int, path: str = "/", host: str = "", method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
    connection.close()
    return found


@pytest.mark.parametrize("value", ["abc", "-1", "65536", "8000.5", "", "８０"])
def test_what_is_no_port_is_one_line(value: str) -> None:
    with pytest.raises(UsageError, match="is no port; give 1 to 65535, or 0 for a free one") as caught:
        serve.port_asked(value, "--h20-serve")
    assert "\n" not in str(caught.value)


def test_a_port_that_is_taken_is_one_line_and_0_is_a_free_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"--h20-serve={port}: 127.0.0.1:{port} cannot be listened on: Address already in use; give"):
            serve.listen(port, "--h20-serve")
    with serve.listen(serve.port_asked("0", "--h20-serve"), "--h20-serve") as free:
        assert serve.url_of(free) == f"http://127.0.0.1:{free.getsockname()[1]}/"
        assert free.getsockname()[0] == "127.0.0.1"


def test_every_answer_forbids_what_is_not_the_pages_own(page: tuple[int, ToldNow]) -> None:
    port, _ = page
    for path, kind in (("/", "text/html"), ("/now", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, headers, body = get(port, path)
        assert (status, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        if kind == "text/html":
            assert "planted" in body, "the text is shown"
            assert not [made for made in ("<script>", "<img", " style=") if made in body]
    assert get(port, "/etc/passwd")[0] == 404
    assert get(port, method="HEAD")[0::2] == (200, "")


def test_another_name_that_leads_here_and_another_user_are_refused(page: tuple[int, ToldNow], monkeypatch: pytest.MonkeyPatch) -> None:
    port, told = page
    assert get(port, host=f"localhost:{port}")[0] == 200
    before = told.asked
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        assert get(port, host=host)[0] == 403
    monkeypatch.setattr(serve, "peer_of", lambda *_: 4711)
    assert get(port)[0] == 403
    assert told.asked == before, "nothing was read for them"


def test_whose_connection_it_is(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()) as client:
            assert serve.peer_of(client.getsockname()[1], server.getsockname()[1]) == Path("/proc/self").stat().st_uid
    assert serve.peer_of(1, 2) is None
    assert serve.peer_of(1, 2, tmp_path / "none") is None


def test_a_run_that_cannot_be_read_is_said_on_the_page() -> None:
    def stand() -> Progress:
        raise H20Error("verdict.json: <cut>")

    with serve.listen(0, "--serve") as listening:
        server = serve.PageServer(listening, stand)
        assert "verdict.json: &lt;cut&gt;" in server.moment()
        server.server_close()


def seen_in_a_browser(port: int, folder: Path) -> str:
    """The page's DOM after some of the browser's own seconds."""
    assert BROWSER
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=5000", "--dump-dom", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, timeout=60
    )
    assert "Content Security Policy" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.skipif(not BROWSER, reason="needs a browser")
def test_in_a_browser_it_updates_itself_and_nothing_planted_runs(
    page: tuple[int, ToldNow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, told = page
    monkeypatch.setattr(serve, "FRESH_S", 0.0)
    told.over_from = 4
    dom = seen_in_a_browser(port, tmp_path)
    assert told.asked == 4, "it stops when the run is over"
    assert "asked 4 times" in dom
    assert "The run is over: this page stays as it is." in dom
    assert "<title>planted" not in dom
    assert "<title>sglang · h20&lt;/h1&gt;" in dom
    assert dom.count("<svg") == 1


PARENT = """
import sys, time
from pathlib import Path
from pytest_h20.report.live.serve import Page
page = Page(0)
page.start(Path(sys.argv[1]))
print(page.url, page._process.pid, flush=True)
time.sleep(60)
"""


def until(what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


def test_it_ends_with_its_run(tmp_path: Path) -> None:
    page = serve.Page(0)
    page.start(samples.start(tmp_path).path)
    process = page._process
    assert process is not None
    assert "not begun" in get(port_of(page.url), "/now")[2]
    page.close()
    page.close()
    assert process.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        get(port_of(page.url))


def test_nothing_stays_of_a_run_that_was_killed(tmp_path: Path) -> None:
    run = samples.start(tmp_path)
    with subprocess.Popen([sys.executable, "-c", PARENT, str(run.path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        url, pid = parent.stdout.readline().split()
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        process = Path(f"/proc/{pid}")
        assert until(lambda: not process.exists() or "State:\tZ" in (process / "status").read_text())
        with pytest.raises(ConnectionRefusedError):
            get(port_of(url))
