"""What workers tell each other: every published type comes back equal, and a planted file runs nothing and is not believed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from types import MappingProxyType

import pytest

from pytest_h20.cluster.codec import decode, encode
from pytest_h20.cluster.shared import EngineTopic, FailedElsewhere, Shared, Told, Topic
from pytest_h20.cluster.state import ClusterState, EngineVersions, Phase, RoleRef
from pytest_h20.cluster.teardown import Down, Stopped
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.nccl import judge_job, parse_log

CLUSTER: Topic[ClusterState] = Topic("cluster", ClusterState)
NAME: Topic[str] = Topic("name", str)
STATE = ClusterState(
    "r",
    "vllm",
    "p",
    "n1",
    "http://x",
    "m",
    EngineVersions("0.11"),
    (RoleRef("n1", "server", 0, "id", "c", "/l", "cmd"),),
    {"n1": "/d"},
    (("off", 0.5),),
)


@pytest.mark.parametrize(
    "value",
    [
        STATE,
        Down((Stopped("n", "c", "r", 1.5, False, None),), ("x",), ()),
        Verdict(check="a.b", status=Status.FAIL, title="t"),
        (1, [2, (3,)], {"k": {4: b"\x00\xff"}, "$": 1}, {5}, frozenset({6}), None, float("inf"), Phase.DOWN, Path("/a b")),
        judge_job([parse_log("h:1:1 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/RoCE [RO]; OOB eth0:1.2.3.4<0>\n", source="s")]),
    ],
)
def test_everything_that_is_published_comes_back_equal(value: object) -> None:
    assert decode(encode(value)) == value
    json.loads(encode(value))


def test_what_is_no_data_is_refused_when_it_is_published() -> None:
    with pytest.raises(H20Error, match="no plain data"):
        encode(object())
    assert decode(encode(MappingProxyType({"a": 1}))) == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        '{"$": ["data", "subprocess:Popen", {"args": ["touch", "X"]}]}',
        '{"$": ["data", "os:system", {}]}',
        '{"$": ["data", "pytest_h20.cluster.shared:os", {}]}',
        '{"$": ["model", "pytest_h20.cluster.shared:Shared", {"folder": "/"}]}',
        '{"$": ["data", "pytest_h20.cluster.state:RoleRef", {}]}',
        '{"$": []}',
        "\x80\x04N.",
        "[" * 100_000,
    ],
)
def test_a_planted_text_makes_nothing_but_our_data(text: str) -> None:
    with pytest.raises(H20Error, match="cannot be read"):
        decode(text)


def test_a_planted_pickle_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    shared = Shared(tmp_path / ".shared")
    for name in ("cluster.pickle", "cluster.json"):
        (tmp_path / ".shared" / name).write_bytes(pickle.dumps((True, Evil())))
        (tmp_path / ".shared" / name).chmod(0o600)
    with pytest.raises(H20Error, match="cannot be read"):
        shared.published(CLUSTER)
    assert not (tmp_path / "ran").exists()


def test_what_others_could_write_or_link_is_not_believed(tmp_path: Path) -> None:
    shared = Shared(tmp_path / ".shared")
    shared.once(CLUSTER, lambda: STATE)
    file = tmp_path / ".shared" / "cluster.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert Shared(tmp_path / ".shared").published(CLUSTER) == Told(STATE)
    file.chmod(0o620)
    with pytest.raises(H20Error, match="nobody else can write"):
        shared.published(CLUSTER)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(H20Error, match="cannot be read"):
        shared.published(CLUSTER)
    (tmp_path / ".shared").chmod(0o770)
    with pytest.raises(H20Error, match="nobody else can write"):
        Shared(tmp_path / ".shared")
    (tmp_path / "link").symlink_to(tmp_path / ".shared")
    with pytest.raises(H20Error, match="is a link"):
        Shared(tmp_path / "link")


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    def broken() -> str:
        raise H20Error("why")

    with pytest.raises(H20Error, match="why"):
        Shared(tmp_path / ".shared").once(NAME, broken)
    with pytest.raises(FailedElsewhere, match="why"):
        Shared(tmp_path / ".shared").once(NAME, broken)
    assert Shared(tmp_path / ".shared").published(NAME) == Told(None, "why")
    assert Shared(tmp_path / ".shared").value(NAME) is None


@pytest.mark.parametrize("text", ['[true, "a text"]', "[true, 7]", "[false, 7]", '[1, "x"]', "[true]", "{}", "null"])
def test_a_class_that_is_not_told_there_is_not_believed(tmp_path: Path, text: str) -> None:
    shared = Shared(tmp_path / ".shared")
    file = tmp_path / ".shared" / "cluster.json"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(H20Error, match=r"cluster\.json: cannot be read: it does not hold a ClusterState, nor the reason"):
        shared.published(CLUSTER)


def test_every_engine_and_part_has_a_file_of_its_own(tmp_path: Path) -> None:
    topic: EngineTopic[str] = EngineTopic("score", str)
    shared = Shared(tmp_path / ".shared")
    for label, part in (("sglang", ""), ("sglang:tuned", ""), ("sglang", "shipped")):
        shared.publish(topic(label, part), f"{label} {part}")
    assert sorted(f.name for f in (tmp_path / ".shared").glob("*.json")) == [
        "score-sglang-tuned.json",
        "score-sglang.json",
        "score-shipped-sglang.json",
    ]
    assert shared.value(topic("sglang:tuned")) == "sglang:tuned "
