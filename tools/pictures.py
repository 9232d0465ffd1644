"""The pictures of the tour (docs/tour.md): rehearsals in both languages, looked at in Chromium.

    python tools/pictures.py            # all of them into docs/img; some minutes
    python tools/pictures.py FOLDER     # the same; runs are kept there, and those that are there are not run again

Those that are committed were made palettes of 256 colours after that, by whatever is at hand: a third of the size, and nothing is lost.

Needs Chromium, and for Chinese a font that has it (Debian: chromium, fonts-wqy-zenhei). Chromium is spoken to over a pipe, so that no
port is open and nothing is installed for it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from pytest_h20 import lang
from pytest_h20.report.compare import compare, side
from pytest_h20.report.html.page import comparison_page, run_page
from pytest_h20.report.run import load_run

PICTURES = Path(__file__).parents[1] / "docs" / "img"
LARGEST = 150_000
"""Bytes of a picture."""
WIDTH, HEIGHT = 900, 640
"""CSS pixels of what is seen."""
RUNS = {"green": "", "red": "--h20-fault=rail-down", "slow": "--h20-fault=one-cell-12-percent-slow"}
PORT = 18_807
NODES = "rehearsal:quick@10"
"""Slower than on the page: what else this machine does is in no picture."""


class Browser:
    """Chromium with one page, over ``--remote-debugging-pipe``: it reads file descriptor 3 and writes 4, a NUL after each message."""

    def __init__(self, profile: str) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        name = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        flags = f"--headless=new --no-sandbox --hide-scrollbars --remote-debugging-pipe --user-data-dir={profile}"
        shell = f'exec "$0" {flags} about:blank 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(["bash", "-c", shell, name], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._read, self._number, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(asked | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while True:
            while b"\0" not in self._read:
                self._read += os.read(self._in, 1 << 20)
            message, _, self._read = self._read.partition(b"\0")
            answer = json.loads(message)
            if answer.get("id") == self._number:
                return dict(answer["result"])

    def ask(self, expression: str) -> Any:
        """The value of an expression on the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, url: str) -> None:
        """Go there, and wait until it is complete."""
        self.call("Page.navigate", url=url)
        while self.ask("location.href + document.readyState") != f"{url}complete":
            time.sleep(0.1)

    def picture(self, path: Path, section: str = "", height: int = HEIGHT) -> None:
        """What is seen of the page, from its top or from the section with this heading on."""
        top = 0
        if section:
            top = self.ask(
                f"[...document.querySelectorAll('h2')].find(h => h.textContent === {json.dumps(section)}).getBoundingClientRect().top"
            )
        clip = {"x": 0, "y": top, "width": WIDTH, "height": height, "scale": 1}
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"])
        if len(data) > LARGEST:
            raise SystemExit(f"{path}: {len(data)} bytes; at most {LARGEST}: make it smaller")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(path, len(data))

    def close(self) -> None:
        """End it."""
        self.call("Browser.close")
        self._process.wait(30)


def rehearse(folder: Path, name: str, language: str, *more: str) -> subprocess.Popen[bytes]:
    """A run of the quick rehearsal, with its record below ``name``."""
    words = ["pytest", "--pyargs", "pytest_h20.acceptance", "--engine=sglang", f"--nodes={NODES}", f"--h20-lang={language}"]
    words += [f"--h20-run-dir={name}", "-p", "no:cacheprovider", *filter(None, more)]
    return subprocess.Popen([sys.executable, "-m", *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def record(folder: Path, name: str) -> Path:
    """The record of a run in the folder, run now if it is not there."""
    if not (folder / name).is_dir():
        status = rehearse(folder, name, "en", RUNS[name]).wait()
        if status != (name != "green"):
            raise SystemExit(f"the {name} run ended with {status}: this machine is too busy for it, or something is broken")
    return next((folder / name).glob("2*"))


def wait_for_load(url: str) -> None:
    """Until the run's own page shows GPUs under load."""
    for _ in range(600):
        time.sleep(0.5)
        try:
            with urllib.request.urlopen(f"{url}now", timeout=5) as answer:
                if "live-courses" in answer.read().decode():
                    return
        except OSError:
            continue
    raise SystemExit(f"{url} shows no load")


def take(language: str, browser: Browser, folder: Path) -> None:
    """The pictures of one language."""

    def path(name: str) -> Path:
        return PICTURES / f"{name}.{language}.png"

    records = {name: record(folder, name) for name in RUNS}
    with lang.speaking(language):
        gates, figures = lang.local("Gates"), lang.local("Throughput and latency")
        pages = {name: run_page(load_run(run)) for name, run in records.items()}
        pages["compare"] = comparison_page(compare(side(load_run(records["green"])), side(load_run(records["slow"]))))
    for name, text in pages.items():
        # where this checkout lies is nobody's business
        (folder / f"{name}.html").write_text(text.replace(f"{PICTURES.parents[1]}/", ""), encoding="utf-8")
    for name, shown, section, height in (
        ("green", "green", "", HEIGHT),
        ("figures", "green", figures, HEIGHT),
        ("red", "red", "", HEIGHT),
        ("gates", "red", gates, 480),
        ("compare", "compare", "", 520),
    ):
        browser.open(f"file://{folder}/{shown}.html")
        browser.picture(path(name), section, height)
    url = f"http://127.0.0.1:{PORT}/"
    run = rehearse(folder, "seen", language, f"--h20-serve={PORT}")
    try:
        wait_for_load(url)
        browser.open(url)
        time.sleep(2)
        browser.picture(path("watch"), height=820)
    finally:
        run.send_signal(signal.SIGINT)
        run.wait()


def main(folder: str) -> int:
    """See above."""
    with tempfile.TemporaryDirectory() as elsewhere, tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        try:
            for language in lang.LANGUAGES:
                take(language, browser, Path(folder or elsewhere).resolve())
        finally:
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or [""])))
