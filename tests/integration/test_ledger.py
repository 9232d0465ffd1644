"""The record of a run over a real sshd: a command that outlives its connection is found; nothing of the record is told."""

from __future__ import annotations

import os
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner, end_processes, entries, files, forget
from pytest_h20.core.errors import CommandTimeout
from pytest_h20.nodes.ssh import SshNode
from tests.integration.sshd import Sshd


def test_what_a_killed_run_leaves_behind_sshd_is_found_and_removed(tmp_path: Path) -> None:
    server = Sshd(tmp_path)
    try:
        with SshNode("n1", server.settings()) as inner:
            base = f"{tmp_path}/base"
            dead = replace(Owner.me("ann"), pid=1, started=1)
            ledger = Ledger(inner, base, "r1", dead, process=dead)
            node = LedgerNode(inner, ledger, nullcontext)
            result = node.run("echo $TMPDIR; setsid sleep 500 >/dev/null 2>&1 </dev/null &")
            assert result.stdout == f"{base}/r1.tmp\n"
            assert "H20_TOKEN" not in result.command
            with pytest.raises(CommandTimeout) as raised:
                node.run("sleep 5", timeout=0.5)
            assert "H20_TOKEN" not in str(raised.value)
            ledger.make_folder("r1")
            Path(base, "r1", "a b.log").write_text("x")
            assert [size for _, size in files(inner, base, "r1")] == [1]
            (entry,) = entries(inner, base)
            end_processes(inner, base, entry)
            forget(inner, base, entry)
            assert os.listdir(base) == []
            look = f"grep -l {entry.tokens[0]} /proc/[0-9]*/environ 2>/dev/null"
            assert subprocess.run(["sh", "-c", look], capture_output=True, text=True, check=False).stdout == ""
            ledger.close()
    finally:
        server.stop()
