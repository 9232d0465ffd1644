"""The stand-in's server writes down how late it was with each request of a load, and the run reads what is new."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_h20.rehearsal.replies import Replies
from pytest_h20.rehearsal.server import EngineServer, config_of
from pytest_h20.rehearsal.state import State
from pytest_h20.rehearsal.timing import Timing, TimingRow


@contextmanager
def serving(folder: Path, on_completion: Callable[[], None]) -> Iterator[str]:
    """SGLang that answers at once, unless something keeps it."""
    replies = Replies(engine="sglang", version="0.4.4", model="m", max_len=4096, knobs={}, parser=False, tool_parser=False)
    timing = Timing([TimingRow(64, 64, 1, 0.001, 0.001)], 1.0, {})
    config = config_of({}, "sglang", "m", 4096, True)
    server = EngineServer(replies, timing, config, folder / "tokens-1", folder / "late-1", lambda text: None, on_completion)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.url
    finally:
        server.stop()
        thread.join()


def generate(url: str, stream: bool) -> None:
    sampling = {"max_new_tokens": 64, "ignore_eos": True, "temperature": 0}
    body = json.dumps({"input_ids": [5] * 64, "sampling_params": sampling, "stream": stream}).encode()
    request = urllib.request.Request(f"{url}/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.read()


def test_a_server_that_was_kept_from_its_work_says_how_late_it_was(tmp_path: Path) -> None:
    state = State(tmp_path)
    with serving(tmp_path, lambda: time.sleep(0.2)) as url:
        generate(url, stream=True)
        found, seen = state.lates({})
        generate(url, stream=True)
        again, seen = state.lates(seen)
    assert [first >= 0.1 for first, _, _ in found] == [True]
    assert [first >= 0.1 for first, _, _ in again] == [True], "only what is new"
    assert all(most >= max(first, last) >= 0 for first, last, most in found + again)
    assert state.lates(seen)[0] == []


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    state = State(tmp_path)
    (tmp_path / "late-7").write_bytes(b"0.100000 0.200000 0.300000\n0.3")
    found, seen = state.lates({})
    assert found == [(0.1, 0.2, 0.3)]
    (tmp_path / "late-7").write_bytes(b"0.100000 0.200000 0.300000\n0.300000 0.400000 0.500000\n")
    assert state.lates(seen)[0] == [(0.3, 0.4, 0.5)]


def test_nothing_written_is_nothing_late(tmp_path: Path) -> None:
    assert State(tmp_path).lates({}) == ([], {})
