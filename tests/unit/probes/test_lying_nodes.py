"""Whatever a node prints, a parser gives a value or a ``ProbeError``, and a whole check gives verdicts: never a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h20.checks import all_verdicts
from pytest_h20.core.errors import H20Error
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.probes import clock, counters, gpu, host, image, kernel_log, net, perf, rdma, script
from pytest_h20.probes.script import Missing, Probe, ProbeError, Section, frame, split
from pytest_h20.rehearsal import standin
from tests.unit.mutants import mutate
from tests.unit.probes.cluster import blog_cluster

Parse = Callable[[str], object]
DATA = Path(__file__).parent / "data"
FABRIC = Path(__file__).parent.parent / "checks" / "fabric"
MODULES = (clock, counters, gpu, host, image, kernel_log, net, perf, rdma)
ARGUMENTS = {
    "listen": ("60", "0", "8000"),
    "connect": ("10.0.0.1", "8000", "10.0.0.2", "0"),
    "ping": ("eth1", "10.0.0.1", "8972"),
    "disks": ("/models", "/tmp"),
    "ib_server": ("60", "ib_write_bw -d mlx5_1"),
    "ib_client": ("ib_write_bw -d mlx5_1 10.0.0.1", "ib_write_lat -d mlx5_1 10.0.0.1"),
}


def recorded() -> Iterator[tuple[str, Parse, str]]:
    """Every parser with output it knows: of the stand-in, which speaks as the real tools do, and of real machines."""
    machine = blog_cluster().other.machine
    machine.kernel_lines = [
        "[ 5000.000001] NVRM: Xid (PCI:0000:1b:00): 79, pid=4242, name=python3",
        "[  901.2] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)",
        "[ 1000.0] mlx5_core 0000:9a:00.0 xgbe5: Link down",
    ]
    machine.listeners = {8000: 'users:(("python3",pid=7,fd=3))'}
    machine.proxies = {"http_proxy": "http://user:secret@proxy:3128"}
    known = standin.sections(machine)
    for module in MODULES:
        for probe in vars(module).values():
            if isinstance(probe, Probe):
                for key in (k for k in (probe.name, f"image/{probe.name}") if k in known):
                    yield key, probe.parse, known[key](ARGUMENTS.get(probe.name, ()))
    yield "clock", clock.parse_clock, "sync=yes\nnow=1700000000.5\n"
    yield "gpus of an H100", gpu.parse_gpus, (DATA / "nvidia-smi-q-h100-r580.xml").read_text("utf-8")
    row = "0, NVIDIA H20, GPU-1, 00000000:01:00.0, 97871, 4, 535.216.03, Enabled, 30, 70.00"
    yield "gpus as CSV", gpu.parse_gpus, f"#csv {gpu.CSV_FIELDS}\n{row}\n"
    yield "show_gids of the write-up", rdma.parse_show_gids, (DATA / "show_gids-node01.txt").read_text("utf-8")
    yield "ibdev2netdev of the write-up", rdma.parse_ibdev2netdev, (DATA / "ibdev2netdev-node01.txt").read_text("utf-8")
    yield "all-reduce of two H200", perf.parse_all_reduce, (FABRIC / "all_reduce-torch-2xh200.json").read_text("utf-8")
    yield "all-reduce of two nodes", perf.parse_all_reduce, (FABRIC / "all_reduce-torch-2-nodes-2.28.9.txt").read_text("utf-8")
    figures = '{"test_info": {"GID_index": 3}, "results": {"MsgSize": 65536, "BW_peak": 92.1, "BW_average": 91.9}}'
    yield "ib_write_bw", perf.parse_ib_write_bw, figures
    bare = "{\ntest_info: {\ntest: RDMA,\nGID_index: 3,\n},\nresults: {\nMsgSize: 65536,\nBW_average: 91.9,\n},\n}"
    yield "ib_write_bw of Debian 12", perf.parse_ib_write_bw, bare
    table = " #bytes     #iterations    BW peak[Gb/sec]    BW average[Gb/sec]\n 65536      1000     92.1    91.9   0.17\n"
    yield "ib_write_bw's table", perf.parse_ib_write_bw_table, table


CASES = list(recorded())


def test_every_parser_of_a_probe_is_among_the_cases() -> None:
    parsers = {p.parse for module in MODULES for p in vars(module).values() if isinstance(p, Probe)}
    assert parsers <= {parse for _, parse, _ in CASES}


@pytest.mark.parametrize(("parse", "text"), [(p, t) for _, p, t in CASES], ids=[n for n, _, _ in CASES])
def test_a_parser_gives_a_value_or_says_what_it_does_not_understand(parse: Parse, text: str) -> None:
    parse(text)
    for seed in range(150):
        odd = mutate(random.Random(seed), text)
        with suppress(H20Error):
            repr(parse(odd))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.text())
def test_any_text_at_all(text: str) -> None:
    for _, parse, _ in CASES:
        with suppress(H20Error):
            parse(text)


@pytest.mark.parametrize("odd", ["²", "٣", "-1", "1.5", "9" * 5000, "", " 7", "0x7"])
def test_a_number_that_must_be_there_is_plain_digits(odd: str) -> None:
    with pytest.raises(ProbeError, match=r"the port is .* not a number from 0 to 65535"):
        script.whole(odd, "the port", high=65535)


@pytest.mark.parametrize("pid", ["-1", "0", "1", "٣", "99999999999"])
def test_a_pid_that_is_killed_later_is_never_everybodys(pid: str) -> None:
    with pytest.raises(ProbeError, match="pid is"):
        net.parse_listening(f"pid={pid}\n")
    with pytest.raises(ProbeError):
        perf.parse_perf_start(f"pid={pid}\n")


def test_a_parser_that_breaks_is_a_fact_that_is_missing() -> None:
    def broken(text: str) -> int:
        return [0][int(text)]

    fact = Probe("broken", "", broken).read({"broken": Section(0, "7", "")})
    assert isinstance(fact, Missing)
    assert "IndexError" in fact.reason


@pytest.mark.parametrize("seed", range(60))
def test_a_whole_check_of_a_lying_node_ends_in_verdicts(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    true = standin.answer

    def lie(machine: standin.Machine, asked: str, **how: object) -> str:
        said = true(machine, asked, **how)  # type: ignore[arg-type]
        if machine.number != 2:
            return said
        sections = {n: Section(s.rc, mutate(rng, s.out), s.err) if rng.random() < 0.2 else s for n, s in split(said).items()}
        text = frame(sections)
        return mutate(rng, text) if rng.random() < 0.1 else text

    monkeypatch.setattr(standin, "answer", lie)
    verdicts = all_verdicts(blog_cluster("vllm" if seed % 2 else "sglang").gather())
    assert all(isinstance(v, Verdict) for v in verdicts)


def test_a_node_that_says_nothing_right_is_never_green(monkeypatch: pytest.MonkeyPatch) -> None:
    true = standin.answer

    def lie(machine: standin.Machine, asked: str, **how: object) -> str:
        sections = split(true(machine, asked, **how))  # type: ignore[arg-type]
        return frame({n: Section(0, "²\t-1\n" * 9, "") for n in sections})

    monkeypatch.setattr(standin, "answer", lie)
    verdicts = all_verdicts(blog_cluster().gather())
    of_the_daemon = {"environment.docker", "environment.nvidia_runtime", "environment.image"}  # which tells the truth here
    passed = {v.check for v in verdicts if v.status is Status.PASS and v.subject.startswith("node0")}
    assert passed <= of_the_daemon
