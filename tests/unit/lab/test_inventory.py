"""environments/lab.yaml and what the lab makes agree."""

from __future__ import annotations

import pytest
import yaml

from pytest_h20.config.inventory import load_inventory, parse_inventory
from tests.lab import trees
from tests.lab.image import image_name
from tests.lab.inventory import LAB_YAML, cluster_fields, render
from tests.lab.model import PLAIN_IDS_END, VOCABULARY
from tests.lab.places import MODEL_NAME, NODE_MODELS, LabError
from tests.lab.plan import USER, ClusterPlan


def test_the_file_is_that_of_the_default_cluster() -> None:
    data = yaml.safe_load(LAB_YAML.read_text(encoding="utf-8"))
    assert {key: data[key] for key in ("ssh", "nodes")} == cluster_fields(ClusterPlan())


def test_the_file_is_valid_and_says_that_it_is_a_lab() -> None:
    inventory = load_inventory(LAB_YAML)
    assert inventory.kind == "lab"
    assert {"gpu", "rdma"} <= {item.lower() for item in inventory.stood_in}


def test_model_and_images_are_those_that_are_made() -> None:
    inventory = load_inventory(LAB_YAML)
    assert inventory.model.on_host == f"{NODE_MODELS}/{MODEL_NAME}"
    assert (inventory.model.vocab_size, inventory.model.special_ids_from) == (VOCABULARY, PLAIN_IDS_END)
    for name, engine in inventory.engines.items():
        images = {profile.image for profile in engine.profiles.values()}
        assert images == {image_name(name, trees.RECIPES[name].version)}


def test_another_cluster_has_its_own_addresses() -> None:
    inventory = parse_inventory(yaml.safe_load(render(ClusterPlan("b", 3, 2, "10.98"))), "b")
    assert [node.address for node in inventory.nodes] == ["10.98.0.1", "10.98.0.2", "10.98.0.3"]
    assert [rail.address for rail in inventory.nodes[2].rails] == ["10.98.1.3", "10.98.2.3"]
    assert "/clusters/b/" in (inventory.ssh.key or "")


@pytest.mark.parametrize(("login", "user", "sudo"), [("root", "root", False), ("sudo", USER, True), ("docker", USER, False)])
def test_three_nodes_and_who_logs_in(login: str, user: str, sudo: bool) -> None:
    inventory = parse_inventory(yaml.safe_load(render(ClusterPlan("b", 3, 2, "10.98", login=login))), "b")
    assert (inventory.ssh.user, inventory.ssh.sudo) == (user, sudo)
    for engine in inventory.engines.values():
        wide = [profile for profile in engine.profiles.values() if profile.nodes is None]
        assert wide
        assert {(profile.tensor_parallel, len(inventory.nodes_of(profile))) for profile in wide} == {(3, 3)}, "a rank on each node"


def test_a_login_that_is_none_is_refused() -> None:
    with pytest.raises(LabError, match=r"--login=nobody: there are root, sudo, docker"):
        ClusterPlan(login="nobody")
    with pytest.raises(LabError, match=r"--login=sudo.*--gpus root alone"):
        ClusterPlan(gpus=2, login="sudo")
