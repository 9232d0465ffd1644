"""Logs, the daemon's replies and the agent's output, changed: a value or an ``H20Error``, never a traceback."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.checks.weights.facts import FullFacts, parse_fast
from pytest_h20.core.errors import H20Error, TransportError
from pytest_h20.diagnosis.judge import diagnose
from pytest_h20.engines import stages
from pytest_h20.nccl.reader import parse_log
from pytest_h20.nodes.docker_api import DockerContainers, container_info
from tests.unit.endpoint.liars import ODD_JSON
from tests.unit.mutants import mutate, mutate_bytes

NCCL = """\
n1:12:13 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>
n1:12:13 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/RoCE [1]mlx5_1:1/RoCE [RO]; OOB eth0:10.0.0.1<0>
n1:12:13 [0] NCCL INFO Using network IB
n1:12:13 [0] NCCL INFO ncclCommInitRank comm 0x55aa rank 0 nranks 16 cudaDev 0 nvmlDev 0 busId 1b000 commId 0x1f - Init START
n1:12:13 [0] NCCL INFO Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA
n1:12:13 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM/read
n1:12:13 [0] NCCL WARN NET/IB : Got completion from peer 10.0.0.2<4711> with status=12 opcode=0 len=0 vendor err 129 (Send)
#  Rank  0 Group  0 Pid   1234 on   node01 device  0 [0x1b] NVIDIA H20
n1:12:13 [0] NCCL INFO Connected all rings
"""
ENGINE = """\
INFO 01-01 00:00:00 [api_server.py:1712] vLLM API server version 0.8.2
(EngineCore_DP0 pid=7) INFO 01-01 00:00:01 [loader.py:447] Loading weights took 12.51 seconds
Loading safetensors checkpoint shards:  12% Completed | 20/163 [00:10<01:11,  2.00it/s]
Traceback (most recent call last):
  File "/x/y.py", line 7, in z
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 95.00 GiB
[2025-01-01 00:00:00 TP0] Load weight end. elapsed=31.22 s, type=DeepseekV3ForCausalLM, avail mem=12.1 GB, mem usage=80.2 GB.
[2025-01-01 00:00:09] The server is fired up and ready to roll!
"""
AGENT = "total\t2\t100\nknown\ta\t00\tcache\nfile\ta\t50\t00ff\tcached\t7\nerror\tb\tgone\nprogress\t50\t100\t10\t-1\ndone\t1.5\n"
CONTAINER = {
    "Id": "f" * 64,
    "Name": "/x",
    "Created": "2025-01-01T00:00:00Z",
    "Config": {"Image": "i", "Labels": {"a": "b"}},
    "State": {"Status": "exited", "ExitCode": 1, "OOMKilled": False},
}


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_a_changed_log_is_read(rng: random.Random) -> None:
    parse_log(mutate_bytes(rng, NCCL.encode(), most=8))
    log = mutate(rng, ENGINE, most=8)
    diagnose(log)
    for line in log.split("\n"):
        stages.recognise("vllm", line)
        stages.recognise("sglang", line)


def test_a_rank_of_five_thousand_digits() -> None:
    parse_log(f"#  Rank  {'9' * 5000} Pid   1234 on   node01 device  0")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_a_changed_output_of_the_weights_agent_is_read_or_refused(rng: random.Random) -> None:
    facts = FullFacts()
    with suppress(H20Error):
        for line in mutate(rng, AGENT).split("\n"):
            facts.take(line)
            str(facts.progress)
    with suppress(H20Error):
        parse_fast(mutate(rng, '{"version": 1, "path": "/m", "python": "3", "shards": [], "total": 0}'))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(["Id", "Name", "Created", "Config", "State", "Image", "Labels", "Status", "ExitCode"]), ODD_JSON)
def test_a_container_described_otherwise_is_read_or_refused(name: str, value: object) -> None:
    def changed(node: Any) -> Any:
        return {k: value if k == name else changed(v) for k, v in node.items()} if isinstance(node, dict) else node

    with suppress(H20Error):
        assert all(isinstance(v, str) for v in container_info(changed(CONTAINER)).labels.values())
    with suppress(H20Error):
        container_info(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [None, [], "x", 7, {}, {"Id": None, "Size": "much"}, [{"Id": 1}, 2], json.loads("1e999")])
def test_a_daemon_that_answers_nonsense_is_an_error_of_ours(said: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(*_: object, **__: object) -> object:
        return said

    api = SimpleNamespace(version=say, info=say, inspect_image=say, containers=say, inspect_container=say)
    containers = DockerContainers("node01", lambda: "/nowhere", where="/nowhere", kill=lambda pid: "")
    monkeypatch.setattr(containers, "_api", lambda: api)
    for ask in (containers.daemon, lambda: containers.image("i"), lambda: containers.find({"a": "b"}), lambda: containers.inspect("c")):
        with suppress(H20Error):
            ask()
    if not isinstance(said, dict):
        with pytest.raises(TransportError, match="answered in no form we know"):
            containers.daemon()
