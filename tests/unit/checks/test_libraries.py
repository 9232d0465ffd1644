"""What ranks have loaded, from the script's answer to verdicts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_h20.checks.libraries import verdicts
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.probes.libraries import SCRIPT, Loaded, family, parse_loaded
from pytest_h20.probes.script import Missing, ProbeError
from pytest_h20.rehearsal.libraries import LibrariesTruth, printed
from tests.unit.probes.cluster import blog_cluster

Told = dict[str, Loaded | Missing]


def told(truth: LibrariesTruth | None = None, env: dict[str, str] | None = None) -> dict[str, Loaded | Missing]:
    truth = truth or LibrariesTruth()
    return {n: parse_loaded(printed(truth, n, env or {}, "2.21.5", "sglang", 8)) for n in ("node01", "node02")}


def judged(
    found: dict[str, Loaded | Missing], profile_env: dict[str, str] | None = None, nccl: str = "2.21.5", ranks: int = 16
) -> dict[str, Verdict]:
    cluster = blog_cluster()
    for node in cluster.nodes.values():
        node.machine.nccl = nccl
    profile = cluster.profile.model_copy(update={"env": {**cluster.profile.env, **(profile_env or {})}, "tensor_parallel": ranks})
    target = LaunchTarget(cluster.inventory, "sglang", "default", profile)
    return {v.check.partition(".")[2]: v for v in verdicts(target, found, cluster.gather().nodes)}


def test_sixteen_ranks_that_are_alike_are_green_and_counted() -> None:
    found = judged(told())
    assert {name: v.status for name, v in found.items()} == dict.fromkeys(("libraries", "nccl_loaded", "nccl_settings"), Status.PASS)
    assert (found["libraries"].looked_at, found["nccl_loaded"].looked_at) == (16 * 6, 16)
    assert "libnccl.so.2 2.21.5" in str(found["libraries"].details["libnccl"])


def test_another_build_of_the_same_version_is_red() -> None:
    found = judged(told(LibrariesTruth(other={"node02": "x"})))
    assert found["libraries"].status is Status.FAIL
    assert "8 of 16 ranks have" in found["libraries"].reason
    assert found["nccl_loaded"].status is Status.PASS, "its version is the image's: only the content tells"


def test_a_version_that_the_image_does_not_have_is_red_unless_it_is_meant() -> None:
    other = told(LibrariesTruth(version="2.18.1"))
    assert judged(other)["nccl_loaded"].status is Status.FAIL
    meant = judged(other, {"VLLM_NCCL_SO_PATH": "/opt/libnccl.so.2"})["nccl_loaded"]
    assert (meant.status, meant.measured) == (Status.SKIP, "2.18.1")


def test_several_copies_in_one_rank_are_told() -> None:
    found = told()
    node = found["node01"]
    assert isinstance(node, Loaded)
    first = next(path for path in node.files if "libnccl" in path)
    second = replace(node.files[first], path="/usr/lib/libnccl.so.2", sha256="0" * 64, version="2.18.3")
    twice = replace(node.processes[0], paths=(*node.processes[0].paths, second.path))
    found["node01"] = replace(node, processes=(twice, *node.processes[1:]), files={**node.files, second.path: second})
    verdict = judged(found)["nccl_loaded"]
    assert verdict.status is Status.WARN
    assert "1 of 16 ranks have several copies of NCCL: node01 pid 300" in verdict.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: {**found, "node02": Missing("node02: no python3")}, "no python3"),
        (lambda found: {**found, **{k: v for k, v in told(LibrariesTruth(blind={"node02"})).items() if k == "node02"}}, "8 of 16 ranks"),
    ],
)
def test_ranks_that_were_not_seen_are_no_pass(change: Callable[[Told], Told], words: str) -> None:
    found = judged(change(told()))
    assert {v.status for v in found.values()} == {Status.UNKNOWN}
    assert words in found["libraries"].reason


def test_memory_that_may_not_be_read_names_the_right() -> None:
    found = told()
    node = found["node02"]
    assert isinstance(node, Loaded)
    verdict = judged({**found, "node02": replace(node, processes=node.processes[:3], unread=5)})["libraries"]
    assert verdict.reason == "11 of 16 ranks could be looked at; the memory of 5 processes of other users (/proc/PID/maps) could not"
    assert "CAP_SYS_PTRACE" in verdict.action


def test_an_engine_without_containers_of_ours_is_left_alone() -> None:
    assert {v.status for v in judged({}).values()} == {Status.SKIP}


def test_settings_that_were_given_arrive() -> None:
    given = {"NCCL_IB_TIMEOUT": "22"}
    assert judged(told(env=given), given)["nccl_settings"].status is Status.PASS
    lost = judged(told(), given)["nccl_settings"]
    assert lost.status is Status.FAIL
    assert "NCCL_IB_TIMEOUT=(not set), 22 was given" in lost.reason


def test_a_file_left_in_the_image_is_told_where_no_variable_hides_it() -> None:
    """/etc/nccl.conf of a machine in the cloud: read by NCCL where the variable is not set."""
    left = LibrariesTruth(conf={"node01": {"NCCL_NVLS_ENABLE": "0"}})
    verdict = judged(told(left))["nccl_settings"]
    assert (verdict.status, verdict.reason) == (Status.WARN, "node01: /etc/nccl.conf sets NCCL_NVLS_ENABLE=0")
    assert judged(told(left, env={"NCCL_NVLS_ENABLE": "1"}))["nccl_settings"].status is Status.PASS


def test_the_network_interface_may_differ_between_nodes() -> None:
    differs = LibrariesTruth(env={"node02": {"NCCL_SOCKET_IFNAME": "xgbe1"}})
    assert judged(told(differs))["nccl_settings"].status is Status.PASS


def test_two_real_ranks_are_alike() -> None:
    """The script's answer beside two torch ranks on two H200, 2026-11-27: NCCL 2.28.9, and an nccl.conf that the environment hides."""
    found = parse_loaded((Path(__file__).parent / "libraries-two-h200.json").read_text(encoding="utf-8"))
    assert [len(process.paths) for process in found.processes] == [5, 5]
    libnccl = next(file for path, file in found.files.items() if family(path) == "libnccl")
    assert (libnccl.version, libnccl.size) == ("2.28.9", 217995896)
    said = judged({"node01": found, "node02": found}, {"NCCL_IB_TIMEOUT": "22"}, nccl="2.28.9", ranks=4)
    assert {v.status for v in said.values()} == {Status.PASS}, said
    assert said["libraries"].looked_at == 4 * 5


def test_sglangs_helpers_and_what_a_node_compiled_are_no_differences() -> None:
    """SGLang 0.5.16, TP=2 over two nodes of one H200, 2026-11-28: server and detokenizer hold the GPU open, FlashInfer's norm was compiled
    on each node, and the scheduler's title hides the start of its environment."""
    here = Path(__file__).parent
    found: Told = {n: parse_loaded((here / f"libraries-sglang-{n}.json").read_text(encoding="utf-8")) for n in ("node01", "node02")}
    said = judged(found, {"NCCL_NVLS_ENABLE": "0"}, nccl="2.28.9", ranks=2)
    assert {name: v.status for name, v in said.items()} == dict.fromkeys(("libraries", "nccl_loaded", "nccl_settings"), Status.PASS)
    assert said["nccl_settings"].looked_at == 2
    node = found["node02"]
    assert isinstance(node, Loaded)
    kernels = next(path for path in node.files if "sgl_kernel" in path)
    other = replace(node, files={**node.files, kernels: replace(node.files[kernels], sha256="0" * 64)})
    assert judged({**found, "node02": other}, nccl="2.28.9", ranks=2)["libraries"].status is Status.FAIL


def test_an_environment_under_a_title_is_the_parents(tmp_path: Path) -> None:
    """What setproctitle leaves of /proc/PID/environ, here by a parent that writes zeros over the start of its own child's."""
    environ = SCRIPT[SCRIPT.index("def environ") : SCRIPT.index("\n\nfound, files")].replace("/proc/", f"{tmp_path}/")
    for pid, parent, data in ((7, 1, b"NCCL_DEBUG=INFO\0NCCL_X=1\0"), (8, 7, bytes(20) + b"NCCL_X=2\0"), (9, 3, bytes(4) + b"NCCL_X=3\0")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / f"{pid}/environ").write_bytes(data)
        (tmp_path / f"{pid}/stat").write_text(f"{pid} (a) b) S {parent} 1")
    names: dict[str, Any] = {}
    exec(environ, names)
    assert names["environ"]("8") == {"NCCL_DEBUG": "INFO", "NCCL_X": "2"}
    assert names["environ"]("9") == {"NCCL_X": "3"}, "a parent that cannot be read"


def test_the_script_reads_a_real_process(tmp_path: Path) -> None:
    """The script itself, with libc taken for a GPU's device and for a library of interest."""
    script = SCRIPT.replace("/dev/nvidia[0-9]", ".*/libc[.]so").replace("libmlx5", "libc[.]so")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"NCCL_X": "1", "HOME": str(tmp_path)}, timeout=60
    )
    found = parse_loaded(done.stdout)
    mine = next(process for process in found.processes if process.env.get("NCCL_X") == "1")
    path = next(path for path in mine.paths if "libc.so" in path)
    assert found.files[path].sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert found.conf == {}


def test_without_a_gpu_no_process_is_a_rank() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert parse_loaded(done.stdout).processes == ()


@pytest.mark.parametrize("text", ["", "{}", '{"libraries": 1}', '{"libraries": 1, "processes": {}, "files": [], "conf": 0, "unread": 0}'])
def test_another_answer_is_not_measured(text: str) -> None:
    with pytest.raises(ProbeError, match="did not tell"):
        parse_loaded(text)


def test_hostile_text_of_a_node_is_only_text() -> None:
    data = {"libraries": 1, "processes": [], "files": {}, "conf": {"/etc/nccl.conf": {"A": "\x1b[31m"}}, "unread": 0}
    assert parse_loaded(json.dumps(data)).conf["/etc/nccl.conf"]["A"] == "\x1b[31m"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/opt/venv/lib/python3.12/site-packages/nvidia/nccl/lib/libnccl.so.2", "libnccl"),
        ("/usr/lib/x86_64-linux-gnu/libnccl-net.so.0", "nccl plugin"),
        ("/usr/lib/x86_64-linux-gnu/libmlx5.so.1.24.50.0", "libmlx5"),
        ("/usr/lib/x86_64-linux-gnu/libibverbs.so.1.14.50.0", "libibverbs"),
        ("/opt/x/libcudart-d0da41ae.so.11.0", "libcudart"),
        ("/usr/local/nvidia/lib64/libcuda.so.580.159.04", "libcuda"),
        ("/x/site-packages/vllm/_C.abi3.so", "vllm/_C.abi3.so"),
        ("/usr/lib/libcudadebugger.so.1", ""),
        ("/usr/lib/libcudnn.so.9", ""),
    ],
)
def test_families(path: str, name: str) -> None:
    """The first six as they were mapped into a process on two H100."""
    assert family(path) == name
