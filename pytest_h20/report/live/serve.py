"""A run as one page on loopback: for its own user, from this machine, as long as the run goes on.

``Page`` is the run's end of it: it takes the port, starts a process of its own (the measurement has nothing to do with it), and holds
the other end of that process's standard input. However the run ends, also by SIGKILL, the kernel closes it, and the process ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

from pytest_h20 import lang
from pytest_h20.core.errors import H20Error, UsageError
from pytest_h20.lang import local
from pytest_h20.report.html.tags import Html, join, tag
from pytest_h20.report.live.folder import Follow, Here
from pytest_h20.report.live.page import POLICY, moment, program, shell, style
from pytest_h20.report.live.progress import Progress

LOOPBACK = "127.0.0.1"
FRESH_S = 0.5
"""A moment that is no older is told again: ten pages cost what one costs."""
GRACE_S = 1.5
"""So long a page that is open may still fetch how the run ended."""


def port_asked(value: object, option: str) -> int:
    """A port, 0 for a free one. Raises ``UsageError``."""
    text = str(value)
    if not text.isascii() or not text.isdigit() or int(text[:6]) > 65535:
        raise UsageError(f"{option}={text}: is no port; give 1 to 65535, or 0 for a free one, which is then told")
    return int(text)


def listen(port: int, option: str) -> socket.socket:
    """The port, on loopback only. Raises ``UsageError`` when it cannot be had."""
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of an earlier run's page: TIME_WAIT is no owner
        taken.bind((LOOPBACK, port))
        taken.listen(64)
    except OSError as error:
        taken.close()
        raise UsageError(
            f"{option}={port}: {LOOPBACK}:{port} cannot be listened on: {error.strerror or error}; give another port, or 0 for a free one"
        ) from None
    return taken


def url_of(listening: socket.socket) -> str:
    """What to open in a browser."""
    return f"http://{LOOPBACK}:{listening.getsockname()[1]}/"


class Page:
    """The page of a run, as the run has it: ``start`` when its folder is there, ``close`` when it is over."""

    def __init__(self, port: int) -> None:
        self._socket = listen(port, "--h20-serve")
        self.url = url_of(self._socket)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, run: Path) -> None:
        """In a process of its own, which gets neither our signals nor our terminal."""
        root = str(Path(__file__).parents[3])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        handle = self._socket.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest_h20.report.live.serve", str(handle), str(run.resolve()), lang.spoken()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(handle,),
            cwd="/",
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        self._socket.close()

    def close(self) -> None:
        """A page that is open learns how the run ended; then nobody answers any more. May be called twice."""
        self._socket.close()
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(3 * GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class PageServer(ThreadingHTTPServer):
    """``stand``: how the run stands. ``told_end``: that a page has fetched how it ended. ``asked_at``: when a page was last there."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, stand: Callable[[], Progress]) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = listening.getsockname()[:2]
        self.told_end = threading.Event()
        self.asked_at = 0.0
        self._stand, self._lock = stand, threading.Lock()
        self._at, self._moment = 0.0, Html("")

    def moment(self) -> Html:
        """How the run stands, as markup; why it cannot be told, where it cannot."""
        with self._lock:
            self.asked_at = time.monotonic()
            if not self._at or time.monotonic() - self._at > FRESH_S:
                try:
                    found = self._stand()
                    self._moment = moment(found)
                    if found.state.over:
                        self.told_end.set()
                except H20Error as error:
                    self._moment = join(tag("h1", "The run cannot be read"), tag("p", str(error)))
                self._at = time.monotonic()
            return self._moment

    def end_when(self, ended: Callable[[], object]) -> None:
        """End when ``ended`` returns, and a page that is open has learnt of it."""

        def wait() -> None:
            ended()
            self.told_end.clear()
            with self._lock:
                self._at = 0.0
            deadline = time.monotonic() + GRACE_S
            while time.monotonic() < deadline and time.monotonic() - self.asked_at < GRACE_S and not self.told_end.wait(0.05):
                pass
            time.sleep(0.05 if self.told_end.is_set() else 0.0)  # its answer is on its way
            self.shutdown()

        threading.Thread(target=wait, name="h20-page-end", daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle of an answer is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 20.0
    server_version, sys_version = "pytest-h20", ""

    def do_GET(self) -> None:
        host = self.headers.get("Host", "")
        port = self.server.server_port
        if host not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):  # a name that somebody else made lead here
            self._answer(403, "text/plain", local("this page is asked for as http://127.0.0.1 or http://localhost only") + "\n")
        elif peer_of(self.client_address[1], port) not in (os.geteuid(), 0, None):
            self._answer(403, "text/plain", local("this page is for the user of the run") + "\n")
        else:
            files: dict[str, tuple[str, Callable[[], str]]] = {
                "/": ("text/html", lambda: shell(self.server.moment())),
                "/now": ("text/html", lambda: str(self.server.moment())),
                "/page.js": ("text/javascript", program),
                "/page.css": ("text/css", style),
            }
            found = files.get(self.path)
            if found is None:
                self._answer(404, "text/plain", local("there is / only") + "\n")
            else:
                self._answer(200, found[0], found[1]())

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, text: str) -> None:
        data = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(data))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


def peer_of(port: int, ours: int, table: Path = Path("/proc/net/tcp")) -> int | None:
    """The user whose socket on loopback has connected from ``port`` to ``ours``; None where the system does not tell.

    A run's folder is its user's alone, and every user of the machine can connect to loopback.
    """
    here = "".join(f"{int(part):02X}" for part in reversed(LOOPBACK.split(".")))
    ends = [f"{here}:{port:04X}", f"{here}:{ours:04X}"]
    with contextlib.suppress(OSError):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1:3] == ends:
                return int(fields[7])
    return None


def show(listening: socket.socket, follow: Follow, ended: Callable[[], object]) -> None:
    """Serve until ``ended`` returns."""
    server = PageServer(listening, follow.stand)
    server.end_when(ended)
    try:
        server.serve_forever(0.1)
    finally:
        server.server_close()


def main(handle: int, run: Path, lifeline: BinaryIO) -> None:
    """The process of a run's page. ``handle``: its listening socket. It ends when ``lifeline`` does."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)  # what is measured beside it comes first
    show(socket.socket(fileno=handle), Follow(Here(run)), lifeline.read)


if __name__ == "__main__":
    lang.use(sys.argv[3])
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.stdin.buffer)
