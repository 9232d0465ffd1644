"""Wrong input: one line with file, field, value, and what is accepted; exit status 4; no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest


def _usage_error(pytester: pytest.Pytester, *args: str) -> str:
    result = pytester.runpytest_subprocess(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str() + result.stderr.str()
    text = result.stderr.str()
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text + result.stdout.str()
    return text


def test_no_such_inventory(pytester: pytest.Pytester) -> None:
    assert "nowhere.yaml: no such inventory file" in _usage_error(pytester, "--nodes=nowhere.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("control_interface: xgbe0", "contrl_interface: xgbe0", 'nodes[0].contrl_interface = "xgbe0": unknown field; accepted here:'),
        ("gid_index: 3 ", "gid_index: three ", 'nodes[0].gid_index = "three": a whole number is needed'),
        ("address: 10.63.65.208\n    host_ip: 10.63.65.208", "address: 10.63.65.207", "nodes[1].address: '10.63.65.207' is already that"),
        ("      - {hca: mlx5_8, interface: xgbe8, address: 33.2.163.144}\n", "", "nodes[1].rails: 7 rails where another node has 8"),
        ("dist_port: 30000", "dist_port: 8000", "dist_port and http_port are both 8000"),
        ("name: h20-2node", "name: h20-2node\nname: again", "key 'name' is given twice"),
        ("nodes:", "nodes: [", "not valid YAML"),
    ],
)
def test_inventory_errors_name_the_place(pytester: pytest.Pytester, inventory_file: Path, old: str, new: str, message: str) -> None:
    text = inventory_file.read_text(encoding="utf-8")
    assert old in text
    inventory_file.write_text(text.replace(old, new, 1), encoding="utf-8")
    error = _usage_error(pytester, "--engine=sglang", f"--nodes={inventory_file.name}")
    assert message in error
    assert "cluster.yaml" in error


@pytest.mark.parametrize("option", [(), ("--h20-plan",)], ids=["run", "plan"])
@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [(None, 0o600, "is not there"), ("no key\n", 0o600, "cannot be used"), ("no key\n", 0o644, "chmod 600")],
    ids=["absent", "garbage", "open"],
)
def test_a_key_that_cannot_be_used_is_told_before_anything_is_reached(
    pytester: pytest.Pytester, inventory_file: Path, content: str | None, mode: int, said: str, option: tuple[str, ...]
) -> None:
    key = pytester.path / "mine"
    if content is not None:
        key.write_text(content)
        key.chmod(mode)
    text = inventory_file.read_text(encoding="utf-8")
    inventory_file.write_text(text.replace("  user: root\n", f"  user: root\n  key: {key}\n", 1), encoding="utf-8")
    error = _usage_error(pytester, "--engine=sglang", f"--nodes={inventory_file.name}", *option)
    assert said in error
    assert str(key) in error
    assert len([line for line in error.splitlines() if line.strip()]) == 1


def test_a_profile_without_limits_is_told_before_hours_are_measured(pytester: pytest.Pytester, inventory_file: Path) -> None:
    text = inventory_file.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines(keepends=True) if not line.strip().startswith("limits:")]
    inventory_file.write_text("".join(lines), encoding="utf-8")
    error = _usage_error(pytester, "--engine=sglang", f"--nodes={inventory_file.name}")
    assert "engines.sglang.profiles.default: names no limits file" in error
    assert "--h20-calibrate=FILE" in error
    inventory_file.write_text("".join(lines) + "\ngates: [environment, fabric]\n", encoding="utf-8")
    done = pytester.runpytest_subprocess("--engine=sglang", f"--nodes={inventory_file.name}", "--collect-only", "-q")
    assert done.ret == pytest.ExitCode.OK, "throughput is not asked for"


def test_engine_is_missing(pytester: pytest.Pytester, inventory_file: Path) -> None:
    assert "--engine is missing: the inventory has sglang, vllm" in _usage_error(pytester, "--nodes=cluster.yaml")


def test_unknown_engine_and_profile(pytester: pytest.Pytester, inventory_file: Path) -> None:
    assert "no engine 'trt'; it has sglang, vllm" in _usage_error(pytester, "--nodes=cluster.yaml", "--engine=trt")
    text = _usage_error(pytester, "--nodes=cluster.yaml", "--engine=sglang:fast")
    assert "no profile 'fast'; it has default, dp-attention, single, torch-compile, tuned" in text


def test_faults_are_for_the_rehearsal_only(pytester: pytest.Pytester, inventory_file: Path) -> None:
    text = _usage_error(pytester, "--nodes=cluster.yaml", "--engine=sglang", "--h20-fault=rail-down")
    assert "faults can only be injected into the rehearsal" in text


def test_attach_to_nothing(pytester: pytest.Pytester) -> None:
    text = _usage_error(pytester, "--h20-attach=http://127.0.0.1:9", "--engine=vllm")
    assert "http://127.0.0.1:9/v1/models" in text
    assert "is the engine up" in text


def test_a_gate_that_does_not_exist(pytester: pytest.Pytester, inventory_file: Path) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.h20_gate('speed')\ndef test_it(): pass")
    text = _usage_error(pytester, "--nodes=cluster.yaml", "--engine=sglang", "test_a_gate_that_does_not_exist.py")
    assert "h20_gate('speed'): gates are environment, fabric" in text


def _local(text: str) -> str:
    """Both nodes on this machine, so that no address of somebody else is asked."""
    return text.replace("  - name: node01\n", "  - name: node01\n    transport: local\n").replace(
        "  - name: node02\n", "  - name: node02\n    transport: local\n"
    )


def test_a_plan_says_what_would_be_judged(pytester: pytest.Pytester, inventory_file: Path, inventory_text: str) -> None:
    assert "kind: hardware" in inventory_text
    loose = "\ngates: [environment, throughput]\nexpect: {unmeasured_ok: [environment.swap]}\n"
    inventory_file.write_text(_local(inventory_text.partition("\nexpect:")[0]) + loose, encoding="utf-8")
    done = pytester.runpytest_subprocess("--engine=sglang", f"--nodes={inventory_file.name}", "--h20-plan")
    assert done.ret == pytest.ExitCode.OK, done.stderr.str()
    text = done.stdout.str()
    for said in (
        "# gates: environment, throughput\n",
        "26 load cells, limits from ",
        "in128-out128-c1: output_throughput at least 15.678 tok/s (blog)",
        "# no acceptance: the inventory requires only the gates environment, throughput",
        "# condition of an acceptance: may stay unmeasured: environment.swap",
        "# sglang: expected time of bringup: 30 min at most (ready_timeout 1800 s)",
        "# sglang: expected time of throughput: 26 cells about 69 min",
        "x output tokens / output_throughput of the limits file",
        "# node01: reached",
        "# node02: reached",
    ):
        assert said in text, text[:3000]


def test_a_plan_with_something_refused_ends_with_4(pytester: pytest.Pytester, inventory_file: Path, inventory_text: str) -> None:
    flags = "        flags: {trust-remote-code: true, reasoning-parser: deepseek-r1, "
    assert flags in inventory_text
    inventory_file.write_text(_local(inventory_text).replace(flags, f"{flags}no-such-option: true, ", 1), encoding="utf-8")
    done = pytester.runpytest_subprocess("--engine=sglang", f"--nodes={inventory_file.name}", "--h20-plan")
    assert done.ret == pytest.ExitCode.USAGE_ERROR, done.stdout.str()[:2000]
    assert "# REFUSED before launch: " in done.stdout.str()
    assert "ERROR: --h20-plan: an engine would be refused before launch" in done.stderr.str()
