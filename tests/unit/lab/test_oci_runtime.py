"""The OCI runtime wrapper: what it takes out of a bundle, what it adds, what it leaves alone."""

from __future__ import annotations

import copy
from typing import Any

from tests.lab.oci_runtime import CAPABILITIES, UNLIMITED, fit_bundle, fit_process, held_capabilities, option

FULL = {"CAP_" + name for name in CAPABILITIES}
PROCESS: dict[str, Any] = {
    "capabilities": {"bounding": ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"], "ambient": None},
    "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": UNLIMITED, "hard": UNLIMITED}],
    "oomScoreAdj": -500,
    "env": ["PATH=/bin", "H20_LAB_TREE=vllm"],
}


def test_held_capabilities_are_permitted_and_bounding() -> None:
    status = "Name:\tx\nCapPrm:\t000001fffeffffff\nCapBnd:\t000001ffffffffff\n"
    assert held_capabilities(status) == FULL - {"CAP_SYS_RESOURCE"}


def test_full_rights_change_nothing() -> None:
    process = copy.deepcopy(PROCESS)
    assert fit_process(process, FULL, {"RLIMIT_MEMLOCK": 8 << 20}, 0) == []
    assert process == PROCESS


def test_without_sys_resource_only_what_cannot_be_granted_goes() -> None:
    process = copy.deepcopy(PROCESS)
    notes = fit_process(process, FULL - {"CAP_SYS_RESOURCE"}, {"RLIMIT_MEMLOCK": 8 << 20}, 0)
    assert process["capabilities"]["bounding"] == ["CAP_SYS_ADMIN"]
    assert process["rlimits"] == [{"type": "RLIMIT_MEMLOCK", "soft": 8 << 20, "hard": 8 << 20}]
    assert process["oomScoreAdj"] == 0
    assert len(notes) == 3


def test_the_tree_named_by_the_image_is_mounted_read_only() -> None:
    spec: dict[str, Any] = {"process": copy.deepcopy(PROCESS), "linux": {"namespaces": [{"type": "network"}]}}
    fit_bundle(spec, FULL, ["/sys/class"])
    assert [(m["source"], m["destination"], "ro" in m["options"]) for m in spec["mounts"]] == [
        ("/opt/h20-lab/engines/vllm", "/opt/engine", True)
    ]


def test_stood_in_sysfs_only_with_the_nodes_network() -> None:
    spec: dict[str, Any] = {"process": {"env": []}, "linux": {"namespaces": [{"type": "pid"}]}}
    fit_bundle(spec, FULL, ["/sys/class"])
    assert [m["destination"] for m in spec["mounts"]] == ["/sys/class"]


def test_a_tree_name_cannot_leave_its_folder() -> None:
    spec: dict[str, Any] = {"process": {"env": ["H20_LAB_TREE=../../etc"]}}
    fit_bundle(spec, FULL, [])
    assert spec["mounts"] == []


def test_devices_go_only_without_mknod() -> None:
    spec: dict[str, Any] = {"linux": {"devices": [{"path": "/dev/x"}]}}
    fit_bundle(spec, FULL, [])
    assert spec["linux"]["devices"]
    fit_bundle(spec, FULL - {"CAP_MKNOD"}, [])
    assert spec["linux"]["devices"] == []


def test_options_in_every_form() -> None:
    assert option(["create", "--bundle", "/b", "id"], "--bundle", "-b") == "/b"
    assert option(["create", "--bundle=/b"], "--bundle", "-b") == "/b"
    assert option(["exec", "-p", "/p"], "--process", "-p") == "/p"
    assert option(["exec"], "--process", "-p") is None
