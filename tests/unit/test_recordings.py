"""Reality before imagination, for every reader of text: what prints that text, and where a recording of the real thing is read.

The probes have their own table (``tests/unit/probes/test_real_outputs.py``). Here stand all other functions ``parse_*`` of the package:
logs, benchmarks, /metrics, tools. A new one without a row is red, and so is a row whose test does not call it, or whose recording is not
in the repository. What nobody has shown us stands in docs/measured.md as never seen real.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path

import pytest_h20
from pytest_h20.load import Cell
from pytest_h20.load.bench_serving import parse_sglang, parse_vllm
from pytest_h20.load.server_metrics import parse_metrics
from tests.unit.probes.every import probes

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "corpus" / "recorded"


@dataclass(frozen=True)
class Row:
    """``command``: what prints it. ``test``: where its output is read. ``recording``: the file that was recorded; empty where the test runs
    the command itself. ``by``, ``names``: the words by which the test calls reader and file, where those are not their own names."""

    command: str
    test: str
    recording: str = ""
    by: str = ""
    names: str = ""


READERS = {
    "checks.compute.facts.parse_burn": Row(
        "the script of the burn", "tests/unit/checks/compute/test_burn.py", "tests/unit/checks/compute/h100-two.txt", names='"h100-two.txt"'
    ),
    "checks.weights.facts.parse_fast": Row("the script that looks at weights", "tests/unit/checks/weights/test_weights.py"),
    "cluster.ready.parse_listeners": Row("the script that finds who listens", "tests/unit/probes/test_parsers.py"),
    "engines.base.parse_versions": Row("the version commands in an image", "tests/unit/engines/test_base.py"),
    "load.bench_serving.parse_sglang": Row(
        "sglang.bench_serving 0.5.16", "tests/unit/test_recordings.py", "tests/corpus/recorded/sglang-0.5.16-h200-bench-c1.jsonl"
    ),
    "load.bench_serving.parse_vllm": Row(
        "vllm bench serve 0.24.0", "tests/unit/test_recordings.py", "tests/corpus/recorded/vllm-0.24-h200-bench-c1.json"
    ),
    "load.remote.parse_output": Row("our own load generator on a node", "tests/unit/load/test_running.py"),
    "load.server_metrics.parse_metrics": Row(
        "/metrics of vLLM 0.24.0 and SGLang 0.5.16",
        "tests/unit/test_recordings.py",
        "tests/corpus/recorded/sglang-0.5.16-h200-metrics.txt",
    ),
    "nccl.reader.parse_log": Row(
        "NCCL 2.3 to 2.29", "tests/unit/cli/test_nccl.py", "tests/corpus/nccl/recorded-2xh200-sockets-node01.log", "score", "folders"
    ),
    "probes.libraries.parse_loaded": Row(
        "the script that reads what ranks have loaded", "tests/unit/checks/test_libraries.py", "tests/unit/checks/libraries-two-h200.json"
    ),
    "probes.perf.parse_all_reduce": Row(
        "the script of the all-reduce", "tests/unit/probes/test_real_outputs.py", "tests/corpus/recorded/all-reduce-2xh200-sockets.txt"
    ),
    "probes.perf.parse_ib_write_bw": Row("ib_write_bw --out_json of Debian's perftest 4.5", "tests/unit/probes/test_soft_roce.py"),
    **{
        f"probes.telemetry.parse_{line}": Row(
            "the telemetry of a node",
            "tests/unit/checks/test_machines.py",
            "tests/unit/probes/data/telemetry-4xh200-matmul.txt",
            "Telemetry",
        )
        for line in ("gpu", "host", "memory", "rows")
    },
}
OF_OURS = {
    "config.inventory.parse_inventory": "a person writes it",
    "config.limits.parse_limits": "a person writes it",
}
NEVER_SEEN_REAL = {
    "checks.fabric.rounds.parse_pairs",
    "engines.ray.parse_ray",
    "probes.hang.parse_ras",
    "probes.perf.parse_ib_write_bw_table",
    "probes.perf.parse_ib_write_lat",
    "probes.perf.parse_ib_write_lat_table",
    "probes.telemetry.parse_rail",
}


def readers() -> set[str]:
    """Every function ``parse_*`` that is no probe's, as ``room.module.name``."""
    of_probes = {probe.parse for probe in probes().values()}
    found = set()
    for module in pkgutil.walk_packages(pytest_h20.__path__, "pytest_h20."):
        if re.search(r"\.(rehearsal|acceptance|__main__)\b", module.name):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.startswith("parse_") and inspect.isfunction(value) and value.__module__ == module.name and value not in of_probes:
                found.add(f"{module.name.removeprefix('pytest_h20.')}.{name}")
    return found


def test_every_reader_has_a_recording_or_is_said_to_have_none() -> None:
    known = {*READERS, *OF_OURS, *NEVER_SEEN_REAL}
    assert readers() - known == set(), "a new reader: record what it reads, or say that it was never seen"
    assert known - readers() == set()
    assert len(known) == len(READERS) + len(OF_OURS) + len(NEVER_SEEN_REAL), "each stands in one list"


def test_the_recordings_are_here_and_their_tests_read_them() -> None:
    for name, row in READERS.items():
        text = (ROOT / row.test).read_text(encoding="utf-8")
        assert re.search(rf"\b{row.by or name.rpartition('.')[2]}\b", text), f"{row.test} does not call {name}"
        if row.recording:
            assert (ROOT / row.recording).stat().st_size, row.recording
            assert (row.names or Path(row.recording).name) in text, f"{row.test} does not read {row.recording}"


def test_what_was_never_seen_real_stands_in_the_measured_page() -> None:
    page = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8").partition("## Never seen real")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+\.[\w.]+)`", page, flags=re.M)) == NEVER_SEEN_REAL


def test_the_benchmarks_of_both_engines_as_they_printed_on_an_h200() -> None:
    """One stream; of SGLang's without what the server said of itself and without texts."""
    sglang = (RECORDED / "sglang-0.5.16-h200-bench-c1.jsonl").read_text(encoding="utf-8")
    vllm = (RECORDED / "vllm-0.24-h200-bench-c1.json").read_text(encoding="utf-8")
    for text, read in ((sglang, parse_sglang), (vllm, parse_vllm)):
        row, result = json.loads(text), read(text, Cell(128, 128, 1))
        assert (result.tokens.output, result.output_throughput, result.ttft.mean) == (128, row["output_throughput"], row["mean_ttft_ms"])


def test_metrics_of_sglang_as_they_were_on_an_h200() -> None:
    sample = parse_metrics((RECORDED / "sglang-0.5.16-h200-metrics.txt").read_text(encoding="utf-8"))
    assert (sample.prompt_tokens, sample.generation_tokens, sample.cache_queries, sample.cache_hits) == (1201, 5401, 1201, 904)
    assert (sample.running, sample.waiting, sample.kv_use, sample.retracted) == (0, 0, 0, 0)
