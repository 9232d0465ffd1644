"""The agent on real folders (small models, real payload), its judgement, damage of every kind, caching, and no Python at all."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from pytest_h20.checks.weights.facts import FastFacts, FullFacts, WeightFacts, parse_fast
from pytest_h20.checks.weights.full import bad_tensors, given_hashes, reference
from pytest_h20.checks.weights.judge import LISTED, WeightsJudge, wrong_files
from pytest_h20.checks.weights.published import config_problems, published, revision_of
from pytest_h20.checks.weights.runner import (
    WEIGHT_FILES,
    NodeFolder,
    agent,
    fast_check,
    fast_probe,
    first_bad_tensor,
    full_check,
    full_script,
)
from pytest_h20.config.inventory import Inventory, Model
from pytest_h20.core.errors import UsageError
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.nodes.base import CommandResult
from pytest_h20.probes.script import Missing, ProbeError, build, split
from pytest_h20.rehearsal import sparse
from tests.unit.probes.cluster import blog_cluster

SHARDS = 6


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "R1"
    sparse.write_model(folder, sparse.small_config(), SHARDS, payload=True)
    return folder


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "R1"))


def inventory_of(folder: Path, **fields: object) -> Inventory:
    inventory = blog_cluster().inventory
    spec = Model(host_path=str(folder.parent), mount="/mnt/models", path=f"/mnt/models/{folder.name}", shards=SHARDS, kind="deepseek-r1")
    run = str(folder.parent / "run")
    return inventory.model_copy(update={"model": spec.model_copy(update=fields), "run_dir_on_node": run})


def look(folder: Path) -> FastFacts:
    return parse_fast(json.dumps(agent.fast(agent.Folder(str(folder)), SHARDS)))


def verdicts(folder: Path, peer: Path | None = None) -> dict[str, Verdict]:
    facts = {"node01": look(folder), **({"node02": look(peer)} if peer else {})}
    judge = WeightsJudge(WeightFacts(facts), inventory_of(folder))
    return {v.check: v for v in judge.node("node01") + judge.equal()}


def verdicts_of_node(folder: Path) -> list[Verdict]:
    return WeightsJudge(WeightFacts({"node01": look(folder)}), inventory_of(folder)).node("node01")


def red(found: dict[str, Verdict]) -> dict[str, Status]:
    return {c: v.status for c, v in found.items() if v.status.rank >= Status.WARN.rank}


def shard(folder: Path, number: int) -> Path:
    return folder / f"model-{number:05d}-of-{SHARDS:06d}.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    """Change the header of a shard, keeping its payload."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data[8 + length :])


def test_a_whole_model_is_green(original: Path) -> None:
    assert red(verdicts(original, original)) == {}


def test_the_tensor_table_is_deepseek_r1s() -> None:
    """688,574,839,360 bytes in 91,991 tensors: the published figures of the real model."""
    tensors = agent.expected_tensors(sparse.R1_CONFIG)
    assert len(tensors) == 91991
    assert sum(agent.count(s) * agent.SIZES[d] for d, s in tensors.values()) == 688574839360


def truncate(folder: Path) -> None:
    os.truncate(shard(folder, 3), shard(folder, 3).stat().st_size - 1000)


def spoil_header(folder: Path) -> None:
    shard(folder, 2).open("r+b").write(b"\xff" * 64)


def swap_shape(header: dict[str, dict[str, object]]) -> None:
    tensor = next(t for k, t in header.items() if k != "__metadata__" and len(t["shape"]) == 2)  # type: ignore[arg-type]
    tensor["shape"] = list(reversed(tensor["shape"]))  # type: ignore[call-overload]


def lengthen_gap(header: dict[str, dict[str, object]]) -> None:
    last = list(header.values())[-1]
    last["data_offsets"] = [x + 8 for x in last["data_offsets"]]  # type: ignore[attr-defined]


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def leave_temp(folder: Path) -> None:
    (folder / "._____temp").mkdir()
    (folder / "._____temp" / "a").write_text("")


def remove_shards(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()


F, U = Status.FAIL, Status.UNKNOWN
DAMAGE: dict[str, tuple[Callable[[Path], object], dict[str, Status], str]] = {
    "shard missing": (lambda p: shard(p, 4).unlink(), {"weights.names": F}, "model-00004"),
    "shard truncated": (truncate, {"weights.sizes": F}, "first bad tensor model.layers"),
    "shard too long": (lambda p: shard(p, 2).open("ab").write(b"xx"), {"weights.sizes": F}, "2 bytes too long"),
    "shard empty": (lambda p: shard(p, 2).write_bytes(b""), {"weights.headers": F}, "0 bytes"),
    "header garbage": (spoil_header, {"weights.headers": F}, "claims"),
    "header not JSON": (
        lambda p: shard(p, 2).write_bytes(struct.pack("<Q", 4) + b"{{{{"),
        {"weights.headers": F},
        "not JSON",
    ),
    "Git-LFS pointer": (
        lambda p: shard(p, 2).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
        {"weights.headers": F},
        "lfs pull",
    ),
    "gap between tensors": (
        lambda p: rewrite(shard(p, 2), lengthen_gap),
        {"weights.headers": F, "weights.sizes": F, "weights.total": F},
        "the one before ends",
    ),
    "other shape": (lambda p: rewrite(shard(p, 1), swap_shape), {"weights.shapes": F}, "implies"),
    "tensor renamed": (
        lambda p: rewrite(shard(p, 1), lambda h: h.update({"other.weight": h.pop("model.norm.weight")})),
        {"weights.shapes": F, "weights.index": F},
        "other.weight",
    ),
    "index points elsewhere": (
        lambda p: edit_index(p, lambda m: m.update({"lm_head.weight": shard(p, 6).name})),
        {"weights.index": F},
        "lm_head.weight",
    ),
    "index lacks a tensor": (lambda p: edit_index(p, lambda m: m.pop("lm_head.weight")), {"weights.index": F}, "not in the index"),
    "index names a stranger": (lambda p: edit_index(p, lambda m: m.update({"x": "gone.safetensors"})), {"weights.index": F}, "gone"),
    "index broken": (lambda p: (p / "model.safetensors.index.json").write_text("{"), {"weights.index": F}, "index.json"),
    "no index": (lambda p: (p / "model.safetensors.index.json").unlink(), {"weights.index": F}, "not there"),
    "config broken": (lambda p: (p / "config.json").write_text("nonsense"), {"weights.shapes": U, "weights.model": U}, "config.json"),
    "config of another model": (
        lambda p: (p / "config.json").write_text('{"model_type": "llama"}'),
        {"weights.shapes": F, "weights.model": F},
        "llama",
    ),
    "unfinished download": (lambda p: (p / "model-00002.incomplete").write_text(""), {"weights.leftovers": F}, ".incomplete"),
    "aria2 left": (lambda p: (p / "x.aria2").write_text(""), {"weights.leftovers": F}, ".aria2"),
    "ModelScope temp": (leave_temp, {"weights.leftovers": F}, "_temp"),
    "model code missing": (lambda p: (p / "configuration_deepseek.py").unlink(), {"weights.small_files": F}, "configuration_deepseek"),
    "tokenizer empty": (lambda p: (p / "tokenizer.json").write_text(""), {"weights.small_files": F, "weights.model": U}, "tokenizer.json"),
    "shard of another set": (
        lambda p: shutil.copy(shard(p, 1), p / "model-00001-of-000009.safetensors"),
        {"weights.names": F, "weights.headers": F, "weights.total": F},
        "another set",
    ),
    "nothing there": (remove_shards, {"weights.readable": F}, "holds no model"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_turns_the_right_checks(name: str, model: Path, original: Path) -> None:
    damage, wanted, words = DAMAGE[name]
    damage(model)
    found = verdicts(model, original)
    turned = red(found)
    assert turned.pop("weights.equal", F) is F
    turned = {c: s for c, s in turned.items() if not (c in ("weights.index", "weights.shapes", "weights.total") and c not in wanted)}
    assert turned == wanted
    told = " ".join(f"{v.reason} {v.action}" for v in found.values() if v.status.rank >= Status.WARN.rank)
    assert words in told


@pytest.mark.parametrize(
    ("damage", "told"), [(lambda p: shard(p, 4).unlink(), "weights.names"), (truncate, "weights.sizes"), (spoil_header, "weights.headers")]
)
def test_a_broken_shard_is_told_once(damage: Callable[[Path], object], told: str, model: Path, original: Path) -> None:
    """By the check that says what is wrong with it; the sum, the comparison and the hashes name that one. What else differs is told."""
    damage(model)
    facts = {"node01": look(original), "node02": look(model)}
    judge = WeightsJudge(WeightFacts(facts), inventory_of(model))
    hashes = {"node01": full(original), "node02": full(model)}
    found = [*judge.node("node01"), *judge.node("node02"), *judge.equal(), *judge.full(hashes, {}, {})]
    assert {(v.check, v.subject) for v in found if v.status.blocks} == {(told, "node02")}
    assert {v.check for v in found if v.reason == f"because of {told} [node02], told there"} >= {"weights.equal", "weights.sha256"}
    edit_json(model / "tokenizer_config.json", model_max_length=131072)
    facts["node02"] = look(model)
    [unequal] = judge.equal()
    assert (unequal.measured, unequal.reason) == (1, "tokenizer_config.json: node01 and node02 differ")
    shutil.copy(shard(original, 2), shard(model, 2))
    hashes["node02"].hashes[shard(model, 1).name] = "0" * 64
    assert all(v.status.blocks for v in judge.full(hashes, {}, {})), "two copies that differ, of which nobody knows the right one"


def test_shards_in_a_row_are_one_word_for_the_reader_and_for_the_shell(model: Path, original: Path) -> None:
    for number in (3, 4, 5):
        shard(model, number).unlink()
    names = verdicts(model, original)["weights.names"]
    first, last = shard(model, 3).name, shard(model, 5).name
    assert names.reason == f"missing: {first} … {last}"
    assert names.action == f"rsync -av --checksum 10.63.65.208:{model}/{first.replace('00003', '{00003..00005}', 1)} {model}/"


def test_a_difference_between_nodes_is_named(model: Path, original: Path) -> None:
    edit_json(model / "tokenizer_config.json", model_max_length=131072)
    found = verdicts(model, original)
    assert red(found) == {"weights.equal": F}
    assert "tokenizer_config.json: node01 and node02 differ" in found["weights.equal"].reason


def test_the_command_to_fetch_again_follows_the_source(model: Path, original: Path) -> None:
    shard(model, 4).unlink()
    name = shard(model, 4).name
    assert f"hf download deepseek-ai/DeepSeek-R1 {name}" in verdicts(model)["weights.names"].action
    assert "rsync -av --checksum 10.63.65.208:" in verdicts(model, original)["weights.names"].action
    (model / ".msc").write_text("")
    assert verdicts(model)["weights.names"].action.startswith(f"modelscope download --model deepseek-ai/DeepSeek-R1 {name}")
    meta = model / ".cache/huggingface/download/config.json.metadata"
    meta.parent.mkdir(parents=True)
    meta.write_text("56d4cbbb4d29f4355bab4b9a39ccb717a14ad5ad\nabc\n1700000000.0\n")
    assert "--revision 56d4cbbb4d29f4355bab4b9a39ccb717a14ad5ad" in verdicts(model)["weights.names"].action


def test_shards_are_named_as_the_folder_names_them(tmp_path: Path) -> None:
    """Most models write model-00001-of-00002, DeepSeek -of-000163."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "model-00002-of-00003.safetensors").write_bytes(b"")
    facts = parse_fast(json.dumps(agent.fast(agent.Folder(str(folder)), 0)))
    assert list(facts.missing.first) == ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"]
    (folder / "model-00002-of-00003.safetensors").unlink()
    index = {"weight_map": {"a": "model-0001-of-0002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    by_index = parse_fast(json.dumps(agent.fast(agent.Folder(str(folder)), 2)))
    assert list(by_index.missing.first) == ["model-0001-of-0002.safetensors", "model-0002-of-0002.safetensors"]


@pytest.mark.parametrize("kind", ["other", "deepseek-r1"])
def test_no_command_writes_into_a_folder_that_holds_no_model(tmp_path: Path, kind: str) -> None:
    (tmp_path / "passwd").write_text("")
    for path in (tmp_path, Path("/etc")):
        facts = {"node01": parse_fast(json.dumps(agent.fast(agent.Folder(str(path)), 163)))}
        said = [v.action for v in WeightsJudge(WeightFacts(facts), inventory_of(path, kind=kind)).node("node01") if v.status.blocks]
        assert said
        assert not any("download" in action and "hf " in action for action in said)
        assert any("holds no model: give the folder" in action for action in said)


def test_the_command_is_for_the_host_and_not_for_the_container(model: Path, original: Path) -> None:
    shard(model, 4).unlink()
    facts = {"node01": look(model), "node02": look(original)}
    in_container = {name: found.model_copy(update={"path": "/mnt/models/R1"}) for name, found in facts.items()}
    judge = WeightsJudge(WeightFacts(in_container), inventory_of(model))
    said = judge.check("weights.names", "node01").action
    assert said == f"rsync -av --checksum 10.63.65.208:{model}/{shard(model, 4).name} {model}/"
    in_container["node01"] = in_container["node01"].model_copy(update={"small": {}})
    [unequal] = judge.equal()
    assert unequal.action == f"rsync -av --checksum 10.63.65.208:{model}/ {model}/ on the others, once it is known to be right"


def test_a_folder_without_weights_is_told_in_one_verdict(tmp_path: Path) -> None:
    (found,) = verdicts_of_node(tmp_path)
    assert (found.check, found.status) == ("weights.readable", Status.FAIL)
    assert found.action == f"{tmp_path} holds no model: give the folder that has config.json and *.safetensors"
    facts = {"node01": look(tmp_path)}
    hashed = WeightsJudge(WeightFacts(facts), inventory_of(tmp_path)).full({"node01": FullFacts()}, {}, {})
    assert hashed[0].status is Status.UNKNOWN, "of no file, none is wrong: that says nothing"


def test_an_index_that_is_not_there_is_held_against_something(model: Path) -> None:
    (model / "model.safetensors.index.json").unlink()
    said = verdicts(model)["weights.index"].text()
    assert "measured not there, wanted readable (" in said


def test_digests_of_before_in_a_file_that_is_none_are_passed_over(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    state.write_bytes(b"\xff\xfe\x00 no line of ours\n")
    assert agent.load_state(str(state), 1e9) == {}


def test_advice_is_only_for_what_the_folder_is(model: Path, tmp_path: Path) -> None:
    shard(model, 4).unlink()
    facts = {"node01": look(model)}
    other = WeightsJudge(WeightFacts(facts), inventory_of(model, kind="other")).check("weights.names", "node01").action
    assert other == f"fetch {shard(model, 4).name} again from where {model} came from"
    snapshot = tmp_path / "models--me--My-Model" / "snapshots" / "abc"
    shutil.copytree(model, snapshot)
    cached = {"node01": look(snapshot)}
    said = WeightsJudge(WeightFacts(cached), inventory_of(snapshot, kind="other")).check("weights.names", "node01").action
    assert said == f"hf download me/My-Model {shard(model, 4).name} --revision abc --force-download"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_shard_makes_the_agent_fall(content: bytes) -> None:
    class Memory:
        path = "/m"

        def files(self) -> list[tuple[str, int, int, int]]:
            return [("model-00001-of-000001.safetensors", len(content), 0, 0)]

        def read(self, name: str, offset: int, size: int) -> bytes:
            return content[offset : offset + size]

    facts = parse_fast(json.dumps(agent.fast(Memory(), 1)))
    assert facts.shards[0].problem or facts.shards[0].data == len(content) - 8 - (facts.shards[0].header or 0)


class LocalNode:
    """This machine as a node, for real runs of the scripts: no container engine."""

    def __init__(self, name: str, path: str | None = None) -> None:
        self.name, self.path = name, path

    def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
        env = dict(os.environ, PATH=self.path) if self.path else None
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=timeout, env=env, check=False)
        return CommandResult(self.name, command, done.returncode, done.stdout, done.stderr, 0.0)

    def stream(self, command: str, *args: object, on_line: Callable[[str], object], timeout: float = 3600.0) -> CommandResult:
        result = self.run(command, timeout=timeout)
        for line in result.stdout.splitlines():
            on_line(line)
        return result

    def get(self, path: str, offset: int = 0, limit: int | None = None) -> bytes:
        with open(path, "rb") as f:
            f.seek(offset)
            return f.read(-1 if limit is None else limit)


@pytest.fixture
def without_python(tmp_path: Path) -> str:
    """A PATH with everything the scripts need but any Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    needed = (
        "sh mktemp rm cat wc tr printf echo true false find sed stat sha256sum xargs sort cut grep tail head date dirname mkdir touch "
        "timeout sleep awk env expr"
    )
    for tool in needed.split():
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    return str(tools)


def test_the_fast_check_runs_on_a_node(original: Path) -> None:
    facts = fast_check({"node01": LocalNode("node01")}, inventory_of(original))  # type: ignore[dict-item]
    assert isinstance(facts.fast["node01"], FastFacts)
    assert facts.where["node01"] == "host"
    assert [s.header_sha256 for s in facts.fast["node01"].shards] == [s.header_sha256 for s in look(original).shards]


def test_a_node_without_python_is_read_from_here(original: Path, without_python: str) -> None:
    node = LocalNode("node01", without_python)
    script = (
        build([fast_probe(str(original), SHARDS)])
        .replace("/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "")
        .replace("/usr/libexec/platform-python", "no-such-python")
    )
    assert split(node.run(script).stdout)["weights_fast"].rc in (0, 127)
    listed = WEIGHT_FILES.with_args(str(original)).read(split(node.run(build([WEIGHT_FILES.with_args(str(original))])).stdout))
    assert not isinstance(listed, Missing)
    facts = parse_fast(json.dumps(agent.fast(NodeFolder(node, str(original), listed), SHARDS)))  # type: ignore[arg-type]
    assert facts.signature == look(original).signature


def full(folder: Path, node: LocalNode | None = None, **fields: object) -> FullFacts:
    found = full_check({"node01": node or LocalNode("node01")}, inventory_of(folder, **fields), jobs=2)["node01"]  # type: ignore[dict-item]
    assert isinstance(found, FullFacts), found
    return found


def test_the_full_check_is_sha256sum_and_is_cached(model: Path) -> None:
    first = full(model)
    told = subprocess.run(["sha256sum", *sorted(os.listdir(model))], cwd=model, capture_output=True, text=True, check=True).stdout
    assert first.hashes == {line[66:]: line[:64] for line in told.splitlines()}
    assert first.cached == 0
    again = full(model)
    assert (again.hashes, again.cached) == (first.hashes, len(first.hashes))
    with shard(model, 2).open("r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"\x00\x01"[-1:])
    changed = full(model)
    assert changed.cached == len(first.hashes) - 1


def test_a_digest_has_an_age_and_is_told(model: Path) -> None:
    first = full(model)
    state = model.parent / "run" / "weights-sha256.jsonl"
    records = [json.loads(line) for line in state.read_text().splitlines()]

    def aged(days: float) -> FullFacts:
        state.write_text("".join(json.dumps({**r, "when": r["when"] - round(86400 * days)}) + "\n" for r in records))
        return full(model)

    younger = aged(3)
    assert (younger.cached, round(younger.oldest_s / 86400)) == (len(first.hashes), 3)
    judge = WeightsJudge(WeightFacts({"node01": look(model)}), inventory_of(model))
    (verdict,) = judge.full({"node01": younger}, {n: (h, LISTED) for n, h in younger.hashes.items()}, {})
    assert verdict.status is Status.PASS
    told = f"{len(first.hashes)} of {len(first.hashes)} files were read up to 3.0 days ago, not now"
    assert told in str(verdict.limit and verdict.limit.origin)
    assert aged(8).cached == 0
    state.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "when"}) + "\n" for r in records))
    assert full(model).cached == 0, "a digest of unknown age is none"


def test_a_killed_run_goes_on_where_it_stopped(model: Path) -> None:
    state = model.parent / "run" / "weights-sha256.jsonl"
    full(model)
    lines = state.read_text().splitlines(keepends=True)
    state.write_text("".join(lines[:3]) + lines[3][:20])
    assert full(model).cached == 3


def test_without_python_sha256sum_does_it_and_caches_too(model: Path, without_python: str) -> None:
    node = LocalNode("node01", without_python)
    script = full_script(str(model), str(model.parent / "run" / "state"), 2).replace("/usr/libexec/platform-python", "no-such-python")

    def go() -> FullFacts:
        facts = FullFacts()
        result = node.stream(script, on_line=facts.take)
        assert result.rc == 0, result.stderr
        assert facts.complete
        return facts

    first, again = go(), go()
    reference = io.StringIO()
    agent.full(str(model), str(model.parent / "other"), 1, reference)
    wanted = FullFacts()
    for line in reference.getvalue().splitlines():
        wanted.take(line)
    assert first.hashes == again.hashes == wanted.hashes
    assert (first.cached, again.cached) == (0, len(first.hashes))
    kept = model.parent / "run" / "state.aged"
    lines = [line.split(" ", 2) for line in kept.read_text().splitlines()]
    kept.write_text("".join(f"{h} {int(when) - 3 * 86400} {rest}\n" for h, when, rest in lines))
    assert (go().cached, round(go().oldest_s / 86400)) == (len(first.hashes), 3)
    kept.write_text("".join(f"{h} {int(when) - 8 * 86400} {rest}\n" for h, when, rest in lines))
    assert go().cached == 0


def flip(path: Path, offset_from_end: int) -> None:
    with path.open("r+b") as f:
        f.seek(-offset_from_end, os.SEEK_END)
        byte = f.read(1)
        f.seek(-offset_from_end, os.SEEK_END)
        f.write(bytes([byte[0] ^ 1]))


def test_a_flipped_bit_is_found_and_its_tensor_named(model: Path, original: Path) -> None:
    flip(shard(model, 3), 1)
    found = {"node01": full(model), "node02": full(original)}
    name = shard(model, 3).name
    assert set(wrong_files("node01", found, {})) == {name}
    header, _, _ = agent.read_header(agent.Folder(str(original)), name, shard(original, 3).stat().st_size)
    last = max(header, key=lambda k: header[k]["data_offsets"][1])
    links = model.parent / "node1", model.parent / "node2"
    for link, target in zip(links, (model, original), strict=True):
        link.mkdir()
        (link / "R1").symlink_to(target)

    class Rooted(LocalNode):
        def run(self, command: str, *args: object, timeout: float = 60.0, stdin: bytes | None = None) -> CommandResult:
            return super().run(command.replace("/ROOT", f"{model.parent}/{self.name}"), timeout=timeout)

    bad, good = Rooted("node1"), Rooted("node2")
    assert first_bad_tensor(bad, good, "/ROOT/R1", name) == last  # type: ignore[arg-type]
    named = bad_tensors({"node01": bad, "node02": good}, found, {}, "/ROOT/R1")  # type: ignore[dict-item]
    assert named["node01", name] == last
    judge = WeightsJudge(WeightFacts({"node01": look(model), "node02": look(original)}), inventory_of(model))
    verdict = judge.full(found, {}, named)[0]
    assert verdict.status is F
    assert f"first bad tensor {last}" in verdict.reason
    assert "which of the two is right is not known" in verdict.reason


def test_what_is_known_offline_decides_which_copy_is_right(model: Path, original: Path) -> None:
    right = full(original)
    name = shard(model, 3).name
    flip(shard(model, 3), 1)
    meta = model / ".cache/huggingface/download" / f"{name}.metadata"
    meta.parent.mkdir(parents=True)
    meta.write_text(f"{'5' * 40}\n{right.hashes[name]}\n1700000000.0\n")
    found = {"node01": full(model), "node02": right}
    judge = WeightsJudge(WeightFacts({"node01": look(model), "node02": look(original)}), inventory_of(model))
    bad, good = judge.full(found, {}, {})
    assert (bad.status, good.status) == (F, Status.PASS)
    assert "Hugging Face download metadata" in bad.reason
    assert "hf download" in bad.action


def test_one_node_and_nothing_known_is_not_green(original: Path) -> None:
    judge = WeightsJudge(WeightFacts({"node01": look(original)}), inventory_of(original))
    assert judge.full({"node01": full(original)}, {}, {})[0].status is U


def test_a_given_list_is_enough_and_a_missing_file_is_told(model: Path, tmp_path: Path) -> None:
    hashes = full(model).hashes
    listed = tmp_path / "sums"
    listed.write_text("# ours\n" + "".join(f"{h}  ./{n}\n" for n, h in hashes.items()))
    given_ = {name: (digest, LISTED) for name, digest in given_hashes(str(listed)).items()}
    judge = WeightsJudge(WeightFacts({"node01": look(model)}), inventory_of(model))
    assert judge.full({"node01": full(model)}, given_, {})[0].status is Status.PASS
    shard(model, 5).unlink()
    assert "model.sha256 lists it" in judge.full({"node01": full(model)}, given_, {})[0].reason
    listed.write_text("nonsense\n")
    with pytest.raises(UsageError, match=r"sums:1: 'nonsense'"):
        given_hashes(str(listed))


def test_the_majority_of_three_nodes_is_right() -> None:
    def facts(digest: str) -> FullFacts:
        return FullFacts(hashes={"a": digest}, sizes={"a": 1}, files=1, seconds=1.0)

    found = {"n1": facts("x"), "n2": facts("x"), "n3": facts("y")}
    assert [bool(wrong_files(n, found, {})) for n in found] == [False, False, True]


def test_foreign_lines_are_refused_not_guessed() -> None:
    with pytest.raises(ProbeError):
        FullFacts().take("file\tname\tmany\tdigest\tread")
    with pytest.raises(ProbeError, match="no JSON"):
        parse_fast("Traceback ...")
    with pytest.raises(ProbeError, match="path: Field required"):
        parse_fast('{"version": 1}')
    facts = FullFacts()
    assert not facts.take("Warning: something else")
    assert not facts.complete


def test_python_27_of_centos_7_can_run_it(original: Path) -> None:
    old = next((str(p) for p in Path("/root/.pyenv/versions").glob("2.7*/bin/python")), None) or shutil.which("python2.7")
    if old is None:
        pytest.skip("no Python 2.7 here")
    out = subprocess.run([old, agent.__file__, "fast", str(original), str(SHARDS)], capture_output=True, text=True, check=True).stdout
    assert parse_fast(out).signature == look(original).signature
    state = str(original.parent / "state27")
    lines = subprocess.run([old, agent.__file__, "full", str(original), state, "2"], capture_output=True, text=True, check=True).stdout
    facts = FullFacts()
    for line in lines.splitlines():
        facts.take(line)
    assert facts.complete
    assert facts.hashes == full(original).hashes


# ------------------------------------------------------------------------------------------------------------- the right model
def preallocate(path: Path, part: float) -> None:
    """The last part of a shard's file was never written: zeros, as fallocate leaves them."""
    size = path.stat().st_size
    with path.open("r+b") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        start = 8 + length + int((size - 8 - length) * (1 - part))
        f.seek(start)
        f.write(b"\0" * (size - start))


def test_a_preallocated_shard_is_seen_by_a_few_blocks(model: Path) -> None:
    blocks = verdicts(model)["weights.blocks"]
    assert (blocks.status, blocks.looked_at) == (Status.PASS, SHARDS * agent.BLOCKS)
    preallocate(shard(model, 3), 1.0)
    found = verdicts(model, model)
    assert red(found) == {"weights.blocks": F}, "alike on both nodes, and of the right size"
    assert "model-00003" in found["weights.blocks"].reason
    assert "rsync" not in found["weights.blocks"].action, "the other node is just as empty"


def test_the_unwritten_half_of_a_shard_is_seen(model: Path) -> None:
    preallocate(shard(model, 3), 0.5)
    assert verdicts(model)["weights.blocks"].status is F


def test_one_empty_block_is_a_second_look_and_no_failure() -> None:
    """Rows of ids that no text has may be zeros in a whole model."""

    class Folder:
        blocks = agent.BLOCKS

        def read(self, name: str, offset: int, size: int) -> bytes:
            return (b"\0" if offset + size > 10_000_000 - agent.BLOCK - 1 else b"x") * size

    read, zero = agent.look_into(Folder(), "shard", 1000, 10_000_000)
    assert read == agent.BLOCKS + agent.SUSPECT
    assert 0 < zero / read < 0.25


def test_no_block_read_is_no_pass(model: Path) -> None:
    for path in model.glob("*.safetensors"):
        path.write_bytes(b"\xff" * 64)
    assert verdicts(model)["weights.blocks"].status is U


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_experts_per_tok", 2, "num_experts_per_tok is 2, published 8"),
        ("rope_scaling", None, "rope_scaling.type is None, published 'yarn'"),
        ("rope_scaling", {**sparse.R1_CONFIG["rope_scaling"], "factor": 4}, "rope_scaling.factor is 4, published 40"),
        ("routed_scaling_factor", 1.0, "routed_scaling_factor is 1.0"),
        ("n_group", 1, "n_group is 1"),
        ("norm_topk_prob", 1, "norm_topk_prob is 1, published True"),
    ],
)
def test_what_no_shape_tells_is_held_against_the_published_config(field: str, value: JsonValue, words: str) -> None:
    assert list(config_problems(sparse.R1_CONFIG)) == []
    assert any(words in text for text in config_problems({**sparse.R1_CONFIG, field: value}))


def test_newer_names_of_the_same_are_the_same() -> None:
    rope = dict(sparse.R1_CONFIG["rope_scaling"])
    rope["rope_type"] = rope.pop("type")
    assert list(config_problems({**sparse.R1_CONFIG, "rope_scaling": rope, "aux_loss_alpha": 0.001})) == []


def edit_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("file", "fields", "words"),
    [
        ("tokenizer_config.json", {"bos_token": "<|im_start|>"}, "bos_token of the tokenizer is '<|im_start|>'"),
        ("tokenizer_config.json", {"chat_template": "<|im_start|>"}, "the chat template has no <｜User｜>"),
        ("tokenizer.json", {"added_tokens": [{"id": 5, "content": sparse.BOS}, {"id": 1, "content": sparse.EOS}]}, "bos_token has id 5"),
        ("tokenizer.json", {"model": {"vocab": {"a": 150000}}}, "the tokenizer has id 150000"),
    ],
)
def test_a_foreign_tokenizer_alike_on_both_nodes(model: Path, file: str, fields: dict[str, object], words: str) -> None:
    edit_json(model / file, **fields)
    found = verdicts(model, model)
    assert red(found) == {"weights.model": F}
    assert words in found["weights.model"].reason
    assert "rsync" not in found["weights.model"].action, "the other node is just as wrong"


def test_a_template_of_its_own_file_wins(model: Path) -> None:
    (model / "chat_template.jinja").write_text("nothing of ours")
    assert verdicts(model)["weights.model"].status is F


def test_another_model_is_held_against_nothing_and_that_is_said(model: Path) -> None:
    judge = WeightsJudge(WeightFacts({"node01": look(model)}), inventory_of(model, kind="other"))
    told = judge.check("weights.model", "node01")
    assert (told.status, "against no reference" in told.reason) == (Status.SKIP, True)


def test_published_digests_are_of_the_folders_name() -> None:
    models = Model(host_path="/ssd1", mount="/m", path="/m/DeepSeek-R1")
    name, revision = revision_of(models)
    assert (name, len(revision.sha256 if revision else {})) == ("DeepSeek-R1", 3)
    held = reference(models)
    assert held["model-00163-of-000163.safetensors"][1] == "the hub's DeepSeek-R1"
    facts = FullFacts(hashes={"model-00163-of-000163.safetensors": "0" * 64})
    assert "the hub's DeepSeek-R1 says 913177d9e0df" in wrong_files("node01", {"node01": facts}, held)["model-00163-of-000163.safetensors"]
    assert revision_of(models.model_copy(update={"path": "/m/our-r1"})) == ("", None), "a name that says nothing"
    assert revision_of(models.model_copy(update={"kind": "other"})) == ("", None)


def test_every_published_digest_is_one_and_every_gap_is_said() -> None:
    assert {"DeepSeek-R1", "DeepSeek-R1-0528", "DeepSeek-V3-0324", "DeepSeek-V3.1", "DeepSeek-V3.2"} == set(published().revisions)
    for revision in published().revisions.values():
        assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in revision.sha256.values())
        assert revision.missing
        assert bool(revision.sha256) is bool(revision.source)
