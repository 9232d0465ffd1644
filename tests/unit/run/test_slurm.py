"""The machines of a Slurm job: its list of hosts read as scontrol reads it, and the inventory that comes of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.config.environments import environments
from pytest_h20.config.inventory import Inventory, load_inventory, parse_inventory
from pytest_h20.core.errors import UsageError
from pytest_h20.run import slurm
from pytest_h20.run.settings import Settings, build
from pytest_h20.run.slurm import address_of, expand, hosts, with_hosts


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("gpu1", ["gpu1"]),
        ("gpu[01-03,07]", ["gpu01", "gpu02", "gpu03", "gpu07"]),
        ("gpu[9-11]", ["gpu9", "gpu10", "gpu11"]),
        ("gpu[099-101]", ["gpu099", "gpu100", "gpu101"]),
        ("a,b[1-2],c-[3]-x", ["a", "b1", "b2", "c-3-x"]),
        ("rack[1-2]n[01-02]", ["rack1n01", "rack1n02", "rack2n01", "rack2n02"]),
        ("n[1,1-2],n2", ["n1", "n2"]),
        ("nodes[01-03,07],gpu-[1-2]-[3-4]", ["nodes01", "nodes02", "nodes03", "nodes07", "gpu-1-3", "gpu-1-4", "gpu-2-3", "gpu-2-4"]),
        ("gpu[08-11]-ib0.cluster", ["gpu08-ib0.cluster", "gpu09-ib0.cluster", "gpu10-ib0.cluster", "gpu11-ib0.cluster"]),
    ],
)
def test_lists_as_slurm_writes_them(text: str, wanted: list[str]) -> None:
    assert expand(text) == wanted


@pytest.mark.parametrize(
    "text", ["gpu[1-", "gpu]1[", "gpu[3-1]", "gpu[a-b]", "gpu[]", "gpu[[1]]", "", ",", "n[1-999999999]", "n[1-40][1-40]"]
)
def test_what_is_no_list_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"--h20-hosts-from-slurm: the job's list of hosts is .*accepted: node01,gpu\[01-04,7\]"):
        expand(text)


names = st.from_regex(r"[a-z][a-z-]{0,6}", fullmatch=True)
spans = st.tuples(st.integers(0, 120), st.integers(0, 20), st.integers(1, 4)).map(lambda t: (t[0], t[0] + t[1], t[2]))


@given(st.lists(st.tuples(names, st.lists(spans, max_size=3)), min_size=1, max_size=4))
def test_writing_and_reading_are_each_others_inverse(groups: list[tuple[str, list[tuple[int, int, int]]]]) -> None:
    text = ",".join(n + (f"[{','.join(f'{a:0{w}d}-{b:0{w}d}' for a, b, w in ranges)}]" if ranges else "") for n, ranges in groups)
    wanted = [f"{n}{number:0{w}d}" for n, ranges in groups for a, b, w in ranges for number in range(a, b + 1)]
    wanted += [n for n, ranges in groups if not ranges]
    assert sorted(expand(text)) == sorted(set(wanted))


numbers = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=3)
pieces = st.one_of(st.from_regex(r"[a-z.-]{1,4}", fullmatch=True), numbers)


@settings(max_examples=50)
@given(st.lists(st.lists(pieces, min_size=1, max_size=4), min_size=1, max_size=3))
def test_any_number_of_brackets_at_any_place(words: list[list[str | list[tuple[int, int, int]]]]) -> None:
    """``a[1-2]b[03,5-6]c``: the last bracket turns fastest, zeros are kept, a host that was named comes once."""
    text, wanted = [], []
    for word in words:
        written, hosts_of_word = "", [""]
        for piece in word:
            if isinstance(piece, str):
                written += piece
                hosts_of_word = [host + piece for host in hosts_of_word]
                continue
            written += "[" + ",".join(f"{a:0{w}d}" + (f"-{a + more}" if more else "") for a, more, w in piece) + "]"
            values = [str(n).zfill(len(f"{a:0{w}d}")) for a, more, w in piece for n in range(a, a + more + 1)]
            hosts_of_word = [host + value for host in hosts_of_word for value in values]
        text.append(written)
        wanted += hosts_of_word
    if len(wanted) > slurm.MOST:
        with pytest.raises(UsageError, match="more than 1024 hosts"):
            expand(",".join(text))
        return
    assert expand(",".join(text)) == list(dict.fromkeys(wanted))


@given(st.text(alphabet="ab01,-[] \n", max_size=30))
def test_any_text_is_hosts_or_one_sentence(text: str) -> None:
    try:
        found = expand(text)
    except UsageError:
        return
    assert found
    assert all(host and not set(host) & set("[], \n") for host in found)


def test_outside_of_a_job_it_says_how_to_get_into_one() -> None:
    with pytest.raises(UsageError, match=r"no Slurm job: SLURM_JOB_NODELIST is not set.*salloc -N 2"):
        hosts({})


def test_scontrol_reads_the_list_where_it_is_there(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$1 $2" = "show hostnames" ] || exit 1\n[ "$3" = "odd{1..2}" ] && printf "odd1\\nodd2\\n"\n')
    scontrol.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    assert hosts({"PATH": path, "SLURM_JOB_NODELIST": "odd{1..2}"}) == ["odd1", "odd2"]
    assert hosts({"PATH": path, "SLURM_JOB_NODELIST": "gpu[1-2]"}) == ["gpu1", "gpu2"], "it failed: read here"
    assert hosts({"PATH": "/nowhere", "SLURM_NODELIST": "gpu[1-2]"}) == ["gpu1", "gpu2"]


SALLOC = {"SLURM_JOB_ID": "13", "SLURM_JOB_NODELIST": "gpu[01-02]", "SLURM_NODELIST": "gpu[01-02]"}
"""Slurm 22.05.8 (Debian 12), a controller and four slurmd: what `salloc -N 2` sets for its shell."""
HET = {
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_ID": "3",
    "SLURM_JOB_NODELIST_HET_GROUP_0": "gpu02",
    "SLURM_JOB_NODELIST_HET_GROUP_1": "gpu03,rack1n2",
    "SLURM_NODELIST_HET_GROUP_0": "gpu02",
    "SLURM_NODELIST_HET_GROUP_1": "gpu03,rack1n2",
}
"""The same of `salloc -N1 -w gpu02 : -N2 -w gpu03,rack1n2`: none of the usual variables."""
HET_BATCH = {
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "gpu01",
    "SLURM_JOB_NODELIST_HET_GROUP_0": "gpu01",
    "SLURM_JOB_NODELIST_HET_GROUP_1": "gpu[02-03]",
    "SLURM_NODELIST": "gpu01",
}
"""The same of `sbatch -N1 : -N2`: the usual variables name the first part only."""
STEP = {**SALLOC, "SLURM_JOB_NODELIST": "gpu[01-03]", "SLURM_NNODES": "1", "SLURM_STEP_NODELIST": "gpu02"}
"""Inside `srun -N1 -w gpu02` of a job of three: the list is still the job's."""


def squeue(folder: Path, out: str = "", err: str = "", code: int = 0) -> str:
    """A PATH with a `squeue` that answers so."""
    tool = folder / "squeue"
    tool.write_text(f"#!/bin/sh\nprintf '%s' '{out}'\nprintf '%s' '{err}' >&2\nexit {code}\n")
    tool.chmod(0o755)
    return f"{folder}"


def test_environments_of_real_jobs(tmp_path: Path) -> None:
    path = squeue(tmp_path, "RUNNING\n")
    assert hosts({**SALLOC, "PATH": path}) == ["gpu01", "gpu02"]
    assert hosts({**STEP, "PATH": path}) == ["gpu01", "gpu02", "gpu03"]
    path = squeue(tmp_path, "RUNNING\nRUNNING\n")
    assert hosts({**HET, "PATH": path}) == ["gpu02", "gpu03", "rack1n2"], "this was called no Slurm job"
    assert hosts({**HET_BATCH, "PATH": path}) == ["gpu01", "gpu02", "gpu03"], "these were the first machine alone"
    domain = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "gpu02,gpu03.h20.example", "PATH": squeue(tmp_path, "RUNNING\n")}
    assert hosts(domain) == ["gpu02", "gpu03.h20.example"]


@pytest.mark.parametrize(
    ("out", "err", "code", "why"),
    [
        ("", "", 0, "squeue. knows no such job"),  # ended a moment ago; the same after the time limit and after scancel
        ("", "slurm_load_jobs error: Invalid job id specified\n", 1, "over, or Slurm does not show it"),  # ended long ago; PrivateData
        ("COMPLETING\n", "", 0, "its state is COMPLETING"),
        ("SUSPENDED\n", "", 0, "its state is SUSPENDED"),
        ("RUNNING\nCOMPLETING\n", "", 0, "its state is COMPLETING"),
    ],
)
def test_a_shell_that_outlives_its_job_is_not_let_at_the_machines(tmp_path: Path, out: str, err: str, code: int, why: str) -> None:
    with pytest.raises(UsageError, match=rf"Slurm job 13 are set, and .*{why}.*nothing was started. Next: in a job that runs"):
        hosts({**SALLOC, "PATH": squeue(tmp_path, out, err, code)})


def test_where_slurm_cannot_be_asked_the_variables_are_believed(tmp_path: Path) -> None:
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
    assert hosts({**SALLOC, "PATH": squeue(tmp_path, "", away, 1)}) == ["gpu01", "gpu02"]
    assert hosts({**SALLOC, "PATH": "/nowhere"}) == ["gpu01", "gpu02"]


DETAIL = (  # `scontrol --oneliner --detail show job` of 22.05.8, cut; of two nodes, of a heterogeneous job, of none
    "JobId=13 BatchHost=gpu01 NumNodes=2 JOB_GRES=gpu:{sum} "
    "  Nodes=gpu[01-02] CPU_IDs=0 Mem=0 GRES=gpu:{each}(IDX:0-{last}) MinCPUsNode=1 OverSubscribe=OK TresPerNode=gres:gpu:{each} \n"
)
APART = (
    "JobId=13 NodeList=gpu01 JOB_GRES=gpu:1   Nodes=gpu01 CPU_IDs=0 Mem=0 GRES=gpu:1(IDX:0) MinCPUsNode=1 \n"
    "JobId=14 NodeList=gpu02 JOB_GRES=gpu:8   Nodes=gpu02 CPU_IDs=0 Mem=0 GRES=gpu:h20:8(IDX:0-7) MinCPUsNode=1 \n"
)
NONE = "JobId=13 JOB_GRES=(null)   Nodes=gpu[01-02] CPU_IDs=0 Mem=0 GRES= MinCPUsNode=1 \n"
NODES = "NodeName=gpu01 CPUTot=2 Gres={0} NodeAddr=gpu01 CfgTRES=cpu=2\nNodeName=gpu02 CPUTot=2 Gres={0} NodeAddr=gpu02 CfgTRES=cpu=2\n"


def scontrol(folder: Path, job: str, nodes: str) -> str:
    """A PATH whose Slurm answers so."""
    for name, text in (("job", job), ("node", nodes)):
        (folder / name).write_text(text)
    tool = folder / "scontrol"
    tool.write_text(f"#!/bin/sh\nfor word; do case $word in job|node) exec /bin/cat {folder}/$word;; esac; done\nexit 1\n")
    tool.chmod(0o755)
    return squeue(folder, "RUNNING\n")


@pytest.mark.parametrize(
    ("job", "gres", "told"),
    [
        (DETAIL.format(sum=4, each=2, last=1), "gpu:8", "2 of the 8 of gpu01, 2 of the 8 of gpu02"),
        (APART, "gpu:h20:8(S:0-1),shard:16", "1 of the 8 of gpu01. The"),
        (NONE, "gpu:8", "0 of the 8 of gpu01"),
        (DETAIL.format(sum=16, each=8, last=7), "gpu:8", ""),
        (NONE, "(null)", ""),
        ("slurm of another kind\n", "gpu:8", ""),
    ],
)
def test_a_part_of_a_machines_gpus_is_no_machine(tmp_path: Path, job: str, gres: str, told: str) -> None:
    environment = {**SALLOC, "PATH": scontrol(tmp_path, job, NODES.format(gres))}
    assert hosts(environment, whole=False) == ["gpu01", "gpu02"], "what was left is taken away also there"
    if not told:
        assert hosts(environment) == ["gpu01", "gpu02"]
        return
    with pytest.raises(
        UsageError, match=rf"job 13 has a part of the GPUs only: {re.escape(told)}.*take the GPUs of other jobs.*--exclusive"
    ):
        hosts(environment)


def test_a_list_that_scontrol_does_not_take_is_read_here(tmp_path: Path) -> None:
    """22.05 leaves with 0 and writes to standard error: "Invalid hostlist: gpu[01-03,07].h20.example"."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'Invalid hostlist' >&2\n")
    scontrol.chmod(0o755)
    assert hosts({"PATH": str(tmp_path), "SLURM_JOB_NODELIST": "gpu[01-02].h20.example"}) == ["gpu01.h20.example", "gpu02.h20.example"]


@pytest.fixture
def shipped() -> Inventory:
    return load_inventory(environments() / "h20-2node.yaml")


def resolve(host: str) -> str:
    return f"10.1.0.{int(host.partition('.')[0][-2:])}"


def test_other_machines_are_of_the_first_ones_kind(shipped: Inventory) -> None:
    made = with_hosts(shipped, ["gpu07.cluster", "gpu09"], resolve)
    assert [(n.name, n.address, n.engine_ip) for n in made.nodes] == [
        ("gpu07", "gpu07.cluster", "10.1.0.7"),
        ("gpu09", "gpu09", "10.1.0.9"),
    ]
    for node in made.nodes:
        wanted = [(r.hca, r.interface, None, None) for r in shipped.nodes[0].rails]
        assert [(r.hca, r.interface, r.address, r.gid) for r in node.rails] == wanted
        assert node.gid_index == shipped.nodes[0].gid_index
    assert (made.model, made.expect, made.ssh) == (shipped.model, shipped.expect, shipped.ssh)


def test_machines_that_are_named_by_their_addresses(shipped: Inventory) -> None:
    made = with_hosts(shipped, ["10.1.0.7", "10.1.0.8"], lambda host: host)
    assert [(n.name, n.engine_ip) for n in made.nodes] == [("10.1.0.7", "10.1.0.7"), ("10.1.0.8", "10.1.0.8")]


def test_a_machine_that_is_named_is_taken_as_it_stands(shipped: Inventory) -> None:
    second = shipped.nodes[1]
    assert with_hosts(shipped, [second.name, "gpu01"], resolve).nodes[0] == second
    assert with_hosts(shipped, [f"{second.name}.cluster"], resolve).nodes == (second,)


def test_profiles_that_name_nodes(shipped: Inventory) -> None:
    data = shipped.model_dump(mode="json", exclude_unset=True)
    engine = data["engines"]["sglang"]
    engine["profiles"][engine["default"]]["nodes"] = [shipped.nodes[1].name]
    named = parse_inventory(data, "test")
    made = with_hosts(named, ["gpu01", "gpu02"], resolve).engines["sglang"]
    assert {name: p.nodes for name, p in made.profiles.items() if p.nodes} == {made.default: ("gpu02",), "single": ("gpu01",)}
    with pytest.raises(UsageError, match=r"none for node02.*salloc -N 2"):
        with_hosts(named, ["gpu01"], resolve)


def test_the_option(shipped: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", ",".join(n.name for n in reversed(shipped.nodes)))
    monkeypatch.setenv("PATH", "/nowhere")
    inventory = str(environments() / "h20-2node.yaml")
    session = build(Settings(nodes=inventory, engine=("sglang",), hosts_from_slurm=True))
    assert [n.name for n in session.inventory.nodes] == [n.name for n in reversed(shipped.nodes)]
    assert session.place == f"{inventory} --hosts-from-slurm", "`reap` as a red run prints it would look at the inventory's machines"
    for nodes in ("", "rehearsal:quick"):
        with pytest.raises(UsageError, match="give --nodes=INVENTORY with the model"):
            build(Settings(nodes=nodes, attach="http://x:1", engine=("sglang",), hosts_from_slurm=True))


def test_names_that_lead_nowhere_and_names_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'no-such-host.invalid' has no IPv4 address here.*host_ip"):
        address_of("no-such-host.invalid")
    monkeypatch.setattr(slurm, "_own", lambda: "10.0.0.9")
    assert address_of("localhost") == "10.0.0.9", "what a machine calls itself leads the others to themselves"
