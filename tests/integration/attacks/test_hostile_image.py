"""What an image can try that somebody else built: labels that name folders, files that are none, a log that is a link now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_h20.cluster import labels
from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner
from pytest_h20.run.nodes import connect_all
from tests.integration.killed import sleeper
from tests.integration.tiny import Tiny

SECRET = "shadow-4711"
TEST = """
import pytest

@pytest.mark.h20_gate("bringup")
def test_it(h20_cluster): pass
"""
# A line that NCCL's warnings are searched for, and that would be the reason of the failure: wherever it is read, it is told.
LINE = f"root:{SECRET}: NCCL WARN {SECRET} RuntimeError: {SECRET}\n"

SWAPS = """#!/bin/sh
cd /h20
echo "INFO 04-05 12:00:00 [api_server.py:1839] vLLM API server version 0.11.0" >bait
swap() {
  while :; do
    ln -s SECRET_PATH $1.l; mv -f $1.l $1
    cp bait $1.f; mv -f $1.f $1
  done
}
swap rank0.log &
swap nccl.1.log &
swap rank0.log.exit &
wait
"""
FILES = """#!/bin/sh
cd /h20
ln -s SECRET_PATH server.log
ln -s SECRET_PATH nccl.2.log
ln -s / root
mkfifo pipe.log nccl.3.log
mknod zero.log c 1 5
mknod nccl.4.log c 1 5
echo begin >huge.log
truncate -s 1T huge.log
truncate -s 1T nccl.5.log
echo odd >"$(printf 'a b\\n-rf.log')"
mkdir -p deep/er
rm rank0.log
ln -s SECRET_PATH rank0.log
exit 1
"""


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    cluster = Tiny()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def secret(tiny: Tiny) -> Path:
    """A file that only root may read."""
    path = tiny.folder / "shadow"
    path.write_text(LINE * 1000)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("name", "script"), [("swaps", SWAPS), ("files", FILES)])
def test_the_engine_shows_no_file_of_the_node(tiny: Tiny, secret: Path, tmp_path: Path, name: str, script: str) -> None:
    tiny.image(f"h20-test/{name}:1", script.replace("SECRET_PATH", str(secret)))
    inventory = tiny.inventory(name, image=f"h20-test/{name}:1", ready_timeout=15)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(TEST)
    began = time.monotonic()
    ran = tiny.run(tmp_path, "test_it.py", "--junitxml=j.xml", "--html=r.html", inventory=inventory)
    assert time.monotonic() - began < 100, "a pipe or a file without end was read"
    assert ran.rc == 1, ran.output
    assert "not ready after 15 s" in ran.output or "rank0 ended" in ran.output, ran.output
    assert SECRET not in ran.output
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in written) < 200 << 20
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert tiny.containers() == {}, "it was taken down"
    assert list(tiny.base.iterdir()) == [], "the run's folder is gone, whatever was put into it"
    assert secret.read_text() == LINE * 1000


def test_labels_of_an_image_lead_reap_to_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """``LABEL run-dir=/etc`` of an image, and every other label of ours, those of a run that really died among them."""
    precious = tmp_path / "etc"
    precious.mkdir()
    (precious / "passwd").write_text("root")
    hostile = {}
    for number, run in enumerate(("dead", "etc", "../etc", "$(touch ran)")):
        own = labels.of_run(run, "rank0", "node01", "me", str(precious))
        tiny.image(f"h20-test/labels:{number}", labels={key: value.replace("$", "\\\\$") for key, value in own.items()})
        hostile[f"h20-{number}-rank0"] = f"h20-test/labels:{number}"
    inventory = tiny.loaded()
    (inner,) = connect_all(inventory).values()
    dead = replace(Owner.me("ann"), pid=1, started=1)
    node = LedgerNode(inner, Ledger(inner, inventory.run_dir_on_node, "dead", dead, process=dead), nullcontext)
    client = tiny.docker()
    try:
        node.ledger.make_folder("dead")
        node.containers.start(sleeper("h20-dead-rank0", {}))
        host = client.create_host_config(network_mode="host")
        for name, image in hostile.items():
            client.start(client.create_container(image, ["/bin/sleep", "600"], name=name, host_config=host))
            assert client.inspect_container(name)["Config"]["Labels"][labels.RUN_DIR] == str(precious)
        ran = tiny.reap("--all")
        assert ran.rc == 0, ran.output
        assert tiny.containers() == dict.fromkeys(hostile, "running"), ran.output
        assert (precious / "passwd").read_text() == "root"
        assert list(tiny.base.iterdir()) == []
    finally:
        for name in hostile:
            client.remove_container(name, force=True)
        client.close()
        node.close()
