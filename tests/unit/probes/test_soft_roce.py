"""What soft RoCE and Debian's perftest print, recorded on the machines of tests/lab/vm (kernel 6.1, perftest 4.5-0.17)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_h20.probes import net, perf
from pytest_h20.probes.counters import delta, parse_counters
from pytest_h20.probes.script import ProbeError, build, split

PERFTEST = """{
test_info: {
test: RDMA_Write_BW_Test,
Dual_port: OFF,
Device: "mlx5_0",
Number_of_qps: 1,
Transport_type: IB,
Connection_type: RC,
Using_SRQ: OFF,
PCIe_relax_order: ON,
ibv_wr_API: OFF,
TX_depth : 128,
CQ_Moderation: 1,
Mtu: 4096,
Link_type: Ethernet,
GID_index: 1,
Max_inline_data: 0,
rdma_cm_QPs: OFF,
Data_ex_method: Ethernet,
},
results: {
MsgSize: 65536,
n_iterations: 499,
BW_peak: 0.000000,
BW_average: 0.084254,
MsgRate: 0.000161,
},
}
"""
NO_CUDA = "perftest\tib_write_bw\t\nperftest\tib_read_bw\t\nperftest\tib_write_lat\t\n"
"""What the probe ``perftest`` said on both machines: the help of Debian's build has no word of CUDA, and the tool itself answers
``unrecognized option '--use_cuda=0'``."""
TWO_RUNS = f"run\t0\tjson\n{PERFTEST}\nrun\t1\tjson\n{PERFTEST.replace('0.084254', '0.000000')}\n"
"""Two rails at once as the probe ``ib_client`` frames them, made of the record above: one of four such reads came as 0."""
COUNTERS = "ack_deferred completer_retry_err duplicate_request link_downed out_of_seq_request rcvd_pkts rcvd_seq_err sent_pkts"


def test_the_json_of_debians_perftest_is_read() -> None:
    # With -D there is no peak: the average stands for it.
    assert perf.parse_ib_write_bw(PERFTEST) == perf.WriteBandwidth(0.084254, 0.084254, 65536, 1)


def test_debians_perftest_cannot_use_gpu_memory_and_says_so_by_silence() -> None:
    found = perf.parse_perftest(NO_CUDA)
    assert set(found) == {"ib_write_bw", "ib_read_bw", "ib_write_lat"}
    assert set(found.values()) == {frozenset()}


def test_two_rails_at_once_are_read_one_by_one() -> None:
    first, second = perf.parse_ib_client(TWO_RUNS)
    assert first == perf.WriteBandwidth(0.084254, 0.084254, 65536, 1)
    assert "BW_average is 0.0" in str(second)


@pytest.mark.parametrize("cut", range(0, len(PERFTEST) - 4, 7))
def test_a_cut_report_is_never_a_figure(cut: int) -> None:
    with pytest.raises(ProbeError):
        perf.parse_ib_write_bw(PERFTEST[:cut])


@pytest.mark.parametrize("figure", ["nan", "inf", "0.000000", "-1", "fast"])
def test_what_is_no_bandwidth_is_refused(figure: str) -> None:
    with pytest.raises(ProbeError, match="BW_average"):
        perf.parse_ib_write_bw(PERFTEST.replace("0.084254", figure))


def snapshot(at: float, **risen: int) -> str:
    """A counters section of one rxe port."""
    values = dict.fromkeys(COUNTERS.split(), 0) | risen
    return f"at\t{at}\n" + "".join(f"counter\tmlx5_0\t1\t{name}\t{value}\n" for name, value in values.items())


def test_traffic_is_no_error_and_rxe_has_no_byte_counters() -> None:
    [change] = delta(parse_counters(snapshot(10.0)), parse_counters(snapshot(20.0, sent_pkts=28578, rcvd_pkts=24768, ack_deferred=3)))
    assert (change.errors, change.congestion, change.sent) == ({}, {}, None)


@pytest.mark.parametrize("name", ["rcvd_seq_err", "out_of_seq_request", "duplicate_request", "completer_retry_err", "link_downed"])
def test_what_rxe_counts_when_packets_are_lost_is_an_error(name: str) -> None:
    [change] = delta(parse_counters(snapshot(10.0)), parse_counters(snapshot(20.0, **{name: 2})))
    assert change.errors == {name: 2}


PING = """#!/bin/sh
for w in "$@"; do [ "$last" = -c ] && n=$w; last=$w; done
case $n in 3) r={first};; *) r={second};; esac
echo "$n packets transmitted, $r received, time 400ms"
echo "rtt min/avg/max/mdev = 1.0/2.5/4.0/1.0 ms"
"""


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (3, 0, (3, 3)),  # all at once: not asked again
        (2, 5, (5, 5)),  # a late reply: ping stops to wait soon after the first one
        (2, 4, (5, 4)),  # a lost one
        (0, 5, (3, 0)),  # nothing at all: not asked again
    ],
)
def test_a_late_ping_reply_is_no_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int, told: tuple[int, int]
) -> None:
    fake = tmp_path / "ping"
    fake.write_text(PING.replace("{first}", str(first)).replace("{second}", str(second)))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = build([net.PING.with_args("eth1", "10.97.1.2", 8972)])
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    [ping] = net.parse_pings(split(done.stdout)["ping"].out)
    assert (ping.sent, ping.received) == told
