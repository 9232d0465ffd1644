from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_h20.cli.diagnose import main
from pytest_h20.core.errors import UsageError

BUSY = "INFO 06-20 20:03:41 [api_server.py:1287] vLLM API server version 0.9.1\nOSError: [Errno 98] Address already in use\n"
READY = "INFO 06-20 20:03:41 [api_server.py:1287] vLLM API server version 0.9.1\nINFO:     Application startup complete.\n"


def test_json_gives_one_object_per_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy, ready = tmp_path / "busy.log", tmp_path / "ready.log"
    busy.write_text(BUSY)
    ready.write_text(READY)
    assert main([str(busy), str(ready), "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["file"], first["outcome"], first["cause"]) == (str(busy), "failed", "port_in_use")
    assert first["decisive_line"] == "OSError: [Errno 98] Address already in use"
    assert (second["outcome"], second["cause"], second["version"]) == ("ready", None, "0.9.1")


def test_text_names_cause_fix_and_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(BUSY.encode() + b"\xff\xfe broken bytes\n")
    assert main([str(log)]) == 1
    out = capsys.readouterr().out
    assert "port_in_use" in out
    assert "ss -ltnp" in out
    assert "F11" in out


def test_several_nodes_name_the_primary_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "node1.log", tmp_path / "node2.log"
    one.write_text("torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.\n")
    two.write_text(BUSY)
    main([str(one), str(two)])
    assert f"primary cause of all: port_in_use in {two}" in capsys.readouterr().out


def test_ready_exits_0(tmp_path: Path) -> None:
    log = tmp_path / "ready.log"
    log.write_text(READY)
    assert main([str(log)]) == 0


def test_a_missing_file_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.log")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "none.log" in captured.err


def test_the_folder_of_a_run_stands_for_the_logs_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "evidence" / "nodes" / "node01"
    logs.mkdir(parents=True)
    (logs / "rank0.log").write_text(BUSY)
    assert main([str(tmp_path)]) == 1
    assert "rank0.log: failed: " in capsys.readouterr().out
    with pytest.raises(UsageError, match="a folder without evidence/nodes"):
        main([str(logs)])


def test_what_tells_nothing_is_not_0_and_bytes_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing, ready = tmp_path / "core", tmp_path / "ready.log"
    nothing.write_bytes(bytes(range(256)) * 4)
    ready.write_text(READY)
    assert main([str(nothing)]) == 1
    said = capsys.readouterr().out
    assert "undetermined" in said
    assert "is this a log?" in said
    assert "\ufffd" not in said
    assert main([str(nothing), str(ready)]) == 0, "one of them tells: a worker's log never has the ready line"
