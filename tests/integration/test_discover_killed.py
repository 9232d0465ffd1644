"""A discover that is killed while an image answers: ``reap`` finds its container; one that is not killed leaves nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.sshd import Sshd
from tests.integration.tiny import Tiny, clean_environment

SLOW = """#!/bin/sh
[ "$1" = -c ] && exit 0
sleep 300
"""


@pytest.fixture(scope="module")
def tiny() -> Iterator[Tiny]:
    cluster = Tiny()
    # discover asks the daemon as the log-in user does: with the docker of the command line
    cluster.sshd.stop()
    cluster.sshd = Sshd(cluster.folder / "asked", {"SetEnv": f"DOCKER_HOST=unix://{cluster.dockerd.socket}"})
    cluster.inventory_file = cluster.inventory("asked")
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def base() -> Path:
    """Where a discover of this user writes down what it makes."""
    from pytest_h20.config.inventory import user_name

    return Path(f"/var/tmp/pytest-h20-{user_name()}")


def discover(tiny: Tiny) -> list[str]:
    """The command line."""
    host = f"root@127.0.0.1:{tiny.sshd.port}"
    known = f"--known-hosts={tiny.sshd.known_hosts}"
    return [sys.executable, "-m", "pytest_h20", "discover", host, "--key", str(tiny.sshd.key), known]


def records(base: Path) -> set[str]:
    """What is written down of discovers."""
    return {path.name for path in base.glob("discover-*")}


def test_a_discover_leaves_nothing(tiny: Tiny, base: Path) -> None:
    tiny.image("h20-test/vllm:1")
    before = records(base)
    done = subprocess.run(discover(tiny), env=clean_environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "the image h20-test/vllm:1 holds vllm 0.11.0" in done.stderr
    assert yaml.safe_load(done.stdout)["engines"]["vllm"]["profiles"]["default"]["image"] == "h20-test/vllm:1"
    assert tiny.containers() == {}
    assert records(base) == before


def test_a_killed_discover_is_found_by_reap(tiny: Tiny, base: Path) -> None:
    tiny.image("h20-test/vllm:1", python=SLOW)
    before = records(base)
    bystander = tiny.docker()
    host = bystander.create_host_config(network_mode="host")
    bystander.start(bystander.create_container("h20-test/vllm:1", ["/bin/sleep", "300"], name="bystander", host_config=host))
    process = subprocess.Popen(discover(tiny), env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not any(name.startswith("h20-discover-") for name in tiny.containers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.kill()
        process.wait()
        inventory = tiny.inventory("reaped", top={"run_dir_on_node": str(base)})
        tiny.inventory_file = inventory
        (left,) = (name for name in tiny.containers() if name.startswith("h20-discover-"))
        (mine,) = {name.removesuffix(".run") for name in records(base) - before if name.endswith(".run")}
        ran = tiny.reap("--run", mine)
        assert ran.rc == 0, ran.output
        assert left in ran.output
        assert tiny.containers() == {"bystander": "running"}
        assert records(base) == before
    finally:
        process.kill()
        process.wait()
        bystander.remove_container("bystander", force=True)
        bystander.close()
