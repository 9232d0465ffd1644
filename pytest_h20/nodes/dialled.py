"""A local socket whose connections are each a command's standard input and output: the way to root's daemon on this machine by ``sudo``.

What ``forward`` does through SSH channels; here the command gets the connection itself, and nothing has to be moved.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Sequence

from pytest_h20.core.errors import TransportError
from pytest_h20.nodes import scratch
from pytest_h20.nodes.shell import tail

_ASK = b"GET /_ping HTTP/1.0\r\n\r\n"
_ASK_S = 30.0


class Dialled:
    """Listens on ``path``, in a private folder (the socket is as good as root), and runs ``argv`` for each connection. ``close`` ends all.

    Raises:
        TransportError: the command does not lead to a daemon. Its own last words are in the text.
    """

    def __init__(self, argv: Sequence[str], name: str = "h20-dialled") -> None:
        self._argv = tuple(argv)
        self._see()
        self._folder = scratch.folder()
        self.path = f"{self._folder}/docker.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True, name=name).start()

    def _see(self) -> None:
        try:
            told = subprocess.run(self._argv, input=_ASK, capture_output=True, timeout=_ASK_S, check=False, start_new_session=True)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TransportError(str(error)) from error
        if b"200 OK" not in told.stdout.partition(b"\n")[0]:
            raise TransportError(tail(told.stderr) or tail(told.stdout) or "it said nothing")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError), self._lock:
                self._running = [process for process in self._running if process.poll() is None]
                both = connection.fileno()
                started = subprocess.Popen(self._argv, stdin=both, stdout=both, stderr=subprocess.DEVNULL, start_new_session=True)
                self._running.append(started)

    def close(self) -> None:
        """End every connection, and leave no socket behind. May be called twice."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listener.close()
        with self._lock:
            for process in self._running:  # each ends by itself when the other end of its connection is closed
                try:
                    process.wait(1.0)
                except subprocess.TimeoutExpired:
                    with contextlib.suppress(OSError):  # what sudo made root's is not ours to end
                        process.terminate()
            self._running = []
        with contextlib.suppress(OSError):
            os.unlink(self.path)
            os.rmdir(self._folder)
