"""The soft-RoCE lab, as far as it goes without QEMU: what is planned, what the inventory says, what is refused."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
import yaml

from pytest_h20.config.inventory import load_inventory, parse_inventory
from tests.lab.places import LabError
from tests.lab.vm import image, inventory, machines, places
from tests.lab.vm.__main__ import main
from tests.lab.vm.plan import VmPlan, choose_accelerator, network_commands, qemu_command

ELF = b"\x7fELF" + bytes(range(256)) * 8


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("H20_LAB_DIR", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return tmp_path


def test_the_file_is_that_of_the_default_machines() -> None:
    data = yaml.safe_load(inventory.SOFT_ROCE_YAML.read_text(encoding="utf-8"))
    assert {key: data[key] for key in ("ssh", "nodes")} == inventory.own_fields(VmPlan())
    assert data["expect"]["rail_mtu"] == VmPlan().mtu


def test_the_file_is_valid_and_can_not_be_taken_for_hardware() -> None:
    found = load_inventory(inventory.SOFT_ROCE_YAML)
    assert (found.kind, found.stood_in, found.gates) == ("lab", ("GPU",), ("fabric",))
    assert {p.image for e in found.engines.values() for p in e.profiles.values()} == {places.IMAGE_NAME}


def test_other_machines_have_their_own_addresses_and_mtu() -> None:
    found = parse_inventory(yaml.safe_load(inventory.render(VmPlan(size=3, rails=1, mtu=1500, net="10.96"))), "three")
    assert [[rail.address for rail in node.rails] for node in found.nodes] == [["10.96.1.1"], ["10.96.1.2"], ["10.96.1.3"]]
    assert found.expect.rail_mtu == 1500


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"size": 5}, "1 to 4 machines"),
        ({"rails": 0}, "--rails=0"),
        ({"memory": 64}, "512 to 16384"),
        ({"mtu": 68}, "1280 to 9000"),
        ({"net": "192.168"}, "private net"),
    ],
)
def test_what_can_not_be_made_is_told(setting: dict[str, object], words: str) -> None:
    with pytest.raises(LabError, match=words):
        VmPlan(**setting)  # type: ignore[arg-type]


def test_a_state_file_brings_the_plan_back_and_a_damaged_one_is_told() -> None:
    plan = VmPlan(size=3, rails=4, mtu=1500)
    assert VmPlan.from_json(plan.to_json()) == plan
    with pytest.raises(LabError, match="damaged"):
        VmPlan.from_json('{"size": 2, "color": "red"}')


def test_every_card_is_plugged_into_its_own_net() -> None:
    plan = VmPlan(size=2, rails=2)
    commands, lines = network_commands(plan)
    assert commands[0] == ["ip", "netns", "add", "h20-vm-sw"]  # before anything that lives in it
    assert {line for line in lines if "master" in line and "n2e" in line} == {
        "link set n2e0 mtu 1500 master br0 up",
        "link set n2e1 mtu 9000 master br1 up",
        "link set n2e2 mtu 9000 master br2 up",
    }
    words = qemu_command(plan, plan.machines[1])
    assert [w for w in words if w.startswith("tap,")] == [f"tap,id=eth{i},ifname=n2e{i},script=no,downscript=no" for i in range(3)]


def test_a_machine_goes_on_from_saved_memory_with_otherwise_the_same_command() -> None:
    plan = VmPlan()
    machine = plan.machines[0]
    assert qemu_command(plan, machine, Path("/m")) == [*qemu_command(plan, machine), "-incoming", "exec:cat /m"]


@pytest.mark.parametrize(
    ("cpuinfo", "writable", "chosen"),
    [
        ("flags : fpu vmx", True, "kvm"),
        ("flags : fpu svm", True, "kvm"),
        ("flags : fpu vmx", False, "tcg"),
        ("flags : fpu vmxnet hypervisor", True, "tcg"),
    ],
)
def test_kvm_only_where_the_processor_has_it(cpuinfo: str, writable: bool, chosen: str) -> None:
    assert choose_accelerator(cpuinfo, writable) == chosen


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_the_kernel_is_found_behind_its_loader(pack: object) -> None:
    assert callable(pack)
    packed = b"MZ boot \xfd7zXZ\0 not yet \x1f\x8b\x08 nor here" + pack(ELF) + b"tail"
    assert image.uncompressed_kernel(packed)[: len(ELF)] == ELF


def test_a_file_without_kernel_is_told() -> None:
    with pytest.raises(LabError, match="no kernel"):
        image.uncompressed_kernel(b"MZ" + gzip.compress(b"something else"))


def test_missing_programs_are_told_as_packages(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"cpio", "qemu-img"}
    monkeypatch.setattr("shutil.which", lambda program, path: None if program in absent else program)
    with pytest.raises(LabError, match="apt-get install --no-install-recommends cpio qemu-utils`"):
        image.build()


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (["status"], "not up; run `python -m tests.lab.vm up`"),
        (["inventory"], "not up"),
        (["ssh", "node01", "true"], "not up"),
        (["save"], "not up"),
        (["up"], "not built, or from other sources; run `python -m tests.lab.vm build`"),
        (["up", "--restore"], "no machines are saved"),
    ],
)
def test_what_is_missing_is_told_in_one_line(own_folder: Path, verb: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verb) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_down_when_nothing_is_up_is_fine(own_folder: Path) -> None:
    assert main(["down"]) == 0


def test_a_disk_from_other_sources_is_not_used(own_folder: Path) -> None:
    places.vm_dir().mkdir()
    places.disk_file().touch()
    places.stamp_file().write_text(image.sources_digest())
    assert image.is_built()
    places.stamp_file().write_text("other")
    assert not image.is_built()


def test_a_card_that_is_not_there_is_told() -> None:
    with pytest.raises(LabError, match="node01 has eth0, eth1, eth2"):
        machines.link(VmPlan().machines[0], "eth9", False)
