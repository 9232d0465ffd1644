"""The GPU lab's pure parts: shares of GPUs, devices, blanked code, parts that travel, image and inventory."""

from __future__ import annotations

import io
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_h20.config.inventory import load_inventory
from pytest_h20.engines.speculation import speculation_of
from tests.lab.__main__ import main, parser, size
from tests.lab.gpu import fatbin, machine, pack
from tests.lab.gpu.build import image_environment, layer
from tests.lab.gpu.fatbin import CODE, PTX, Entry
from tests.lab.gpu.inventory import GPU_LAB_YAML, expected, lenders, node_entry, over_all
from tests.lab.oci_runtime import TREE_VARIABLE, lend_gpus, lend_machine
from tests.lab.places import LabError
from tests.lab.plan import ClusterPlan

RECORDED = Path(__file__).resolve().parents[2] / "corpus" / "recorded"
DEV = ["nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap1", "nvidia-fs0"]


# ---- which GPUs, which devices ------------------------------------------------------------------------------------
def test_gpus_are_shared_out_in_order_and_evenly() -> None:
    assert [node.gpus for node in ClusterPlan(gpus=2).nodes] == [(0,), (1,)]
    assert [node.gpus for node in ClusterPlan(gpus=4).nodes] == [(0, 1), (2, 3)]
    assert [node.gpus for node in ClusterPlan().nodes] == [(), ()]
    assert ClusterPlan.from_json(ClusterPlan(gpus=4).to_json()) == ClusterPlan(gpus=4)


@pytest.mark.parametrize("gpus", [1, 3, 5])
def test_gpus_that_cannot_be_shared_out_are_told(gpus: int) -> None:
    with pytest.raises(LabError, match=f"--gpus={gpus}"):
        ClusterPlan(gpus=gpus)


def test_a_node_sees_its_own_gpus_and_what_all_share() -> None:
    assert machine.gpu_indices(DEV) == (0, 1, 10)
    assert machine.devices_of((1,), DEV) == ["nvidia-caps/nvidia-cap1", "nvidia-uvm", "nvidia1", "nvidiactl"]
    assert machine.devices_of((), DEV) == ["nvidia-caps/nvidia-cap1", "nvidia-uvm", "nvidiactl"]
    assert machine.gpu_indices([]) == ()


def test_what_is_mounted_below_usr_and_opt_is_found_but_not_the_labs_own() -> None:
    lines = (
        "/dev/vdb /usr/local/nvidia squashfs ro",
        "x /opt/lab/clusters/a tmpfs rw",
        "y /opt/la\\040b tmpfs rw",
        "proc /proc proc rw",
        "",
    )
    mounts = "".join(f"{line} 0 0\n" if line else "\n" for line in lines)
    assert machine.inner_mounts(mounts, "/opt/lab") == ["/usr/local/nvidia", "/opt/la b"]


def test_driver_folders_keep_the_linkers_order() -> None:
    folders = ["/usr/lib/x86_64-linux-gnu", "/usr/local/nvidia/lib64", "/a"]
    assert machine.driver_folders({"LD_LIBRARY_PATH": "/a::/b"}, folders) == ["/a", "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu"]
    assert machine.driver_folders({}, []) == []


def test_nvidias_container_runtime_is_used_where_it_is_installed(tmp_path: Path) -> None:
    for name in (machine.HOOK, machine.RUNTIME):
        assert machine.container_runtime(False, str(tmp_path)) == "wrapper", "of its toolkit both are needed"
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert machine.container_runtime(False, str(tmp_path)) == "nvidia"
    assert machine.container_runtime(True, str(tmp_path)) == "wrapper", "a node whose root is a Debian tree does not have it"
    assert machine.daemon_options("nvidia", str(tmp_path)) == [f"--add-runtime=nvidia={tmp_path}/nvidia-container-runtime"]
    assert machine.daemon_options("wrapper", str(tmp_path)) == []


def docker_info(which: str) -> str:
    """Recorded 2026-11-28 of a dockerd 20.10.24 with the lab's options, without and with those of ``daemon_options``; of none at all."""
    return (RECORDED / f"docker-info-{which}.json").read_text(encoding="utf-8")


def test_who_lends_gpus_is_what_the_nodes_daemons_say() -> None:
    assert machine.lender(docker_info("wrapper")) == "wrapper"
    assert machine.lender(docker_info("nvidia")) == "nvidia"
    both = {node: docker_info("nvidia") for node in ("node01", "node02")}
    assert lenders(both) == "NVIDIA's container runtime"
    assert lenders({**both, "node02": docker_info("wrapper")}) == "NVIDIA's container runtime on node01, the lab's OCI wrapper on node02"


@pytest.mark.parametrize("info", ["", "null", "[]", '{"Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "x"}}}', "none"])
def test_a_daemon_that_is_not_the_labs_says_nothing(info: str) -> None:
    with pytest.raises(LabError, match=r"node02: docker info says .*/run/lab/dockerd\.log"):
        lenders({"node01": docker_info("wrapper"), "node02": docker_info("none") if info == "none" else info})


# ---- containers ---------------------------------------------------------------------------------------------------
def spec(*env: str) -> dict[str, Any]:
    return {"process": {"env": list(env)}, "mounts": [{"destination": "/proc"}]}


def test_gpus_go_to_containers_that_ask_and_only_once() -> None:
    devices = [("/dev/nvidia1", 195, 1), ("/dev/nvidiactl", 195, 255)]
    asks = spec("NVIDIA_VISIBLE_DEVICES=all")
    assert lend_gpus(asks, devices) == ["/dev/nvidia1", "/dev/nvidiactl"]
    assert lend_gpus(asks, devices) == []
    assert [(d["path"], d["major"], d["minor"]) for d in asks["linux"]["devices"]] == devices
    assert len(asks["linux"]["resources"]["devices"]) == 2
    for quiet in (spec(), spec("NVIDIA_VISIBLE_DEVICES=void"), spec("NVIDIA_VISIBLE_DEVICES=")):
        assert lend_gpus(quiet, devices) == []
        assert "linux" not in quiet


def test_the_machine_is_lent_to_images_that_say_so_below_their_own_mounts() -> None:
    asks = spec("H20_LAB_MACHINE=1")
    lend_machine(asks, ["/usr", "/opt/torch"])
    assert [m["destination"] for m in asks["mounts"]] == ["/usr", "/opt/torch", "/proc"]
    assert all("ro" in m["options"] and m["source"].startswith("/opt/machine/") for m in asks["mounts"][:2])
    other = spec()
    assert lend_machine(other, ["/usr"]) == []
    assert len(other["mounts"]) == 1


def test_the_image_is_mount_points_and_an_environment() -> None:
    made = image_environment(pack.SGLANG, {"NCCL_NVLS_ENABLE": "0", "CC": "gcc-13", "SECRET": "x"}, "/opt/torch/bin/python3")
    assert made["PATH"].startswith("/opt/engine/bin:/opt/torch/bin:")
    assert (made["NCCL_NVLS_ENABLE"], made["CC"], "SECRET" in made) == ("0", "gcc-13", False)
    assert made[TREE_VARIABLE] == "sglang-gpu"
    with tarfile.open(fileobj=io.BytesIO(layer())) as tar:
        names = tar.getnames()
        assert tar.getmember("lib64").linkname == "usr/lib64"
    assert {"usr", "opt/engine", "etc/passwd", "etc/ld.so.cache"} <= set(names)
    assert len(names) == len(set(names))


# ---- GPU code -----------------------------------------------------------------------------------------------------
def module(*entries: tuple[int, int, bytes]) -> bytes:
    body = b""
    for kind, chip, code in entries:
        body += struct.pack("<HHIQ", kind, 0, 32, len(code)) + bytes(12) + struct.pack("<I", chip) + code
    return struct.pack("<IHHQ", fatbin.MAGIC, 1, 16, len(body)) + body


def library(path: Path, *modules: bytes) -> Path:
    """An ELF file with one section of GPU code."""
    code, strings = b"".join(modules) + bytes(16), b"\0.nv_fatbin\0.strs\0"
    start, table = 64, 64 + len(code) + len(strings)
    head = b"\x7fELF\x02" + bytes(35) + struct.pack("<Q", table) + bytes(10) + struct.pack("<HHH", 64, 2, 1)
    head = head[:0x28] + struct.pack("<Q", table) + head[0x30:0x3A] + struct.pack("<HHH", 64, 2, 1)
    rows = [(1, start, len(code)), (12, start + len(code), len(strings))]
    sections = b"".join(struct.pack("<IIQQQQ", name, 1, 0, 0, at, length) + bytes(24) for name, at, length in rows)
    path.write_bytes(head.ljust(64, b"\0") + code + strings + sections)
    return path


def test_code_of_other_chips_becomes_zeros_and_nothing_moves(tmp_path: Path) -> None:
    path = library(
        tmp_path / "x.so", module((CODE, 80, b"A" * 24), (CODE, 90, b"B" * 24), (PTX, 90, b"C" * 24)), module((CODE, 80, b"D" * 8))
    )
    before = path.read_bytes()
    assert fatbin.blank(path, 90) == 48
    after = path.read_bytes()
    assert len(after) == len(before)
    assert [letter in after for letter in (b"AA", b"BB", b"CC", b"DD")] == [False, True, False, True]
    assert fatbin.blank(path, 90) == 48, "the headers are still there"


@pytest.mark.parametrize(
    ("has", "kept"),
    [
        ([(CODE, 80), (CODE, 90), (CODE, 100), (PTX, 120)], [(CODE, 90)]),
        ([(CODE, 80), (CODE, 86), (CODE, 100)], [(CODE, 86)]),
        ([(CODE, 75), (PTX, 80), (PTX, 100)], [(PTX, 80)]),
        ([(CODE, 100)], []),
    ],
)
def test_what_a_hopper_needs_of_a_module(has: list[tuple[int, int]], kept: list[tuple[int, int]]) -> None:
    entries = [Entry(kind, chip, 0, 1) for kind, chip in has]
    gone = fatbin.needless(entries, 90)
    assert [(entry.kind, entry.chip) for entry in entries if entry not in gone] == kept


def test_a_file_that_is_no_library_is_left_alone(tmp_path: Path) -> None:
    for text in (b"", b"#!/bin/sh\n", b"\x7fELF\x01" + bytes(80)):
        path = tmp_path / "file"
        path.write_bytes(text)
        assert fatbin.blank(path, 90) == 0
        assert path.read_bytes() == text


# ---- packing ------------------------------------------------------------------------------------------------------
def parts_of(folder: Path, data: bytes, each: int) -> None:
    import hashlib
    import json

    sums = {}
    for i, at in enumerate(range(0, len(data), each)):
        path = folder / f"lab.tar.xz.{i:03d}"
        path.write_bytes(data[at : at + each])
        sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "parts.json").write_text(json.dumps(sums))


def test_parts_are_put_together_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        info = tarfile.TarInfo("suite/thing.py")
        info.size = 5000
        tar.addfile(info, io.BytesIO(bytes(range(250)) * 20))
    parts_of(tmp_path, buffer.getvalue(), 100)
    assert len(list(tmp_path.glob("lab.tar.xz.*"))) > 2
    monkeypatch.setenv("H20_LAB_DIR", str(tmp_path / "lab"))
    pack.unpack(tmp_path, lambda text: None)
    assert (tmp_path / "lab/suite/thing.py").read_bytes() == bytes(range(250)) * 20


def test_parts_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"parts\.json"):
        pack.check_parts(tmp_path)
    parts_of(tmp_path, b"abcdef", 2)
    assert [path.name[-3:] for path in pack.check_parts(tmp_path)] == ["000", "001", "002"]
    (tmp_path / "lab.tar.xz.001").write_bytes(b"xx")
    with pytest.raises(LabError, match=r"001: damaged"):
        pack.check_parts(tmp_path)
    (tmp_path / "lab.tar.xz.001").unlink()
    with pytest.raises(LabError, match=r"001: missing"):
        pack.check_parts(tmp_path)
    (tmp_path / "parts.json").write_text("{}")
    with pytest.raises(LabError, match="no parts"):
        pack.check_parts(tmp_path)


def test_what_the_machine_has_is_read_from_pips_words() -> None:
    assert pack.names("torch==2.11.0\nPy_YAML 6.0\n\nnumpy, ml-dtypes") == {"torch", "py-yaml", "numpy", "ml-dtypes"}
    assert pack.names("") == frozenset()


def test_requirements_hold_for_the_target_not_for_this_machine() -> None:
    metadata = (
        'Name: x\nRequires-Dist: a>=1\nRequires-Dist: b; python_version < "3.12"\nRequires-Dist: c; extra == "all"\nRequires-Dist: d[z]<3\n'
    )
    assert pack.needs(metadata, "3.12") == ["a>=1", "d<3"]
    assert pack.needs(metadata, "3.11") == ["a>=1", "b", "d<3"]


def test_sizes_and_the_command_line() -> None:
    assert [size(text) for text in ("60M", "1G", "7")] == [60 << 20, 1 << 30, 7]
    args = parser().parse_args(["pack", "--gpus", "d", "--part-size", "2K"])
    assert (args.gpus, args.part_size) == (Path("d"), 2048)
    assert [parser().parse_args(["up", *more]).gpus for more in ([], ["--gpus"], ["--gpus", "4"])] == [0, -1, 4]
    with pytest.raises(SystemExit):
        parser().parse_args(["pack", "--gpus", "d", "--part-size", "0"])


# ---- the whole way, with a small wheelhouse instead of a network ----------------------------------------------------
def wheel(folder: Path, name: str, version: str, files: dict[str, str], *needs: str) -> None:
    stem = f"{name}-{version}"
    listed = {**files, f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    listed[f"{stem}.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {need}\n" for need in needs
    )
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in listed.items():
            archive.writestr(path, text)
        archive.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture(name="house")
def _house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheelhouse with a vLLM and a suite of one file each, something that fetches from it as pip does, and a Debian tree of one file."""
    house = tmp_path / "house"
    house.mkdir()

    def pip(download: Sequence[str], wanted: Sequence[str]) -> None:
        for one in wanted:
            name, _, version = one.partition("==") if "==" in one else (re.split(r"[^\w-]", one)[0], "", "*")
            found = sorted(house.glob(f"{name}-{version}-*.whl"))
            if not found:
                raise LabError(f"pip download {one}: no matching distribution")
            shutil.copy(found[-1], download[download.index("-d") + 1])

    wheel(house, "vllm", pack.VLLM.version, {"vllm/__init__.py": "", "vllm/vllm-rs": "x" * 300}, "ijson>=3", "torch==2.11.0", "cloudpickle")
    wheel(house, "ijson", pack.pins("vllm")["ijson"], {"ijson.py": "pinned = True\n"})
    wheel(house, "ijson", "99.0", {"ijson.py": "pinned = False\n"})
    wheel(house, "docker", pack.pins("suite")["docker"], {"docker.py": ""})
    monkeypatch.setattr(pack, "pip", pip)
    monkeypatch.setenv("H20_LAB_DIR", str(tmp_path / "here"))
    monkeypatch.setattr(pack, "SUITE", ("docker>=7.1",))
    monkeypatch.setattr(pack, "stage_debian", lambda folder: (folder / "usr/bin").mkdir(parents=True))
    return house


def test_a_lab_is_packed_carried_and_unpacked_by_one_command_each(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have, parts, there = tmp_path / "have.txt", tmp_path / "parts", tmp_path / "there"
    have.write_text("torch==2.11.0\ncloudpickle==3.1\n")
    model = tmp_path / "here/models/tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    old = there / "engines/vllm-gpu/site/left_over.py"
    old.parent.mkdir(parents=True)
    old.write_text("of an earlier lab")
    assert main(["pack", "--gpus", str(parts), "--part-size", "400", "--have", str(have)]) == 0
    sizes = [path.stat().st_size for path in sorted(parts.glob("lab.tar.xz.*"))]
    assert len(sizes) > 1
    assert set(sizes[:-1]) == {400}
    assert "carry them with parts.json" in capsys.readouterr().out
    assert not (tmp_path / "here/wheels").exists()
    monkeypatch.setenv("H20_LAB_DIR", str(there))
    monkeypatch.setenv("PATH", "/nowhere")  # neither pip nor xz, nor a network
    assert main(["unpack", str(parts)]) == 0
    site = there / "engines/vllm-gpu/site"
    assert (site / "ijson.py").read_text() == "pinned = True\n", "the version that ran, and no other"
    assert [
        (there / name).exists() for name in ("debian/usr/bin", "suite/docker.py", "engines/vllm-gpu/bin/vllm", "models/tiny/config.json")
    ] == [True] * 4
    assert not (site / "vllm/vllm-rs").exists()
    assert not old.exists(), "an earlier lab is replaced, not mixed with"
    assert not (there / "unpacking").exists()
    assert capsys.readouterr().out.endswith("next: python -m tests.lab up --gpus\n")


def test_an_engine_is_packed_by_its_name(
    house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = {"sgl_kernel/__init__.py": "", "sgl_kernel/flash_ops.abi3.so": "x", "sgl_kernel/sm90/common_ops.abi3.so": "y"}
    wheel(house, "sglang", pack.SGLANG.version, kernels)
    monkeypatch.setitem(pack.ENGINES, "sglang", replace(pack.SGLANG, wanted=("sglang",)))
    have = tmp_path / "have.txt"
    have.write_text("")
    assert main(["pack", "--gpus", str(tmp_path / "parts"), "--engine", "sglang", "--have", str(have)]) == 0
    assert main(["unpack", str(tmp_path / "parts")]) == 0
    assert [engine.name for engine in pack.engines_there()] == ["sglang"]
    site = pack.SGLANG.folder / "site/sgl_kernel"
    assert [(site / name).exists() for name in ("sm90/common_ops.abi3.so", "flash_ops.abi3.so")] == [True, False]
    assert main(["pack", "--gpus", str(tmp_path / "parts"), "--engine", "tgi"]) == 2
    assert "tgi: no engine of a GPU lab; there are sglang, vllm" in capsys.readouterr().err


def test_without_a_model_it_is_said_how_that_machine_makes_one(house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (house / f"vllm-{pack.VLLM.version}-py3-none-any.whl").unlink()
    wheel(house, "vllm", pack.VLLM.version, {"vllm/__init__.py": ""})
    assert main(["pack", "--gpus", str(tmp_path / "parts")]) == 0
    assert "that machine makes one (`setup --gpus --only model`)" in capsys.readouterr().out
    assert main(["unpack", str(tmp_path / "parts")]) == 0
    assert capsys.readouterr().out.endswith("next: python -m tests.lab setup --gpus --only model\n")


def test_a_wheel_that_is_not_to_be_had_ends_packing_with_its_name(house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (house / f"ijson-{pack.pins('vllm')['ijson']}-py3-none-any.whl").unlink()
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "parts.json").write_text('{"lab.tar.xz.000": "of an earlier pack"}')
    assert main(["pack", "--gpus", str(parts)]) == 2
    assert f"pip download ijson=={pack.pins('vllm')['ijson']}" in capsys.readouterr().err
    assert main(["unpack", str(parts)]) == 2, "what is left of it is no lab"
    assert "parts.json" in capsys.readouterr().err


def test_what_cannot_be_written_or_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("H20_LAB_DIR", str(tmp_path / "lab"))
    (tmp_path / "file").write_text("")
    assert main(["pack", "--gpus", str(tmp_path / "file")]) == 2
    assert "some 4 GB" in capsys.readouterr().err
    assert main(["pack", "--gpus", str(tmp_path / "new"), "--have", str(tmp_path / "none.txt")]) == 2
    assert "none.txt" in capsys.readouterr().err
    parts_of(tmp_path, b"no archive at all", 5)
    assert main(["unpack", str(tmp_path)]) == 2
    assert "cannot be filled" in capsys.readouterr().err
    (tmp_path / "lab/clusters/c").mkdir(parents=True)
    (tmp_path / "lab/clusters/c/cluster.json").write_text("{}")
    assert main(["unpack", str(tmp_path)]) == 2
    assert "python -m tests.lab --name c down" in capsys.readouterr().err


def test_every_wheel_of_the_lab_has_its_version() -> None:
    suite = pack.pins("suite")
    for engine in pack.ENGINES.values():
        pins = pack.pins(engine.name)
        assert pins[engine.name] == engine.version
        assert len(pins) > 60
        assert not (pack.NOT_NEEDED | engine.not_needed) & pins.keys()
    assert {pack.normal(re.split(r"[^\w.-]", one)[0]) for one in pack.SUITE} - suite.keys() == {"prometheus-client", "pytest"}


# ---- inventory ----------------------------------------------------------------------------------------------------
def test_the_shipped_inventory_is_that_of_the_default_cluster() -> None:
    inventory = load_inventory(GPU_LAB_YAML)
    assert (inventory.kind, inventory.stood_in) == ("lab", ("weights",))
    plan = ClusterPlan(gpus=2, rails=1)
    shown = [(node.address, [rail.address for rail in node.rails]) for node in inventory.nodes]
    assert shown == [(entry["address"], [rail["address"] for rail in entry["rails"]]) for entry in map(node_entry, plan.nodes)]
    images = {name: {profile.image for profile in engine.profiles.values()} for name, engine in inventory.engines.items()}
    assert images == {engine.name: {engine.image} for engine in pack.ENGINES.values()}


def test_every_gpu_is_used() -> None:
    """TP=2 on two nodes of two GPUs is what vLLM 0.24 cannot start."""
    profiles = yaml.safe_load(GPU_LAB_YAML.read_text(encoding="utf-8"))["engines"]["vllm"]["profiles"]
    told = {name: over_all(profile, 4) for name, profile in profiles.items()}
    assert {profile["tensor_parallel"] for profile in told.values()} == {4}
    assert told["native"] == {**profiles["native"], "tensor_parallel": 4, "description": "vLLM 0.24.0, TP=4 over two nodes"}


def test_the_model_like_r1_has_profiles_of_its_own() -> None:
    profiles = load_inventory(GPU_LAB_YAML).engines["vllm"].profiles
    plain = profiles["native"].flags
    assert {name: {k: v for k, v in p.flags.items() if k not in plain} for name, p in profiles.items()} == {
        "native": {},
        "fp8": {"quantization": "fp8"},
        "mtp": {"quantization": "fp8", "speculative-config": {"method": "mtp", "num_speculative_tokens": 1}},
    }
    drafts = {name: speculation_of("vllm", p.flags) for name, p in profiles.items()}
    assert (drafts["fp8"], str(drafts["mtp"])) == (None, "mtp, at most 2 tokens a step")


def test_what_is_expected_is_what_nvidia_smi_says() -> None:
    assert expected("NVIDIA H200, 580.159.04, 143771", "13.0", 1) == {
        "driver": "580.159.04",
        "cuda": "13.0",
        "gpu_count": 1,
        "gpu_model": "H200",
        "gpu_memory_min_mib": 143761,
    }
    assert expected("NVIDIA H100 80GB HBM3, 1, 81559", "13.0", 2)["gpu_model"] == "H100"
    for row in ("", "No devices were found", "NVIDIA H200, 580.159.04, [N/A]"):
        with pytest.raises(LabError, match="nvidia-smi says"):
            expected(row, "13.0", 1)
