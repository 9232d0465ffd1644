"""What is written of hosts: an inventory, or a draft that says what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pytest_h20.cli.discover import main, write
from pytest_h20.probes.discover import propose
from tests.unit.probes.cluster import blog_cluster
from tests.unit.probes.hosts import found


def test_an_inventory_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert write(propose(found(blog_cluster()))) == 0
    said = capsys.readouterr()
    assert len(yaml.safe_load(said.out)["nodes"][0]["rails"]) == 8
    assert "draft" not in said.err


def test_hosts_without_a_common_rail_get_a_draft(capsys: pytest.CaptureFixture[str]) -> None:
    """What was found is not lost, and what a person must fill in is named; it is no inventory, and a script must know."""
    cluster = blog_cluster()
    for node in (cluster.head, cluster.other):
        for rail in node.machine.rails:
            rail.state = "1: DOWN"
    assert write(propose(found(cluster))) == 2
    said = capsys.readouterr()
    assert [node["name"] for node in yaml.safe_load(said.out)["nodes"]] == ["node01", "node02"]
    assert "# NOTE: no RDMA port of the hosts is in a common IPv4 network: rails are missing, fill them in by hand" in said.out
    assert "what was written is a draft: the discovered inventory: nodes[0].rails: missing" in said.err.splitlines()[-1]


def test_the_login_is_that_of_the_inventory_that_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its key is asked for before any host is; one given on the command line goes before it."""
    like = tmp_path / "like.yaml"
    like.write_text("ssh: {key: of-the-file}\nmodel: {}\nengines: {}\n", encoding="utf-8")
    assert main(["192.0.2.1", "--like", str(like)]) == 2
    assert f"{tmp_path}/of-the-file" in capsys.readouterr().err
    assert main(["192.0.2.1", "--like", str(like), "--key", "/nowhere/given"]) == 2
    assert "/nowhere/given" in capsys.readouterr().err
