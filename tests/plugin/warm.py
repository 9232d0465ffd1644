"""Runs of pytest from a process that has imported everything already: each a fork, so a process of its own as a user's is.

The kill table makes some 250 runs, and the imports of one take longer than most of its checks. ``python -m tests.plugin.warm`` reads
one JSON object a line, ``{"argv": [...], "cwd": ..., "output": FILE, "timeout": SECONDS}``, and answers with the exit status,
-9 for a run that was killed at its timeout.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest_h20


class Warm:
    """The process and its two pipes."""

    def __init__(self, env: Mapping[str, str]) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH", ""))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.plugin.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**env, "PYTHONPATH": path},
            text=True,
        )
        atexit.register(self.close)

    def pytest(self, argv: Sequence[str], cwd: Path, timeout: float) -> tuple[int, str]:
        """Exit status and everything printed. Raises ``TimeoutError`` for a run that did not end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = cwd / "output.txt"
        job = {"argv": list(argv), "cwd": str(cwd), "output": str(output), "timeout": timeout}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        text = output.read_text(encoding="utf-8", errors="replace")
        if status == -signal.SIGKILL:
            raise TimeoutError(f"the run did not end within {timeout:g} s:\n{text[-3000:]}")
        return status, text

    def close(self) -> None:
        """End of file ends it."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            self._process.wait(10)


@functools.lru_cache(maxsize=1)
def warm() -> Warm:
    """The one of this process. Its environment is ours without what belongs to the pytest that runs this test."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    return Warm(env)


def _run(job: Mapping[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        _become(job)
    deadline = time.monotonic() + float(job["timeout"])
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -int(signal.SIGKILL)
        time.sleep(0.01)


def _become(job: Mapping[str, Any]) -> None:
    """The child: a pytest with its own output, session and folder. Never returns."""
    import pytest

    status = 3
    try:
        os.setsid()
        os.chdir(job["cwd"])
        nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        sys.argv = ["pytest", *job["argv"]]
        status = int(pytest.main(list(job["argv"])))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


IMPORTED: tuple[str, ...] = (
    "docker",
    "openai.resources.chat.completions",
    "openai.resources.models",
    "anyio.streams.tls",
    "hypothesis.strategies",
)
IMPORTED += ("_pytest.junitxml", "_pytest.pastebin", "_pytest.unittest", "pdb", "pytest_html", "xdist.looponfail", "xdist.plugin")
"""What pytest, the suite and this repository's conftest load in every run."""


def main() -> None:
    """Import once what every run imports, then serve."""
    for name in IMPORTED:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(pytest_h20.__path__, "pytest_h20."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()  # a collection in a fork would copy every page of what is here
    for line in sys.stdin:
        print(_run(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
