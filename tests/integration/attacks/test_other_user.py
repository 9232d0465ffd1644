"""What another user of the machines can try: folders made first, on the node and here, and a run folder that was planted."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner
from pytest_h20.core.errors import TransportError
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.nodes.local import LocalNode
from pytest_h20.nodes.ssh import SshNode
from pytest_h20.report.model import Mode
from pytest_h20.report.run import RunFolder
from tests.integration.attacks.account import Account
from tests.integration.sshd import Sshd
from tests.integration.tiny import clean_environment

SECRET = "shadow-4711"
RACES = 40

# As fast as it can, at every name that a run will ask for: a folder open to all, a link to the victim, nothing.
RACE = """
import contextlib, itertools, os, sys
shared, victim, races = sys.argv[1], sys.argv[2], int(sys.argv[3])
for turn in itertools.count():
    for n in range(races):
        path = f"{shared}/base-{n}"
        with contextlib.suppress(OSError):
            if turn % 2:
                os.mkdir(path)
                os.chmod(path, 0o777)
                os.rmdir(path)
            else:
                os.symlink(victim, path)
                os.unlink(path)
"""


@pytest.fixture
def account() -> Iterator[Account]:
    attacker = Account()
    yield attacker
    attacker.close()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder as /var/tmp is, and every folder above it open to be walked through."""
    path = tmp_path / "tmp"
    path.mkdir()
    path.chmod(0o1777)
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    return path


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of root's with a mode and a content of its own."""
    path = tmp_path / "etc"
    path.mkdir(mode=0o750)
    (path / "passwd").write_text("root")
    return path


def test_a_base_folder_that_is_made_first_is_not_entered(account: Account, shared: Path, tmp_path: Path) -> None:
    base = shared / "base"
    account.do("import os, sys; os.mkdir(sys.argv[1]); os.chmod(sys.argv[1], 0o777)", base)
    server = Sshd(tmp_path / "sshd")
    try:
        with SshNode("node01", server.settings()) as inner:
            node = LedgerNode(inner, Ledger(inner, str(base), "r1", Owner.me("me")), nullcontext)
            with pytest.raises(TransportError, match=f"belongs to uid {account.uid}.*run_dir_on_node"):
                node.run("true")
    finally:
        server.stop()
    assert base.stat().st_uid == account.uid
    assert stat.S_IMODE(base.stat().st_mode) == 0o777
    assert list(base.iterdir()) == []


def test_races_for_the_base_folder(account: Account, shared: Path, victim: Path) -> None:
    """It is ours, closed, and holds the record, or it is refused; the folder of somebody else is never opened to all."""
    account.start(RACE, shared, victim, RACES)
    account.start(RACE, shared, victim, RACES)
    node = LocalNode("node01")
    outcomes = {"opened": 0, "refused": 0}
    for n in range(RACES):
        base = shared / f"base-{n}"
        ledger = Ledger(node, str(base), "r1", Owner.me("me"))
        try:
            LedgerNode(node, ledger, nullcontext).run("true")
        except TransportError:
            outcomes["refused"] += 1
        else:
            seen = base.lstat()
            assert (seen.st_uid, stat.S_IMODE(seen.st_mode), stat.S_ISDIR(seen.st_mode)) == (0, 0o700, True)
            assert (base / "r1.run").is_file()
            outcomes["opened"] += 1
        finally:
            ledger.close()
        assert stat.S_IMODE(victim.stat().st_mode) == 0o750
        assert [path.name for path in victim.iterdir()] == ["passwd"]
    assert sum(outcomes.values()) == RACES


@pytest.mark.parametrize("how", ["its own", "open to all"])
def test_a_folder_for_runs_in_which_ours_could_be_exchanged_is_refused(account: Account, shared: Path, tmp_path: Path, how: str) -> None:
    runs = shared / "h20-runs"
    if how == "its own":
        account.do("import os, sys; os.mkdir(sys.argv[1])", runs)
    else:
        runs.mkdir()
        runs.chmod(0o777)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it(h20_inventory): pass\n")
    argv = ["--nodes=rehearsal:quick", "--engine=sglang", "--h20-history=none", f"--h20-run-dir={runs}", "test_it.py"]
    done = _pytest(tmp_path, *argv)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert f"{runs}: " in done.stderr
    assert "could be exchanged" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert list(runs.iterdir()) == []


def _pytest(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:flask", "-p", "no:django", *args]
    return subprocess.run(words, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False)


# A folder of a run as it is, and then what its owner can make of it.
CELL = (
    """{"time": "2026-01-01T00:00:00+00:00", "kind": "cell", "engine": "vllm", "input_len": 1, "output_len": 1, "concurrency": 1,
 "file": "%s"}""".replace("\n", "")
    + "\n"
)
PLANTS = {
    "link": "os.unlink(f'{run}/verdicts.jsonl'); os.symlink(secret, f'{run}/verdicts.jsonl')",
    "document": "os.unlink(f'{run}/verdict.json'); os.symlink(secret, f'{run}/verdict.json')",
    "pipe": "os.unlink(f'{run}/events.jsonl'); os.mkfifo(f'{run}/events.jsonl')",
    "sparse": "os.truncate(f'{run}/events.jsonl', 1 << 40)",
    "evidence": "os.mkfifo(f'{run}/evidence/pipe'); os.symlink(secret, f'{run}/evidence/link'); os.symlink('/', f'{run}/evidence/root')",
    "load": "os.mkdir(f'{run}/load'); os.symlink(secret, f'{run}/load/x.json'); os.mkfifo(f'{run}/load/pipe')",
    "cell": "open(f'{run}/events.jsonl', 'a').write(sys.argv[3] % secret)",
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_run_folder_shows_no_file_of_the_reader_and_ends(account: Account, shared: Path, tmp_path: Path, plant: str) -> None:
    secret = tmp_path / "shadow"
    secret.write_text(f'{{"{SECRET}": 1}}\n{SECRET}\n')
    secret.chmod(0o600)
    run = RunFolder.create(shared, "vllm", "planted", Mode.LAB)
    run.record(Verdict(check="bringup.ready", status=Status.PASS, title="x"))
    run.event("note", text="x")
    run.finish()
    for path in (run.path, *run.path.rglob("*")):
        os.chown(path, account.uid, account.uid, follow_symlinks=False)
    account.do(f"import os, sys; run, secret = sys.argv[1:3]; {PLANTS[plant]}", run.path, secret, CELL)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = [_pytest(tmp_path, f"--h20-replay={run.path}", "--html=r.html", "--self-contained-html")]
    for command in (("compare", run.path, run.path), ("history", "--runs", shared)):
        words = [sys.executable, "-m", "pytest_h20", *map(str, command)]
        done.append(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False))
    for one in done:
        assert SECRET not in one.stdout + one.stderr
        assert "Traceback" not in one.stdout + one.stderr
    assert done[0].returncode != 0, "nothing of it is green"
    written = [path for path in (*tmp_path.glob("*.html"), *(tmp_path / "h20-runs").rglob("*")) if path.is_file()]
    assert [path for path in written if SECRET in path.read_text(errors="replace")] == []
