"""The main job: one command brings a real engine up on two nodes, tests it, reports, and takes everything down."""

from __future__ import annotations

from pathlib import Path

from pytest_h20.config.inventory import user_name
from tests.e2e.conftest import Lab


def test_vllm_on_two_nodes(lab: Lab, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    run = lab.pytest("--engine=vllm", f"--html={report}", "--self-contained-html")
    assert run.rc == 0, run.output[-6000:]
    verdict = run.verdict
    assert verdict["complete"]
    assert verdict["green"], verdict["reason"]
    assert not verdict["accepted"], "a lab run must never be an acceptance"
    assert verdict["mode"] == "lab"
    gates = {g["name"]: g["status"] for g in verdict["gates"]}
    for gate in ("environment", "fabric", "weights", "bringup", "endpoint", "reasoning", "answers", "throughput"):
        assert gates[gate] in ("pass", "warn"), (gate, gates)
    assert "LAB" in run.output
    for node in ("node01", "node02"):
        assert [c for c in lab.containers(node) if c.startswith("h20-")] == []
        left = lab.ssh(node, "ls", f"/var/tmp/pytest-h20-{user_name()}").split()
        assert set(left) <= {"weights-sha256.jsonl"}, "only the cache of the full weights check may stay on a node"
    html = report.read_text(encoding="utf-8")
    assert "NOT AN ACCEPTANCE" in html.upper()
    assert "rank0" in html
    assert (run.folder / "summary.csv").read_text().count("\n") >= 3 if run.folder else False
