"""An inventory out of facts: rails by subnet, GIDs by score, control by default route; and it is one the suite accepts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from pytest_h20.checks import all_verdicts
from pytest_h20.checks.fabric.rounds import Flow, Lag, Wired
from pytest_h20.checks.fabric.together import judge_wired
from pytest_h20.cli import discover
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.config.inventory import Inventory
from pytest_h20.core.errors import UsageError
from pytest_h20.engines import dialect_for
from pytest_h20.engines.base import LaunchFacts
from pytest_h20.nodes.base import CommandResult
from pytest_h20.probes import net
from pytest_h20.probes.discover import IMAGES, MODELS, REACHED, Found, ModelFound, Proposal, check, image_version, propose, render
from pytest_h20.probes.gather import gather
from pytest_h20.probes.image import Versions
from pytest_h20.probes.script import Missing, Section, build
from pytest_h20.rehearsal import standin
from tests.unit.probes.cluster import Cluster, blog_cluster
from tests.unit.probes.hosts import found


def test_the_write_ups_cluster_is_found_as_its_inventory_says() -> None:
    cluster = blog_cluster()
    proposal = propose(found(cluster))
    inventory = check(proposal)
    for mine, theirs in zip(inventory.nodes, cluster.inventory.nodes, strict=True):
        assert (mine.name, mine.address, mine.host_ip, mine.control_interface, mine.gid_index) == (
            theirs.name,
            theirs.address,
            theirs.host_ip,
            theirs.control_interface,
            theirs.gid_index,
        )
        assert [(r.hca, r.interface, r.address) for r in mine.rails] == [(r.hca, r.interface, r.address) for r in theirs.rails]
        assert [h.hca for h in mine.other_hcas] == ["mlx5_0"]
    assert inventory.kind == "hardware"
    assert inventory.model.path == "/mnt/models/DeepSeek-R1"
    assert inventory.engines["sglang"].profiles["default"].image == "lmsysorg/sglang:ea52b45be1a7"
    assert inventory.engines["sglang"].profiles["default"].tensor_parallel == 16
    assert inventory.expect.driver == "535.216.03"
    assert any("no vllm image" in n for n in proposal.notes)


def test_what_is_printed_can_be_read_back_and_judged_green() -> None:
    cluster = blog_cluster()
    text = render(propose(found(cluster)))
    cluster.inventory = check(Proposal(yaml.safe_load(text)))
    name, _, cluster.profile = cluster.inventory.engine_profile("sglang")
    facts = gather(cluster.nodes, cluster.inventory, engine=name, profile=cluster.profile)  # type: ignore[arg-type]
    assert [v.text() for v in all_verdicts(facts) if v.status.blocks] == []


def shuffled(c: Cluster) -> None:
    """On the second host mlx5_3 and mlx5_4 are cabled the other way round."""
    a, b = c.other.machine.rails[3], c.other.machine.rails[4]
    a.address, b.address, a.gids, b.gids = b.address, a.address, b.gids, a.gids


def test_rails_are_paired_by_subnet_not_by_name() -> None:
    cluster = blog_cluster()
    shuffled(cluster)
    nodes = check(propose(found(cluster))).nodes
    assert [r.hca for r in nodes[0].rails][2:4] == ["mlx5_3", "mlx5_4"]
    assert [r.hca for r in nodes[1].rails][2:4] == ["mlx5_4", "mlx5_3"]


def moved_gid(c: Cluster) -> None:
    gids = c.other.machine.rails[3].gids
    gids[5] = gids.pop(3)


def test_gid_indices_that_differ_are_given_per_rail() -> None:
    cluster = blog_cluster()
    moved_gid(cluster)
    nodes = check(propose(found(cluster))).nodes
    assert nodes[0].gid_index == 3
    assert nodes[1].gid_index is None
    assert [r.gid_index for r in nodes[1].rails] == [3, 3, 5, 3, 3, 3, 3, 3]


def test_a_port_without_partner_is_told_and_left_out() -> None:
    cluster = blog_cluster()
    cluster.other.machine.rails[8].state = "1: DOWN"
    proposal = propose(found(cluster))
    nodes = check(proposal).nodes
    assert [len(n.rails) for n in nodes] == [7, 7]
    assert any("mlx5_8" in n and "no partner" in n for n in proposal.notes)


def test_without_default_route_the_address_we_came_by_decides() -> None:
    cluster = blog_cluster()
    hosts = found(cluster)
    n = hosts[0].network
    assert isinstance(n, net.Network)
    bare = Found(**{**hosts[0].__dict__, "network": net.Network(n.interfaces, None)})
    assert propose([bare, hosts[1]]).data["nodes"][0]["control_interface"] == "xgbe0"
    with pytest.raises(UsageError, match="no default route"):
        propose([Found(**{**bare.__dict__, "address": "bastion"}), hosts[1]])


def test_a_lab_says_that_it_is_one_and_what_may_stay_unmeasured() -> None:
    cluster = blog_cluster()
    for node in cluster.nodes.values():
        node.machine.overrides["gpus"] = Section(127, "", "nvidia-smi is not installed")
        for rail in node.machine.rails:
            rail.pci = ""
    inventory = check(propose(found(cluster)))
    assert inventory.kind == "lab"
    assert inventory.stood_in == ("GPU", "RDMA")
    assert "environment.gpu*" in inventory.expect.unmeasured_ok


def test_software_rdma_is_measured_and_its_shares_are_hardly_judged() -> None:
    """All rails share the CPU: together they carry a twentieth, one stands apart by chance, and ib_write_lat has no figure (soft RoCE)."""
    cluster = blog_cluster()
    for node in cluster.nodes.values():
        for rail in node.machine.rails:
            rail.pci = ""
    facts = cluster.gather()
    flows = tuple(
        Flow(a, f"mlx5_{i}", b, f"mlx5_{i}", "write", None, None, 9.0 / i, None)
        for a, b in (("node01", "node02"), ("node02", "node01"))
        for i in range(1, 9)
    )
    lags = tuple(Lag(f.node, f.hca, Missing("t_typical is 0") if f.hca == "mlx5_1" else 900.0 * int(f.hca[-1])) for f in flows)
    wired = Wired("perftest", "the GPUs of node01 are not known", flows, lags)
    singles = {f"{f.node} {f.hca}": 180.0 for f in flows}

    def blocking(inventory: Inventory) -> dict[str, str]:
        told = judge_wired(replace(facts, inventory=inventory), wired, singles)
        return {v.check: v.reason for v in told if v.status.blocks}

    assert {"fabric.rails_together", "fabric.rails_apart"} <= blocking(cluster.inventory).keys(), "on hardware it is red"
    written = check(propose(found(cluster)))
    assert (written.kind, written.expect.rails_together_min, written.expect.rails_apart_min) == ("lab", 0.001, 0.001)
    assert blocking(written) == {}
    [apart] = [v for v in judge_wired(replace(facts, inventory=written), wired, singles) if v.check == "fabric.rails_apart"]
    assert apart.looked_at == 16
    assert "whose latency is the CPU's" in str(apart.details["latency"])


def test_real_hardware_that_is_broken_is_no_lab() -> None:
    cluster = blog_cluster()
    cluster.other.machine.overrides["gpus"] = Section(127, "", "nvidia-smi is not installed")
    for rail in cluster.other.machine.rails[1:]:
        rail.state = "1: DOWN"
    proposal = propose(found(cluster))
    inventory = check(proposal)
    assert (inventory.kind, inventory.stood_in) == ("hardware", ())
    assert inventory.expect.unmeasured_ok == ()
    assert any("not on every host: GPU" in note for note in proposal.notes)


def test_every_port_and_engine_left_out_says_why() -> None:
    cluster = blog_cluster()
    cluster.other.machine.rails[8].state = "1: DOWN"
    proposal = propose(found(cluster))
    text = render(proposal)
    for words in ("node02: mlx5_8 port 1: its state is DOWN, not ACTIVE", "no vllm image is on all hosts: the engine is left out"):
        assert any(words in note for note in proposal.notes), proposal.notes
        assert f"# NOTE: {words}" in text
    assert list(proposal.data["engines"]) == ["sglang"]


def test_the_image_says_its_version_and_the_flags_are_of_that_version() -> None:
    hosts = [Found(**{**h.__dict__, "images": ("vllm/vllm-openai:v0.11.0", "lmsysorg/sglang:x")}) for h in found(blog_cluster())]

    def flags(version: str) -> dict[str, object]:
        told = {"vllm/vllm-openai:v0.11.0": Versions("3.12.3", (("vllm", version),), "", "", "")}
        proposal = propose(hosts, versions=told)
        assert any(f"holds vllm {version}" in note for note in proposal.notes)
        assert any("lmsysorg/sglang:x does not say its version" in note for note in proposal.notes)
        made: dict[str, object] = proposal.data["engines"]["vllm"]["profiles"]["default"]["flags"]
        return made

    assert "enable-reasoning" in flags("0.8.2")
    assert "enable-reasoning" not in flags("0.11.0")
    assert "enable-reasoning" in flags("0.8.5"), "one proposal leaves the next alone"


def test_what_is_written_for_a_version_is_not_refused_by_it() -> None:
    """A discovered profile for vLLM 0.24 had mode: ray without Ray, --enable-reasoning and a context that its model does not have."""
    image = "vllm/vllm-openai:v0.24.0"
    small = (ModelFound("/models/tiny", "llama", 2, 4096),)
    hosts = [Found(**{**h.__dict__, "images": (image,), "models": small}) for h in found(blog_cluster())]
    proposal = propose(hosts, versions={image: Versions("3.12.3", (("vllm", "0.24.0"),), "", "", "")})
    made = check(proposal)
    target = LaunchTarget(made, *made.engine_profile("vllm"))
    assert target.profile.mode == "native"
    dialect = dialect_for("vllm", "0.24.0", target.profile.mode)
    assert [str(r) for r in dialect.refuse(target.engine_profile(), target.node_plans(), LaunchFacts())] == []
    assert "max-model-len" not in target.profile.flags
    assert any("no Ray in the image" in note for note in proposal.notes)
    told = {image: Versions("3.12.3", (("vllm", "0.24.0"), ("ray", "2.48.0")), "", "", "")}
    assert propose(hosts, versions=told).data["engines"]["vllm"]["profiles"]["default"]["mode"] == "ray", "there is one"


def test_the_write_ups_limits_are_for_the_write_ups_machines() -> None:
    hosts = found(blog_cluster())
    profile = propose(hosts).data["engines"]["sglang"]["profiles"]["default"]
    assert profile["limits"].endswith("thresholds/sglang-default.yaml")
    other = [Found(**{**h.__dict__, "models": ()}) for h in hosts]
    assert "limits" not in propose(other).data["engines"]["sglang"]["profiles"]["default"]


def test_behind_a_bastion_the_session_itself_tells_the_control_interface() -> None:
    hosts = found(blog_cluster())
    n = hosts[0].network
    assert isinstance(n, net.Network)
    fields = {"network": net.Network(n.interfaces, None), "address": "bastion", "reached": hosts[0].address}
    node = propose([Found(**{**hosts[0].__dict__, **fields}), hosts[1]]).data["nodes"][0]
    assert (node["control_interface"], node["host_ip"]) == ("xgbe0", hosts[0].address)
    assert REACHED.parse("ssh=10.0.0.9 51000 10.63.65.207 22\n") == "10.63.65.207"
    assert REACHED.parse("ssh=\n") == ""


def test_small_probes() -> None:
    (found_model,) = MODELS.parse("model\t/a/R1\tdeepseek_v3\t158\t129280\n")
    assert (found_model.path, found_model.shards, found_model.r1) == ("/a/R1", 158, False)
    assert IMAGES.parse("image\tx:1\n") == ("x:1",)
    script = build((image_version("x:1", "h20-discover-1-0", {"io.pytest-h20": "1", "io.pytest-h20.run": "discover-1"}),))
    assert "io.pytest-h20.run=discover-1" in script


class Answering:
    """A connected stand-in."""

    def __init__(self, machine: standin.Machine) -> None:
        self.machine = machine

    def run(self, command: str, timeout: float = 60.0) -> CommandResult:
        return CommandResult("x", command, 0, standin.answer(self.machine, command), "", 0.0)

    def close(self) -> None:
        return


def test_the_command_prints_yaml_and_notes_apart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = blog_cluster()
    machines = [n.machine for n in cluster.nodes.values()]

    def connect(inventory: Inventory, sink: object = None) -> dict[str, Answering]:
        return {n.name: Answering(m) for n, m in zip(inventory.nodes, machines, strict=True)}

    monkeypatch.setattr("pytest_h20.run.nodes.connect_all", connect)
    hosts = [f"root@{m.address}:2222" for m in machines]
    assert discover.main([*hosts, "--insecure"]) == 0
    out, err = capsys.readouterr()
    inventory = check(Proposal(yaml.safe_load(out)))
    assert inventory.ssh.host_key_checking == "off"
    assert inventory.nodes[0].ssh is not None
    assert inventory.nodes[0].ssh.port == 2222
    assert "discover: no model folder" in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["h:notaport"], "'notaport' is not a port"), (["root@"], "no address"), (["h", "--like", "/no/such"], "no such inventory file")],
)
def test_wrong_use_is_one_line(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert discover.main(argv) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_missing_network_is_told() -> None:
    cluster = blog_cluster()
    hosts = found(cluster)
    with pytest.raises(UsageError, match="interfaces are not known"):
        propose([Found(**{**hosts[0].__dict__, "network": Missing("no ip")})])


def test_every_host_that_cannot_be_asked_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert discover.main(["127.0.0.1:1", "127.0.0.2:1"]) == 2
    said = capsys.readouterr().err
    assert said.count("connection refused") == 2
    assert "@127.0.0.1:1)" in said
    assert "@127.0.0.2:1)" in said
